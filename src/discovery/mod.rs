//! Finding Kafka's brokers through ZooKeeper, for as long as the program runs.
//!
//! ```text
//!  ZooKeeper ──▶ registrations ──▶ the wanted endpoint of each ──▶ addresses ──▶ the producer thread ──▶ librdkafka
//! ```
//!
//! librdkafka asks one broker for all others; what it is told here is whom it may ask. So addresses are added and never taken
//! away, an address that is dead costs an attempt now and then, and as long as one of them answers, all is well. ZooKeeper may
//! be away at any time: what was heard last holds.

mod registration;
mod watch;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

pub use registration::{Broker, Choice, Endpoint, RegistrationError};
pub use watch::{Addresses, Found, Watch, look};

use crate::config::Kafka;
use crate::zookeeper::Ensemble;

/// Where to look, and for what.
#[derive(Debug, Clone)]
pub struct Discovery {
    zookeeper: Ensemble,
    choice: Choice,
}

impl Discovery {
    /// As the configuration has it, if it names a ZooKeeper.
    #[must_use]
    pub fn of(kafka: &Kafka) -> Option<Self> {
        let zookeeper = kafka.zookeeper.as_ref()?.get_ref().clone();
        let choice = match &kafka.listener {
            Some(listener) => Choice::Named(listener.get_ref().clone()),
            None => {
                let protocol = kafka.property("security.protocol").unwrap_or("PLAINTEXT");
                Choice::Protocol(protocol.to_ascii_uppercase())
            }
        };
        Some(Self { zookeeper, choice })
    }

    /// Where it looks.
    #[must_use]
    pub fn zookeeper(&self) -> &Ensemble {
        &self.zookeeper
    }

    /// Which of a broker's endpoints it takes.
    #[must_use]
    pub fn choice(&self) -> &Choice {
        &self.choice
    }
}
