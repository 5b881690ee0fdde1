//! Whether a cluster is there, lets this client in, and has the topics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::ProducerError;
use super::client::{Client, Event};
use super::properties::{self, BOOTSTRAP};
use super::protocol::Detection;
use crate::config::Kafka;

/// How long each question may take.
const ASK: Duration = Duration::from_millis(500);

/// How long a topic may be missing: a broker that has just started does not know all of them.
const MISSING: Duration = Duration::from_secs(3);

/// How long it may take brokers that were heard of to say that they know no idempotent producers.
const OBJECT: Duration = Duration::from_secs(1);

/// What was found.
#[derive(Debug)]
pub struct Probe {
    /// Topics with their partitions, or why they cannot be had; `None` where nobody answered.
    pub topics: Vec<(String, Option<Result<u32, String>>)>,
    /// Whether messages may carry headers: brokers from 0.11 on.
    pub has_headers: bool,
    /// The last thing that went wrong.
    pub trouble: Option<String>,
}

impl Probe {
    /// Whether a broker has answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.topics.iter().any(|(_, answer)| answer.is_some())
    }
}

/// Asks the cluster for these topics, as the configuration would have the producer do it; beside the brokers of the
/// configuration, those at `addresses` are asked. Takes no longer than `limit` and a little.
///
/// # Errors
///
/// As [`check`](super::check).
pub fn probe(kafka: &Kafka, addresses: &[String], topics: &[String], limit: Duration) -> Result<Probe, ProducerError> {
    let mut properties = properties::complete(kafka)?;
    let brokers: Vec<&str> = kafka.bootstrap.get_ref().iter().chain(addresses).map(String::as_str).collect();
    properties.insert(BOOTSTRAP.to_owned(), brokers.join(","));
    let mut prober = Prober::start(properties, topics)?;
    let deadline = Instant::now() + limit;
    while prober.asks() && Instant::now() < deadline {
        prober.listen(Duration::ZERO)?;
        prober.ask();
    }
    let until = Instant::now() + OBJECT;
    while prober.has_heard && prober.detection.protocol().has_headers() && Instant::now() < until {
        prober.listen(until - Instant::now())?;
    }
    Ok(Probe {
        topics: topics.iter().cloned().zip(prober.answers).collect(),
        has_headers: prober.detection.protocol().has_headers(),
        trouble: prober.trouble,
    })
}

struct Prober {
    client: Client,
    properties: BTreeMap<String, String>,
    topics: Vec<String>,
    detection: Detection,
    has_heard: bool,
    answers: Vec<Option<Result<u32, String>>>,
    /// When a topic was first said to be missing.
    missing: Option<Instant>,
    trouble: Option<String>,
}

impl Prober {
    fn start(properties: BTreeMap<String, String>, topics: &[String]) -> Result<Self, ProducerError> {
        let detection = Detection::new(&properties);
        let client = Client::start(&detection.apply(&properties), topics)?;
        Ok(Self {
            client,
            properties,
            topics: topics.to_vec(),
            detection,
            has_heard: false,
            answers: vec![None; topics.len()],
            missing: None,
            trouble: None,
        })
    }

    /// Whether a topic has no answer that holds.
    fn asks(&self) -> bool {
        let may_come = self.missing.is_none_or(|since| since.elapsed() < MISSING);
        self.answers.iter().any(|answer| match answer {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(_)) => may_come,
        })
    }

    fn ask(&mut self) {
        for (index, answer) in self.answers.iter_mut().enumerate().filter(|(_, answer)| !matches!(answer, Some(Ok(_))))
        {
            match self.client.partitions(index, ASK) {
                Ok(partitions) => *answer = Some(Ok(partitions)),
                Err(code) if super::sender::is_answer(code) => {
                    *answer = Some(Err(code.to_string()));
                    self.missing.get_or_insert_with(Instant::now);
                }
                // Nobody was there to ask.
                Err(_) => return,
            }
            self.has_heard = true;
            self.detection.heard();
        }
    }

    /// Takes in what librdkafka says, and starts it again if it is to speak otherwise.
    fn listen(&mut self, mut timeout: Duration) -> Result<(), ProducerError> {
        let mut again = false;
        while let Some(event) = self.client.poll(timeout, drop) {
            timeout = Duration::ZERO;
            if let Event::Error { code, text, .. } = event {
                let is_old = self.client.failure().is_some_and(|code| self.detection.failed(code));
                again |= is_old;
                // That all are down says less than why.
                if !is_old && (code != RDKafkaErrorCode::AllBrokersDown || self.trouble.is_none()) {
                    self.trouble = Some(text);
                }
            }
        }
        if again || self.detection.changes(self.client.was_refused(), Instant::now()) {
            self.client = Client::start(&self.detection.apply(&self.properties), &self.topics)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::mock::MockCluster;

    #[test]
    fn topics_are_found_or_not() {
        let cluster = MockCluster::start(1).unwrap();
        cluster.create_topic("there", 3).unwrap();
        let kafka = Kafka::listed(vec![cluster.bootstrap()], BTreeMap::new());
        let topics = ["there".to_owned()];
        let found = probe(&kafka, &[], &topics, Duration::from_secs(20)).unwrap();
        assert!(found.is_answered() && found.has_headers, "{found:?}");
        assert_eq!(found.topics, [("there".to_owned(), Some(Ok(3)))]);
    }

    #[test]
    fn nobody_there_is_no_answer() {
        let kafka = Kafka::listed(vec!["127.0.0.1:1".to_owned()], BTreeMap::new());
        let found = probe(&kafka, &[], &["t".to_owned()], Duration::from_secs(2)).unwrap();
        assert!(!found.is_answered());
        assert!(found.trouble.as_ref().is_some_and(|trouble| trouble.contains("127.0.0.1:1")), "{found:?}");
    }
}
