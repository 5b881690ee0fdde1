//! The Kafka side: a member of a consumer group, whose partitions come and go.
//!
//! Partitions are handed over all at once (the eager protocol): before a new assignment every member gives up all it has.
//! librdkafka tells of that from inside of a poll and then waits until it is answered. The answer here is not given there
//! but by whoever polls, who owns the open chunks and closes them first: [`Subscription::rebalance`] has the question,
//! [`Subscription::assign`] and [`Subscription::release`] are the answers.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kafkalog::message::{Boot, HEADER_BOOT, HEADER_HOST, HEADER_SEQUENCE, HEADER_STREAM};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, error, info, warn};

use crate::accounting::Numbered;
use crate::config::Kafka;

/// How long a question to the brokers may take before it is asked again.
const ANSWER: Duration = Duration::from_secs(10);

/// Lines of one kind that librdkafka may write to the log in [`LOG_PERIOD`]: an outage makes it repeat itself.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// A topic and the number of a partition.
pub type TopicPartition = (String, i32);

/// What the group wants of this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebalance {
    /// These are its partitions from now on, and no others.
    Assign(Vec<TopicPartition>),
    /// It is to give up all that it has.
    Revoke,
}

/// Offsets that Kafka has of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The lowest, the retention having deleted what was below.
    pub low: i64,
    /// The one that the next message gets.
    pub high: i64,
}

/// A member of the consumer group.
pub struct Subscription {
    consumer: BaseConsumer<Context>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

/// librdkafka's configuration for a connection to the cluster.
#[must_use]
pub fn client_config(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in &kafka.properties {
        config.set(key.get_ref(), value);
    }
    config.set("bootstrap.servers", kafka.bootstrap.get_ref().join(","));
    if !kafka.properties.contains_key("client.id") {
        config.set("client.id", "kafkalog-sink");
    }
    config
}

impl Subscription {
    /// Joins the group, which takes place in the background: the partitions come as a [`Rebalance`].
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when librdkafka refuses the configuration.
    pub fn start<'a>(kafka: &Kafka, topics: impl Iterator<Item = &'a str>) -> KafkaResult<Self> {
        let consumer: BaseConsumer<Context> = client_config(kafka)
            .set("group.id", kafka.group.get_ref())
            .set("partition.assignment.strategy", "range,roundrobin")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .create_with_context(Context::default())?;
        consumer.subscribe(&topics.collect::<Vec<_>>())?;
        Ok(Self { consumer })
    }

    /// The next message; `None` when none came in time, and whenever there is a [`Rebalance`] to be answered.
    ///
    /// # Errors
    ///
    /// [`KafkaError::MessageConsumptionFatal`] when the consumer is of no use any more; others pass, and are in the log.
    pub fn poll(&self, timeout: Duration) -> KafkaResult<Option<BorrowedMessage<'_>>> {
        match self.consumer.poll(timeout) {
            Some(Ok(message)) => Ok(Some(message)),
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => Err(error),
            // Those that matter have been through the context's `error`.
            Some(Err(error)) => {
                debug!(%error, "reading");
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// The oldest unanswered question. Until it is answered nothing more happens in the group.
    #[must_use]
    pub fn rebalance(&self) -> Option<Rebalance> {
        lock(&self.consumer.context().rebalances).pop_front()
    }

    /// Asks the question again, unless the group has another one meanwhile.
    pub fn defer(&self, rebalance: Rebalance) {
        let mut rebalances = lock(&self.consumer.context().rebalances);
        if rebalances.is_empty() {
            rebalances.push_back(rebalance);
        }
    }

    /// Whether the partitions are somebody else's already: nothing of them may be published then.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.consumer.assignment_lost()
    }

    /// The committed offset of each partition that has one.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when the group's coordinator does not answer.
    pub fn committed(&self, partitions: &[TopicPartition]) -> KafkaResult<HashMap<TopicPartition, i64>> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
        }
        let mut committed = HashMap::new();
        for element in self.consumer.committed_offsets(list, ANSWER)?.elements() {
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                committed.insert((element.topic().to_owned(), element.partition()), offset);
            }
        }
        Ok(committed)
    }

    /// The offsets that Kafka has of a partition.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when the partition's leader does not answer.
    pub fn range(&self, (topic, partition): &TopicPartition) -> KafkaResult<Range> {
        let (low, high) = self.consumer.fetch_watermarks(topic, *partition, ANSWER)?;
        Ok(Range { low, high })
    }

    /// Takes the partitions, each from its offset on, or from the oldest message on.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when librdkafka refuses; nothing is assigned then.
    pub fn assign<'a>(&self, partitions: impl Iterator<Item = (&'a TopicPartition, Option<i64>)>) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in partitions {
            list.add_partition_offset(topic, *partition, offset.map_or(Offset::Beginning, Offset::Offset))?;
        }
        self.consumer.assign(&list)
    }

    /// Gives up all partitions.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when librdkafka refuses.
    pub fn release(&self) -> KafkaResult<()> {
        self.consumer.unassign()
    }

    /// Commits offsets: of each partition, that of the message to go on with. Waits for the coordinator's answer.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when the coordinator refuses or does not answer within the session's time-out.
    pub fn commit<'a>(&self, offsets: impl Iterator<Item = (&'a str, i32, i64)>) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (topic, partition, offset) in offsets {
            list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        }
        self.consumer.commit(&list, CommitMode::Sync)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The consumer's own drop leaves the group and polls until that is done; nobody answers but the context.
        self.consumer.context().closing.store(true, Ordering::Release);
    }
}

