//! Counters: what happened, by stream and cause. Every loss is one of these numbers.
//!
//! They are plain atomics: the reader and the producer thread add, and whoever shows them (`varnishstat`, the log,
//! the table of `kafkalog replay`) reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the counter.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The count so far.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a numbered line did not reach Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum LossCause {
    /// No room was left for unacknowledged lines (`journal.max_bytes`).
    Backlog,
    /// The line is larger than Kafka or this program takes.
    TooLarge,
    /// Kafka does not have the topic or the partition.
    UnknownTopic,
    /// Kafka refused the message or the delivery failed for good; or nobody takes what a stream writes.
    Refused,
    /// The process ended before Kafka acknowledged.
    Shutdown,
    /// A defect in this program: the thread that had the line panicked.
    Panic,
}

impl LossCause {
    /// All causes, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Backlog, Self::TooLarge, Self::UnknownTopic, Self::Refused, Self::Shutdown, Self::Panic];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::TooLarge => "too_large",
            Self::UnknownTopic => "unknown_topic",
            Self::Refused => "refused",
            Self::Shutdown => "shutdown",
            Self::Panic => "panic",
        }
    }
}

/// What happened to one stream's lines.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Sequence numbers given, whatever became of the line.
    pub lines: Counter,
    /// Lines that Kafka acknowledged, or that were written to where the stream goes.
    pub acknowledged: Counter,
    /// Bytes of the lines that Kafka acknowledged.
    pub acknowledged_bytes: Counter,
    /// Lines that were acknowledged by brokers too old to keep their numbers: one that comes twice cannot be told downstream.
    pub unnumbered: Counter,
    lost: [Counter; LossCause::ALL.len()],
}

impl StreamCounters {
    /// Counts lost lines.
    pub fn lose(&self, cause: LossCause, lines: u64) {
        self.lost[cause as usize].add(lines);
    }

    /// Lines lost for this cause.
    #[must_use]
    pub fn lost(&self, cause: LossCause) -> u64 {
        self.lost[cause as usize].get()
    }

    /// Lines lost for any cause.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        self.lost.iter().map(Counter::get).sum()
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// As it was set last.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The salt that addresses are hashed under, looked at once a second.
#[derive(Debug, Default)]
pub struct SaltCounters {
    /// The current epoch.
    pub epoch: Gauge,
    /// The salt's generation; 0 for a salt of this node, or none.
    pub generation: Gauge,
    /// 1 while the salt is the one that the cluster's nodes share.
    pub shared: Gauge,
    /// Seconds since the epoch began.
    pub age_seconds: Gauge,
    /// Seconds until the next one.
    pub rotation_seconds: Gauge,
    /// 1 while there is a session with ZooKeeper.
    pub connected: Gauge,
    /// Milliseconds by which this machine's clock and ZooKeeper's are apart at least, when this node last wrote there.
    pub clock_skew_milliseconds: Gauge,
    /// Messages in ZooKeeper that were not written with the cluster's key.
    pub refused: Counter,
    /// Salts that this node made and the cluster took.
    pub proposed: Counter,
    /// Salts that this node got from others.
    pub received: Counter,
    /// Times that this node gave a salt to another.
    pub answered: Counter,
}

/// What happened since the engine started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Of the process, where the salts are kept by a thread.
    pub salt: Arc<SaltCounters>,
    /// By stream, in the order of the configuration.
    pub streams: Vec<StreamCounters>,
    /// Transactions that ended and were offered to the streams.
    pub transactions: Counter,
    /// Transactions rendered before their end: too many at a time, too long, too large, or cut by a break in the log.
    pub incomplete: Counter,
    /// Times that varnishd overwrote records before they were read.
    pub overruns: Counter,
    /// Segments of the log (eight make the whole) skipped by overruns.
    pub overrun_segments: Counter,
    /// Times that a new child's log was attached to.
    pub reacquired: Counter,
    /// Milliseconds for which brokers have throttled this client: its quota (KIP-13) is less than the lines need.
    pub throttled_milliseconds: Counter,
    /// Panics caught in a thread, which was started again.
    pub panics: Counter,
    /// Bytes held by lines that are not acknowledged yet. The only one that also shrinks.
    pub backlog_bytes: AtomicU64,
}

impl Counters {
    /// Zeros, for this many streams.
    #[must_use]
    pub fn new(streams: usize) -> Self {
        Self { streams: (0..streams).map(|_| StreamCounters::default()).collect(), ..Self::default() }
    }

    /// The same, with the process's numbers of the salt.
    #[must_use]
    pub fn with_salt(self, salt: Arc<SaltCounters>) -> Self {
        Self { salt, ..self }
    }

    /// Lines of all streams that are neither acknowledged nor lost.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        // Read in this order, so that a line that is being acknowledged meanwhile is not missed.
        let settled: u64 = self.streams.iter().map(|stream| stream.acknowledged.get() + stream.lost_total()).sum();
        let lines: u64 = self.streams.iter().map(|stream| stream.lines.get()).sum();
        lines.saturating_sub(settled)
    }
}
