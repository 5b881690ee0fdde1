//! `kafkalog-sink check`: would it run?

use std::io::{self, Write};
use std::time::Duration;

use kafkalog::message::Boot;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;

use crate::config::Config;
use crate::consumer::client_config;
use crate::path;
use crate::store::{self, Operation, Store, StoreError};

/// How long the brokers have for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Tries everything that a run needs, and writes a line for each to `output`: `✓` for what is right, `✗` for what is not,
/// with the reason. `true` when all is right.
///
/// It leaves nothing behind but the tables' directories.
///
/// # Errors
///
/// What `output` said.
pub fn check(config: &Config, output: &mut dyn Write) -> io::Result<bool> {
    let mut report = Report { output, right: true };
    report.line("the configuration is valid", None::<&str>)?;
    match brokers(config) {
        Ok(metadata) => {
            let count = metadata.brokers().len();
            report.line(
                &format!("Kafka answers, with {count} broker{}", if count == 1 { "" } else { "s" }),
                None::<&str>,
            )?;
            for topic in config.topics() {
                match partitions(&metadata, topic) {
                    Ok(count) => report.line(&format!("topic {topic} has {count} partitions"), None::<&str>)?,
                    Err(reason) => report.line(&format!("topic {topic}"), Some(reason))?,
                }
            }
        }
        Err(error) => report.line(&format!("Kafka at {}", config.kafka.bootstrap.get_ref().join(",")), Some(error))?,
    }
    let store = store::open(&config.store);
    for table in config.tables.get_ref() {
        let name = table.name.get_ref();
        match try_writing(&*store, name) {
            Ok(()) => report.line(&format!("{} is writable", store.locate(name)), None::<&str>)?,
            Err(error) => report.line(&format!("table {name}"), Some(error))?,
        }
    }
    Ok(report.right)
}

struct Report<'a> {
    output: &'a mut dyn Write,
    right: bool,
}

impl Report<'_> {
    fn line(&mut self, what: &str, wrong: Option<impl std::fmt::Display>) -> io::Result<()> {
        match wrong {
            None => writeln!(self.output, "✓ {what}"),
            Some(reason) => {
                self.right = false;
                writeln!(self.output, "✗ {what}: {reason}")
            }
        }
    }
}

fn brokers(config: &Config) -> Result<Metadata, KafkaError> {
    let consumer: BaseConsumer = client_config(&config.kafka).create()?;
    // All topics: asked for one, a broker may make it.
    consumer.fetch_metadata(None, ANSWER)
}

fn partitions(metadata: &Metadata, name: &str) -> Result<usize, String> {
    let topic = metadata.topics().iter().find(|topic| topic.name() == name);
    match topic {
        None => Err("there is no such topic, or this client may not see it".to_owned()),
        Some(topic) => match topic.error() {
            Some(error) => Err(rdkafka::error::RDKafkaErrorCode::from(error).to_string()),
            None => Ok(topic.partitions().len()),
        },
    }
}

fn try_writing(store: &dyn Store, table: &str) -> Result<(), StoreError> {
    let directory = path::temporary_directory(table);
    store.make_directories(&directory)?;
    let path = format!("{directory}/check-{}", Boot::begin());
    let failed = |operation, source| store.failed(operation, &path, source);
    let mut file = store.create(&path)?;
    file.write_all(b"kafkalog-sink check\n").map_err(|source| failed(Operation::Write, source))?;
    file.sync_and_close().map_err(|source| failed(Operation::SyncAndClose, source))?;
    store.delete(&path)
}
