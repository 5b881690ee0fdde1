//! The producer thread: batches in, Kafka messages out, acknowledgements back.
//!
//! Lines go to the partition that follows from their number ([`Boot::partition`]), without a copy: a batch stays where it is
//! until every line of it is acknowledged, or lost and counted.

mod client;
mod in_flight;
pub mod mock;
mod pool;
mod properties;
mod sender;

pub use pool::{Inlet, Outlet, channel};

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thiserror::Error;

use self::client::Client;
use self::sender::Sender;
use crate::config::Kafka;
use crate::counters::Counters;
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

/// Tells the producer to come to an end.
#[derive(Debug, Default)]
pub struct Stop {
    asked: AtomicBool,
    deadline: Mutex<Option<Instant>>,
}

impl Stop {
    /// Asks for an end once everything is acknowledged, at `deadline` at the latest. Nothing may be sent to the inlet any
    /// more.
    pub fn ask(&self, deadline: Instant) {
        *self.deadline.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(deadline);
        self.asked.store(true, Ordering::Release);
    }

    fn deadline(&self) -> Option<Instant> {
        if !self.asked.load(Ordering::Acquire) {
            return None;
        }
        *self.deadline.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
    /// `streams` are names and topics, in the order of the configuration.
    ///
    /// # Errors
    ///
    /// [`ProducerError`] for properties that librdkafka does not take, or that would break what this program promises.
    pub fn new(
        kafka: &Kafka,
        host: &str,
        boot: Boot,
        streams: Vec<(String, String)>,
        counters: Arc<Counters>,
        inlet: Inlet,
    ) -> Result<Self, ProducerError> {
        let properties: BTreeMap<String, String> = properties::complete(kafka)?;
        let topics: Vec<String> = streams.iter().map(|(_, topic)| topic.clone()).collect();
        let client = Client::start(&properties, &topics)?;
        let fault = Fault::from_environment();
        let sender = Sender::new(client, properties, host, boot, streams, counters, inlet, fault);
        Ok(Self { sender })
    }

    /// The thread's body: sends until told to stop. A panic is caught, counted, and survived: what it had in hand is lost
    /// and counted, everything else goes on.
    pub fn run(&mut self, stop: &Stop) {
        while catch_unwind(AssertUnwindSafe(|| self.sender.run(stop))).is_err() {
            self.sender.after_panic();
            std::thread::sleep(REST);
        }
    }
}
