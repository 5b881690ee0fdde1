//! Reads a topic's messages back, whatever they are.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::wait;

/// For the broker to answer. It is on the same machine.
const ANSWER: Duration = Duration::from_secs(20);

/// What a client says when it loses a broker, or all.
const UNREACHABLE: [RDKafkaErrorCode; 2] = [RDKafkaErrorCode::BrokerTransportFailure, RDKafkaErrorCode::AllBrokersDown];

/// A message of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it is.
    pub partition: i32,
    /// Where it is in the partition.
    pub offset: i64,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its payload; empty if it has none.
    pub payload: Vec<u8>,
    /// Its headers; none have messages of Kafka before 0.11. The last one of a name counts.
    pub headers: BTreeMap<String, Vec<u8>>,
}

impl Message {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().unwrap_or_default().to_vec(),
            headers: headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect(),
        }
    }
}

/// Reads a topic from its beginning on, as a client that belongs to no group.
pub struct Reader {
    consumer: BaseConsumer,
    name: String,
    /// The offset behind the last message that was read, by partition.
    next: Vec<i64>,
}

impl std::fmt::Debug for Reader {
    /// librdkafka's client has no `Debug`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reader").field("name", &self.name).field("next", &self.next).finish_non_exhaustive()
    }
}

impl Reader {
    /// Nothing has been read yet. `client` says where Kafka is, and how to speak to it.
    ///
    /// # Errors
    ///
    /// When librdkafka does not start.
    pub fn new(mut client: ClientConfig, name: &str, partitions: u16) -> anyhow::Result<Self> {
        let consumer: BaseConsumer = client
            // One is asked for; partitions are assigned, so it has no members.
            .set("group.id", "tests")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "20")
            .create()
            .context("starting a consumer")?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(name, partition.into(), Offset::Beginning).context("listing partitions")?;
        }
        consumer.assign(&list).context("assigning partitions")?;
        Ok(Self { consumer, name: name.to_owned(), next: vec![0; partitions.into()] })
    }

    /// Gives all messages to `take` that are in the topic now, and were not given before.
    ///
    /// # Errors
    ///
    /// When Kafka does not answer in time, and what `take` fails with.
    pub fn each(
        &mut self,
        stop: &AtomicBool,
        mut take: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut ends = Vec::new();
        for partition in 0..self.next.len() {
            let marks = self.consumer.fetch_watermarks(&self.name, partition as i32, ANSWER);
            ends.push(marks.with_context(|| format!("asking for the end of partition {partition}"))?.1);
        }
        wait::until("the topic's messages", ANSWER, stop, || {
            while let Some(message) = self.consumer.poll(Duration::ZERO) {
                let message = match message {
                    // Some brokers may be down. If nobody answers, the limit ends it.
                    Err(error) if error.rdkafka_error_code().is_some_and(|code| UNREACHABLE.contains(&code)) => {
                        continue;
                    }
                    message => message.context("reading the topic")?,
                };
                self.next[message.partition() as usize] = message.offset() + 1;
                take(&message).with_context(|| {
                    format!("the message at offset {} of partition {}", message.offset(), message.partition())
                })?;
            }
            Ok(self.next.iter().zip(&ends).all(|(next, end)| next >= end).then_some(()))
        })
    }

    /// All messages that are in the topic now, and were not read before.
    ///
    /// # Errors
    ///
    /// When Kafka does not answer in time.
    pub fn read_to_end(&mut self, stop: &AtomicBool) -> anyhow::Result<Vec<Message>> {
        let mut messages = Vec::new();
        self.each(stop, |message| {
            messages.push(Message::of(message));
            Ok(())
        })?;
        Ok(messages)
    }
}