/// Who numbered a message's line; `None` unless all the headers are there and of their form.
#[must_use]
pub fn numbered<'a>(message: &'a BorrowedMessage<'_>) -> Option<Numbered<'a>> {
    // rdkafka panics at a header whose name is not UTF-8, which any producer may send.
    catch_unwind(AssertUnwindSafe(|| message.headers().and_then(read_headers))).ok().flatten()
}

fn read_headers<H: Headers>(headers: &H) -> Option<Numbered<'_>> {
    let (mut host, mut boot, mut stream, mut sequence) = (None, None, None, None);
    for header in headers.iter() {
        match header.key {
            HEADER_HOST => host = header.value,
            HEADER_BOOT => boot = header.value.and_then(Boot::from_bytes),
            HEADER_STREAM => stream = header.value,
            HEADER_SEQUENCE => sequence = header.value.and_then(|value| value.try_into().ok()).map(u64::from_be_bytes),
            _ => {}
        }
    }
    Some(Numbered { host: host?, boot: boot?, stream: stream?, sequence: sequence? })
}

/// What librdkafka calls back.
#[derive(Debug, Default)]
struct Context {
    rebalances: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
    repeats: Mutex<Repeats>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        if matches!(level, RDKafkaLogLevel::Debug) {
            debug!(facility, "librdkafka: {text}");
            return;
        }
        let Some(suppressed) = lock(&self.repeats).admit(facility, Instant::now()) else { return };
        match level {
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => info!(facility, suppressed, "librdkafka: {text}"),
            RDKafkaLogLevel::Warning => warn!(facility, suppressed, "librdkafka: {text}"),
            _ => error!(facility, suppressed, "librdkafka: {text}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(suppressed) = lock(&self.repeats).admit("error", Instant::now()) {
            error!(%error, suppressed, "Kafka: {reason}");
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Acquire) {
            if let Err(error) = consumer.unassign() {
                warn!(%error, "giving up the partitions while leaving the group");
            }
            return;
        }
        lock(&self.rebalances).push_back(match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assign(
                list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect(),
            ),
            _ => Rebalance::Revoke,
        });
    }
}

/// Keeps log lines of one kind apart.
#[derive(Debug, Default)]
pub struct Repeats {
    kinds: HashMap<String, (Instant, u64)>,
}

impl Repeats {
    /// Whether a line of this kind may be written now: if so, how many were not since the one before.
    pub fn admit(&mut self, kind: &str, now: Instant) -> Option<u64> {
        match self.kinds.get_mut(kind) {
            Some((latest, suppressed)) if now.saturating_duration_since(*latest) < LOG_PERIOD => {
                *suppressed += 1;
                None
            }
            Some((latest, suppressed)) => {
                *latest = now;
                Some(std::mem::take(suppressed))
            }
            None => {
                self.kinds.insert(kind.to_owned(), (now, 0));
                Some(0)
            }
        }
    }
}

/// Nothing that is locked here is left half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;

    fn headers(pairs: &[(&str, &[u8])]) -> OwnedHeaders {
        pairs
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }))
    }

    #[test]
    fn all_four_headers_number_a_line() {
        let boot = Boot::begin();
        let sequence = 4_711_u64.to_be_bytes();
        let pairs: [(&str, &[u8]); 5] = [
            (HEADER_SEQUENCE, &sequence),
            ("kl-salt", b"1.1-00000000"),
            (HEADER_HOST, b"cp3030"),
            (HEADER_BOOT, boot.as_bytes()),
            (HEADER_STREAM, b"webrequest"),
        ];
        let complete = headers(&pairs);
        let expected = Numbered { host: b"cp3030", boot, stream: b"webrequest", sequence: 4_711 };
        assert_eq!(read_headers(&complete), Some(expected));
        for left_out in [0, 2, 3, 4] {
            let mut pairs = pairs.to_vec();
            pairs.remove(left_out);
            assert_eq!(read_headers(&headers(&pairs)), None, "{left_out}");
        }
    }

    #[test]
    fn headers_of_another_form_number_nothing() {
        let boot = Boot::begin();
        for (boot, sequence) in
            [(&boot.as_bytes()[..15], &[0_u8; 8][..]), (boot.as_bytes(), &[0; 7]), (boot.as_bytes(), b"12345678x")]
        {
            let pairs: [(&str, &[u8]); 4] =
                [(HEADER_HOST, b"h"), (HEADER_BOOT, boot), (HEADER_STREAM, b"s"), (HEADER_SEQUENCE, sequence)];
            assert_eq!(read_headers(&headers(&pairs)), None);
        }
    }

    #[test]
    fn repeated_log_lines_are_counted() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        assert_eq!(repeats.admit("FAIL", start), Some(0));
        assert_eq!(repeats.admit("FAIL", start + LOG_PERIOD / 2), None);
        assert_eq!(repeats.admit("OTHER", start + LOG_PERIOD / 2), Some(0));
        assert_eq!(repeats.admit("FAIL", start + LOG_PERIOD), Some(1));
        assert_eq!(repeats.admit("FAIL", start + LOG_PERIOD), None);
    }
}
