//! The lines in a Kafka topic, by who numbered them and by the number that the load gave their requests.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use kafkalog::message::{Boot, HEADER_BOOT, HEADER_HOST, HEADER_SEQUENCE, HEADER_STREAM};
use rdkafka::ClientConfig;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use serde_json::Value;

use crate::messages::Reader;
use crate::{addresses, records};

/// What one life of the pipeline numbered of one stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// When it began comes first, so that lives are in order.
    pub boot: Boot,
    /// The header `kl-host`.
    pub host: String,
    /// The header `kl-stream`.
    pub stream: String,
}

/// Reads a topic from its beginning on.
#[derive(Debug)]
pub struct Topic {
    reader: Reader,
    /// How often each sequence number was seen, by origin.
    pub sequences: BTreeMap<Origin, BTreeMap<u64, u64>>,
    /// How often each request's number was seen.
    pub seen: BTreeMap<u64, u64>,
    /// Lines that belong to no numbered request.
    pub unnumbered: u64,
    /// Lines in which there is a client's address.
    pub leaks: Vec<String>,
}

impl Topic {
    /// Nothing has been read yet.
    ///
    /// # Errors
    ///
    /// When librdkafka does not start.
    pub fn new(bootstrap: &str, name: &str, partitions: u16) -> anyhow::Result<Self> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", bootstrap);
        Ok(Self {
            reader: Reader::new(client, name, partitions)?,
            sequences: BTreeMap::new(),
            seen: BTreeMap::new(),
            unnumbered: 0,
            leaks: Vec::new(),
        })
    }

    /// Reads all that is in the topic now.
    ///
    /// # Errors
    ///
    /// When Kafka does not answer in time, or a line is not as it must be: a JSON object with headers.
    pub fn read_to_end(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        self.reader.each(stop, |message| {
            lines.push(Line::of(message)?);
            Ok(())
        })?;
        lines.into_iter().for_each(|line| self.take(line));
        Ok(())
    }

    /// Numbers of requests with more than one line.
    #[must_use]
    pub fn doubled(&self) -> Vec<u64> {
        self.seen.iter().filter(|(_, times)| **times > 1).map(|(number, _)| *number).collect()
    }

    /// Which of these requests have no line.
    #[must_use]
    pub fn missing(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
        numbers.into_iter().filter(|number| !self.seen.contains_key(number)).collect()
    }

    fn take(&mut self, line: Line) {
        *self.sequences.entry(line.origin).or_default().entry(line.sequence).or_default() += 1;
        match line.request {
            Some(number) => *self.seen.entry(number).or_default() += 1,
            None => self.unnumbered += 1,
        }
        self.leaks.extend(line.leak);
    }
}

/// What is kept of a line.
struct Line {
    origin: Origin,
    sequence: u64,
    request: Option<u64>,
    leak: Option<String>,
}

impl Line {
    fn of(message: &BorrowedMessage<'_>) -> anyhow::Result<Self> {
        let text = message.payload().context("it is empty")?;
        let record: Value = serde_json::from_slice(text).context("it is no JSON")?;
        let text = String::from_utf8_lossy(text);
        let headers = message.headers().context("it has no headers")?;
        let header = |name: &str| {
            let header = headers.iter().find(|header| header.key == name);
            header.and_then(|header| header.value).with_context(|| format!("it has no header {name}"))
        };
        let name = |name| anyhow::Ok(String::from_utf8_lossy(header(name)?).into_owned());
        let sequence = header(HEADER_SEQUENCE)?.try_into().map(u64::from_be_bytes);
        let sequence = sequence.with_context(|| format!("its header {HEADER_SEQUENCE} has not 8 bytes"))?;
        if record["sequence"] != sequence {
            bail!("its header says {sequence}, its text {}", record["sequence"]);
        }
        Ok(Self {
            origin: Origin {
                boot: Boot::from_bytes(header(HEADER_BOOT)?).context("its boot has not 16 bytes")?,
                host: name(HEADER_HOST)?,
                stream: name(HEADER_STREAM)?,
            },
            sequence,
            request: records::number(&record),
            leak: addresses::PREFIXES.iter().any(|prefix| text.contains(prefix)).then(|| text.into_owned()),
        })
    }
}
