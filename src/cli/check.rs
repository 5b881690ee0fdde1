//! `kafkalog check`: whether everything is there that a configuration needs.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use kafkalog::config::{Anonymize, Kafka, SaltSource};
use kafkalog::discovery::{Discovery, look};
use kafkalog::producer::{Probe, probe};
use kafkalog::salt::status;

/// How long ZooKeeper may take, and how long Kafka.
const LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Look at the file alone, and connect to nobody
    #[arg(long)]
    offline: bool,
}

/// What was found, line by line.
#[derive(Debug, Default)]
struct Report {
    crosses: usize,
}

impl Report {
    fn tick(&self, text: &str) -> anyhow::Result<()> {
        writeln!(io::stdout(), "✓ {text}").context("writing to standard output")
    }

    fn cross(&mut self, text: &str) -> anyhow::Result<()> {
        self.crosses += 1;
        writeln!(io::stdout(), "✗ {text}").context("writing to standard output")
    }
}

impl Check {
    /// A list of ticks and crosses on standard output.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let setup = super::load(&self.config)?;
        let mut report = Report::default();
        let streams = setup.config().streams.get_ref();
        report.tick(&format!("{}: {} streams", self.config.display(), streams.len()))?;
        let topics: Vec<_> =
            streams.iter().filter_map(|stream| Some(stream.topic.as_ref()?.get_ref().clone())).collect();
        if let Some(kafka) = setup.config().kafka.as_ref().filter(|_| !self.offline && !topics.is_empty()) {
            let addresses = report.zookeeper(kafka)?;
            let found = probe(kafka, &addresses, &topics, LIMIT)?;
            report.kafka(&found)?;
        }
        if setup.config().anonymize.salt_source() == SaltSource::Zookeeper && !self.offline {
            report.salt(&setup.config().anonymize)?;
        }
        match report.crosses {
            0 => Ok(()),
            1 => bail!("one thing is wrong"),
            count => bail!("{count} things are wrong"),
        }
    }
}

impl Report {
    /// Whether the salt's ZooKeeper lets this node in. That there is no salt yet is no fault: the first node makes it.
    fn salt(&mut self, anonymize: &Anonymize) -> anyhow::Result<()> {
        match status(anonymize) {
            Ok(epochs) if epochs.iter().any(|epoch| epoch.age.is_some() && epoch.salt.is_some()) => {
                self.tick("the salt: ZooKeeper has one that was written with this cluster_key")
            }
            Ok(epochs) if epochs.iter().any(|epoch| epoch.salt.is_none()) => self.cross(
                "the salt: what ZooKeeper has was not written with this cluster_key; do all nodes have the same?",
            ),
            Ok(_) => self.tick("the salt: ZooKeeper has none yet"),
            Err(why) => self.cross(&format!("the salt: {why}")),
        }
    }

    /// The addresses of the brokers that ZooKeeper tells of, if it is to be asked.
    fn zookeeper(&mut self, kafka: &Kafka) -> anyhow::Result<Vec<String>> {
        let Some(discovery) = Discovery::of(kafka) else { return Ok(Vec::new()) };
        let (zookeeper, choice) = (discovery.zookeeper(), discovery.choice());
        let found = match look(&discovery, LIMIT) {
            Ok(found) => found,
            Err(why) => {
                self.cross(&format!("ZooKeeper {zookeeper}: {why}"))?;
                return Ok(Vec::new());
            }
        };
        let mut addresses = Vec::new();
        for broker in &found {
            match broker {
                Ok(broker) => match broker.endpoint(choice) {
                    Some(endpoint) => addresses.push(endpoint.to_string()),
                    None => self.cross(&format!("broker {} has no endpoint for {choice}", broker.id))?,
                },
                Err(error) => self.cross(&error.to_string())?,
            }
        }
        match addresses.as_slice() {
            [] => self.cross(&format!("ZooKeeper {zookeeper} tells of no broker that can be used"))?,
            all => self.tick(&format!("ZooKeeper {zookeeper}: brokers at {}", all.join(", ")))?,
        }
        Ok(addresses)
    }

    fn kafka(&mut self, found: &Probe) -> anyhow::Result<()> {
        if !found.is_answered() {
            let why = found.trouble.as_deref().unwrap_or("no broker answers");
            return self.cross(&format!("Kafka: {why}"));
        }
        self.tick(match found.has_headers {
            true => "Kafka answers, and keeps the numbers of lines",
            false => {
                "Kafka answers; older than 0.11, it keeps no headers, so that lines that come twice after a failure cannot \
                 be told from others"
            }
        })?;
        for (topic, answer) in &found.topics {
            match answer {
                Some(Ok(partitions)) => self.tick(&format!("topic {topic}: {partitions} partitions"))?,
                Some(Err(why)) => self.cross(&format!("topic {topic}: {why}"))?,
                None => self.cross(&format!("topic {topic}: no answer"))?,
            }
        }
        Ok(())
    }
}
