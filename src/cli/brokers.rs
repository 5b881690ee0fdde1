//! `kafkalog brokers`: what ZooKeeper tells of Kafka's brokers.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use kafkalog::discovery::{Discovery, look};

/// How long ZooKeeper may take.
const LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct Brokers {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Brokers {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let setup = super::load(&self.config)?;
        let kafka = setup.config().kafka.as_ref().context("there is no [kafka] in the configuration")?;
        let Some(discovery) = Discovery::of(kafka) else {
            bail!("there is no kafka.zookeeper in the configuration; it lists {}", kafka.bootstrap.get_ref().join(","));
        };
        let found = look(&discovery, LIMIT).map_err(|why| anyhow::anyhow!("{}: {why}", discovery.zookeeper()))?;
        let mut out = io::stdout().lock();
        let mut usable = 0;
        for broker in &found {
            let line = match broker {
                Err(error) => format!("-\t-\t{error}"),
                Ok(broker) => {
                    let endpoint = broker.endpoint(discovery.choice());
                    usable += usize::from(endpoint.is_some());
                    let taken = endpoint.map_or_else(|| "-".to_owned(), ToString::to_string);
                    let all: Vec<_> = broker.endpoints.iter().map(|one| format!("{}={one}", one.listener)).collect();
                    format!("{}\t{taken}\t{}", broker.id, all.join(" "))
                }
            };
            writeln!(out, "{line}").context("writing to standard output")?;
        }
        match (found.len(), usable) {
            (0, _) => bail!("{} tells of no broker: is the path behind the servers right?", discovery.zookeeper()),
            (_, 0) => bail!("no broker has an endpoint for {}", discovery.choice()),
            _ => Ok(()),
        }
    }
}
