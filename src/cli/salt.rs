//! `kafkalog salt`: the salt that the cluster's nodes share.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use kafkalog::salt::{EpochStatus, status};

#[derive(Debug, Args)]
pub(super) struct Salt {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print epochs, salt ids and their holders, as ZooKeeper has them; never a salt
    Status {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

impl Salt {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let Command::Status { config } = &self.command;
        let setup = super::load(config)?;
        let anonymize = &setup.config().anonymize;
        let epochs = status(anonymize).map_err(|why| anyhow!(why))?;
        let period = anonymize.rotate.get_ref().0;
        let mut out = io::stdout().lock();
        for epoch in &epochs {
            writeln!(out, "{}", line(epoch, period)).context("writing to standard output")?;
        }
        let is_current = |epoch: &&EpochStatus| epoch.age.is_some_and(|age| age < period);
        match epochs.iter().find(is_current) {
            None => bail!("no node has made a salt for the current epoch: does any run with this configuration?"),
            Some(EpochStatus { salt: None, .. }) => {
                bail!("the current epoch's register was not written with this cluster_key: do all nodes have the same?")
            }
            Some(EpochStatus { holders, .. }) if holders.is_empty() => bail!("no node holds the current salt"),
            Some(_) => Ok(()),
        }
    }
}

/// `epoch TAB state TAB salt id TAB members TAB leader TAB requests`
fn line(status: &EpochStatus, period: std::time::Duration) -> String {
    let state = match status.age {
        None => "next".to_owned(),
        Some(age) if age < period => format!("current for {} s", age.as_secs()),
        Some(_) => "over".to_owned(),
    };
    let salt = status.salt.map_or_else(|| "not this cluster's".to_owned(), |id| id.to_string());
    let leader = status.holders.first().map_or("-", String::as_str);
    let members = status.holders.join(",");
    format!(
        "{}\t{state}\tsalt {salt}\tmembers {}: {members}\tanswering first {leader}\trequests {}",
        status.epoch,
        status.holders.len(),
        status.requests
    )
}
