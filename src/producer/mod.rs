//! The producer thread: batches in, Kafka messages out, acknowledgements back.
//!
//! Lines go to the partition that follows from their number ([`Boot::partition`]), without a copy: a batch stays where it is
//! until every line of it is acknowledged, or lost and counted.

mod brokers;
mod client;
mod headers;
mod in_flight;
pub mod mock;
mod pool;
mod probe;
mod properties;
mod protocol;
mod sender;

pub use pool::{Inlet, Outlet, channel};
pub use probe::{Probe, probe};

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use thiserror::Error;

use self::brokers::Brokers;
use self::sender::Sender;
use crate::config::Kafka;
use crate::counters::Counters;
use crate::discovery::Addresses;
use crate::fault::Fault;
use crate::message::Boot;

/// A producer that cannot start.
#[derive(Debug, Error)]
pub enum ProducerError {
    /// librdkafka does not take a property.
    #[error("kafka.properties: `{name}`: {reason}")]
    Property {
        /// The property.
        name: String,
        /// What is wrong; never a secret's value.
        reason: String,
    },
    /// A topic's name is not taken.
    #[error("the topic `{0}` is refused by librdkafka")]
    Topic(String),
    /// librdkafka did not start.
    #[error("starting librdkafka: {0}")]
    Start(String),
}

/// Whether a producer can be made of the properties in a configuration.
///
/// # Errors
///
/// [`ProducerError::Property`] for one that librdkafka does not take, or that would break what this program promises.
pub fn check(kafka: &Kafka) -> Result<(), ProducerError> {
    client::check(&properties::complete(kafka)?)
}

/// Tells the producer, or the writer, to come to an end, or to make haste.
#[derive(Debug, Default)]
pub struct Stop {
    asked: AtomicBool,
    state: Mutex<Wishes>,
}

#[derive(Debug, Default)]
struct Wishes {
    deadline: Option<Instant>,
    hurry_until: Option<Instant>,
    thread: Option<Thread>,
}

impl Stop {
    /// Asks for an end once everything is acknowledged, at `deadline` at the latest. Nothing may be sent to the inlet any
    /// more.
    pub fn ask(&self, deadline: Instant) {
        self.wish(|wishes| wishes.deadline = Some(deadline));
    }

    /// Asks that lines do not linger until then: somebody waits for them to be acknowledged.
    pub fn hurry(&self, until: Instant) {
        self.wish(|wishes| wishes.hurry_until = Some(until));
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        let mut wishes = self.wishes();
        change(&mut wishes);
        self.asked.store(true, Ordering::Release);
        if let Some(thread) = &wishes.thread {
            thread.unpark();
        }
    }

    /// Says which thread to wake.
    pub(crate) fn begin(&self) {
        self.wishes().thread = Some(thread::current());
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        // In the common case nobody has wished anything, and no lock is taken.
        if self.asked.load(Ordering::Acquire) { self.wishes().deadline } else { None }
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.asked.load(Ordering::Acquire) && {
            let wishes = self.wishes();
            wishes.deadline.is_some() || wishes.hurry_until.is_some_and(|until| Instant::now() < until)
        }
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What the producer thread owns.
#[derive(Debug)]
pub struct Producer {
    sender: Sender,
}

/// How long the thread rests after a panic.
const REST: Duration = Duration::from_millis(100);

impl Producer {
    /// Starts librdkafka. Its threads belong to this process: after a fork there are none. Kafka need not be there.
    ///
    /// `streams` are names and topics, in the order of the configuration; `addresses` is where brokers are found beside those of
    /// the configuration.
    ///
    /// # Errors
    ///
    /// [`ProducerError`] for properties that librdkafka does not take, or that would break what this program promises.
    pub fn new(
        kafka: &Kafka,
        addresses: Arc<Addresses>,
        host: &str,
        boot: Boot,
        streams: Vec<(String, String)>,
        counters: Arc<Counters>,
        inlet: Inlet,
    ) -> Result<Self, ProducerError> {
        let properties = properties::complete(kafka)?;
        let brokers = Brokers::new(kafka.bootstrap.get_ref().clone(), addresses);
        let fault = Fault::from_environment();
        Ok(Self { sender: Sender::new(properties, brokers, host, boot, streams, counters, inlet, fault)? })
    }

    /// The thread's body: sends until told to stop. A panic is caught, counted, and survived: what it had in hand is lost
    /// and counted, everything else goes on.
    pub fn run(&mut self, stop: &Stop) {
        stop.begin();
        while catch_unwind(AssertUnwindSafe(|| self.sender.run(stop))).is_err() {
            self.sender.after_panic();
            thread::sleep(REST);
        }
    }
}
