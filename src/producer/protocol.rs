//! Which of Kafka's protocols the cluster speaks: what it told, or failed to tell.
//!
//! From 0.11 on brokers keep headers and know idempotent producers (KIP-98, KIP-82). Those of 0.10 tell that they do not
//! (`ApiVersions`, KIP-35), upon which librdkafka gives up for good. Older ones close the connection on that very question, and
//! librdkafka asks it again for ever.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

/// A cluster that was never heard of and has refused the question may be an old one: it is spoken to as such after this time …
const SUSPECT: Duration = Duration::from_secs(5);

/// … and if it is not heard of then either, as a new one again after this.
const RETRY: Duration = Duration::from_secs(15);

/// What brokers understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// 0.11 and later: numbers of producers, and headers with numbers of lines.
    Current,
    /// 0.10: neither.
    Unnumbered,
    /// 0.8.2 and 0.9: neither, and they cannot be asked.
    Oldest,
}

impl Protocol {
    /// Whether messages may carry headers, so that lines that come twice can be told downstream.
    pub(super) fn has_headers(self) -> bool {
        self == Self::Current
    }

    /// Properties that take the place of others.
    fn properties(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Current => &[],
            // Without a producer's numbers, a retry may pass what was sent after it: nothing is.
            Self::Unnumbered => &[("enable.idempotence", "false"), ("max.in.flight.requests.per.connection", "1")],
            Self::Oldest => &[
                ("enable.idempotence", "false"),
                ("max.in.flight.requests.per.connection", "1"),
                ("api.version.request", "false"),
                ("broker.version.fallback", "0.8.2"),
            ],
        }
    }
}

/// Finds it out.
#[derive(Debug)]
pub(super) struct Detection {
    protocol: Protocol,
    /// The cluster has answered: it is what it is.
    heard: bool,
    /// When a broker first refused to tell its versions.
    refused: Option<Instant>,
    /// When this protocol was first spoken.
    since: Instant,
}

impl Detection {
    /// What the properties say: whoever does not want versions to be asked for has brokers that do not know them.
    pub(super) fn new(properties: &BTreeMap<String, String>) -> Self {
        let is_oldest = properties.get("api.version.request").is_some_and(|value| value == "false");
        let protocol = if is_oldest { Protocol::Oldest } else { Protocol::Current };
        Self { protocol, heard: false, refused: None, since: Instant::now() }
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The properties of a client that speaks it.
    pub(super) fn apply(&self, properties: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut properties = properties.clone();
        for (name, value) in self.protocol.properties() {
            let is_given = *name == "broker.version.fallback" && properties.contains_key(*name);
            if !is_given {
                properties.insert((*name).to_owned(), (*value).to_owned());
            }
        }
        properties
    }

    /// The cluster has answered.
    pub(super) fn heard(&mut self) {
        if !self.heard && self.protocol == Protocol::Oldest {
            say_old();
        }
        self.heard = true;
    }

    /// The client has failed for good. Whether that is because the brokers are too old, and the next one is to be another.
    pub(super) fn failed(&mut self, code: RDKafkaErrorCode) -> bool {
        let is_old = code == RDKafkaErrorCode::UnsupportedFeature && self.protocol == Protocol::Current;
        if is_old {
            self.speak(Protocol::Unnumbered);
            say_old();
        }
        is_old
    }

    /// Whether it is time to try another protocol, which the next client is to speak; a broker may have refused to tell its
    /// versions to the present one.
    pub(super) fn changes(&mut self, refused: bool, now: Instant) -> bool {
        if self.heard {
            return false;
        }
        if refused && self.protocol == Protocol::Current {
            self.refused.get_or_insert(now);
        }
        match self.protocol {
            Protocol::Current if self.refused.is_some_and(|refused| now.duration_since(refused) >= SUSPECT) => {
                tracing::warn!("no broker tells which versions it knows: they are spoken to as to 0.8.2");
                self.speak(Protocol::Oldest);
            }
            // Only if it came to this by suspicion.
            Protocol::Oldest if self.refused.is_some() && now.duration_since(self.since) >= RETRY => {
                tracing::warn!("no broker answers as one of 0.8.2: they are spoken to as to current ones");
                self.speak(Protocol::Current);
            }
            _ => return false,
        }
        true
    }

    fn speak(&mut self, protocol: Protocol) {
        (self.protocol, self.since) = (protocol, Instant::now());
        if protocol == Protocol::Current {
            self.refused = None;
        }
    }
}

/// What the brokers' age costs.
fn say_old() {
    tracing::warn!(
        "these brokers are older than 0.11: messages have no headers, so that lines that come twice after a failure cannot \
         be told from others downstream"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(properties: &[(&str, &str)]) -> Detection {
        Detection::new(&properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn brokers_that_know_no_producers_get_no_numbers() {
        let mut detection = detection(&[]);
        assert!(!detection.failed(RDKafkaErrorCode::OutOfOrderSequenceNumber));
        assert!(detection.failed(RDKafkaErrorCode::UnsupportedFeature));
        assert!(!detection.protocol().has_headers());
        assert_eq!(detection.apply(&BTreeMap::new())["enable.idempotence"], "false");
        assert!(!detection.failed(RDKafkaErrorCode::UnsupportedFeature), "it was spoken to rightly");
    }

    #[test]
    fn brokers_that_hang_up_are_taken_for_old_ones_unless_they_have_answered() {
        let mut detection = detection(&[("linger.ms", "5")]);
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert!(!detection.changes(false, later(60)));
        assert!(!detection.changes(true, later(1)) && detection.changes(true, later(7)));
        assert_eq!(detection.protocol(), Protocol::Oldest);
        assert!(!detection.changes(false, later(10)) && detection.changes(false, later(16)));
        assert_eq!(detection.protocol(), Protocol::Current);
        assert!(!detection.changes(true, later(1)));
        detection.heard();
        assert!(!detection.changes(true, later(60)));
    }

    #[test]
    fn the_configuration_may_know_better() {
        let properties = [("api.version.request", "false"), ("broker.version.fallback", "0.9.0")];
        let mut detection = detection(&properties);
        let given = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(detection.apply(&given)["broker.version.fallback"], "0.9.0");
        assert!(!detection.changes(true, Instant::now() + Duration::from_secs(600)));
    }
}
