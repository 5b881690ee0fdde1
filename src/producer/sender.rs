//! The loop of the producer thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::client::{Client, Event, Headers, Report};
use super::in_flight::{InFlightTable, parts, token};
use super::{Inlet, Stop};
use crate::batch::Batch;
use crate::counters::{Counters, LossCause};
use crate::fault::Fault;
use crate::message::{Boot, HEADER_BOOT, HEADER_HOST, HEADER_SALT, HEADER_SEQUENCE, HEADER_STREAM};

/// How long the thread sleeps when there is nothing to do. The reader does not wake it: what it sends lingers anyway.
const NAP: Duration = Duration::from_millis(10);

/// How long the cluster is asked for a topic's partitions, and how long until it is asked again.
const ASK: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A message about the same trouble is logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// A topic and the lines that wait for it.
#[derive(Debug)]
struct Stream {
    name: String,
    topic: String,
    /// Known once the cluster has told; the same for the whole boot, since lines are placed by it.
    partitions: Option<u32>,
    ask_at: Instant,
    /// Slots with lines to hand over, in order.
    queue: VecDeque<usize>,
}

/// All that the producer thread has.
#[derive(Debug)]
pub(super) struct Sender {
    client: Option<Client>,
    properties: BTreeMap<String, String>,
    host: String,
    boot: Boot,
    streams: Vec<Stream>,
    counters: Arc<Counters>,
    inlet: Inlet,
    table: InFlightTable,
    fault: Fault,
    /// The line that is being handed over: if there is a panic, it is the one that is lost.
    in_hand: Option<(usize, usize)>,
    /// The client has failed for good; what it gives back is sent again by the next one.
    failed: bool,
    said_at: BTreeMap<&'static str, Instant>,
}

impl Sender {
    #[expect(clippy::too_many_arguments, reason = "one caller, which has them all")]
    pub(super) fn new(
        client: Client,
        properties: BTreeMap<String, String>,
        host: &str,
        boot: Boot,
        streams: Vec<(String, String)>,
        counters: Arc<Counters>,
        inlet: Inlet,
        fault: Fault,
    ) -> Self {
        let ask_at = Instant::now();
        let stream = |(name, topic)| Stream { name, topic, partitions: None, ask_at, queue: VecDeque::new() };
        Self {
            client: Some(client),
            properties,
            host: host.to_owned(),
            boot,
            streams: streams.into_iter().map(stream).collect(),
            counters,
            inlet,
            table: InFlightTable::default(),
            fault,
            in_hand: None,
            failed: false,
            said_at: BTreeMap::new(),
        }
    }

    /// Sends until told to stop.
    pub(super) fn run(&mut self, stop: &Stop) {
        loop {
            let deadline = stop.deadline();
            let taken = self.take_in();
            self.ask_for_partitions();
            let full = (0..self.streams.len()).any(|stream| self.hand_over(stream));
            let timeout = if taken && !full { Duration::ZERO } else { NAP };
            self.poll(timeout);
            if self.failed {
                self.start_over();
            }
            if let Some(deadline) = deadline {
                if self.table.in_order().is_empty() {
                    return;
                }
                if Instant::now() >= deadline {
                    return self.give_up();
                }
            }
        }
    }

    /// Makes the state whole again.
    pub(super) fn after_panic(&mut self) {
        self.counters.panics.add(1);
        tracing::error!("a defect in the producer thread was caught; sending goes on");
        if let Some((slot, line)) = self.in_hand.take() {
            self.lose(slot, line, LossCause::Panic);
            self.release(slot);
        }
    }

    /// Takes in what the reader has sent. Whether there was anything.
    fn take_in(&mut self) -> bool {
        let mut taken = false;
        while let Some(batch) = self.inlet.take() {
            taken = true;
            let stream = batch.stream;
            let slot = self.table.insert(batch);
            self.streams[stream].queue.push_back(slot);
        }
        taken
    }

    fn ask_for_partitions(&mut self) {
        let now = Instant::now();
        let waiting = |stream: &Stream| stream.partitions.is_none() && !stream.queue.is_empty() && stream.ask_at <= now;
        let Some(index) = self.streams.iter().position(waiting) else { return };
        let Some(client) = &self.client else { return };
        match client.partitions(index, ASK) {
            Ok(partitions) => {
                let stream = &mut self.streams[index];
                stream.partitions = Some(partitions);
                tracing::info!(topic = stream.topic, partitions, "the topic was found");
            }
            Err(code) => {
                self.streams[index].ask_at = Instant::now() + ASK_AGAIN;
                if self.may_say("partitions") {
                    tracing::warn!(
                        topic = self.streams[index].topic,
                        error = %code,
                        "the topic's partitions are not known yet, its lines wait: is Kafka up, does the topic exist?"
                    );
                }
            }
        }
    }

    /// Hands over a stream's lines. Whether librdkafka's queue is full.
    fn hand_over(&mut self, index: usize) -> bool {
        let Some(partitions) = self.streams[index].partitions else { return false };
        while let (Some(&slot), Some(client)) = (self.streams[index].queue.front(), &self.client) {
            self.fault.hit("producer");
            let mut lost = Vec::new();
            let Some(entry) = self.table.get(slot) else {
                self.streams[index].queue.pop_front();
                continue;
            };
            let mut full = false;
            while let Some(line) = entry.next() {
                self.in_hand = Some((slot, line));
                let batch = entry.batch();
                let Some((shape, text)) = batch.line(line) else { break };
                let sequence = batch.first + line as u64;
                let mut headers = Headers::with_capacity(5);
                headers.add(HEADER_HOST, self.host.as_bytes());
                headers.add(HEADER_BOOT, self.boot.as_bytes());
                headers.add(HEADER_STREAM, self.streams[index].name.as_bytes());
                headers.add(HEADER_SEQUENCE, &sequence.to_be_bytes());
                if let Some(salt) = entry.salt().filter(|_| shape.hashed) {
                    headers.add(HEADER_SALT, salt.as_bytes());
                }
                let partition = self.boot.partition(sequence, partitions);
                match client.produce(index, partition, shape.timestamp, token(slot, line), text, headers) {
                    Ok(()) => entry.handed_over(),
                    Err(RDKafkaErrorCode::QueueFull) => {
                        full = true;
                        break;
                    }
                    // It has failed for good; the next client sends this line.
                    Err(RDKafkaErrorCode::Fatal) => {
                        self.failed = true;
                        full = true;
                        break;
                    }
                    Err(code) => {
                        lost.push((line, code));
                        entry.settle(line);
                    }
                }
            }
            self.in_hand = None;
            for (_, code) in &lost {
                self.count_lost(index, *code);
            }
            if full {
                return true;
            }
            self.streams[index].queue.pop_front();
            self.release(slot);
        }
        false
    }

    /// Takes what librdkafka reports, waiting for the first report at the most for `timeout`.
    fn poll(&mut self, timeout: Duration) {
        let mut timeout = timeout;
        let mut reports = Vec::new();
        loop {
            let Some(client) = &self.client else { return };
            let Some(event) = client.poll(timeout, |report| reports.push(report)) else { break };
            timeout = Duration::ZERO;
            for report in reports.drain(..) {
                self.reported(report);
            }
            if let Event::Error { code, text, fatal } = event {
                self.failed |= fatal;
                if fatal || self.may_say("error") {
                    tracing::warn!(error = %code, "Kafka: {text}");
                }
            }
        }
    }

    #[inline]
    fn reported(&mut self, report: Report) {
        let (slot, line) = parts(report.token);
        let Some(entry) = self.table.get(slot) else { return };
        let bytes = entry.reported(line);
        let stream = entry.batch().stream;
        match report.error {
            None => {
                if entry.settle(line) {
                    self.counters.streams[stream].acknowledged.add(1);
                    self.counters.streams[stream].acknowledged_bytes.add(bytes as u64);
                }
            }
            // Given back by a client that has failed: the next one sends it.
            Some(_) if self.failed => {}
            Some(RDKafkaErrorCode::Fatal) => self.failed = true,
            Some(code) => {
                if entry.settle(line) {
                    self.count_lost(stream, code);
                }
            }
        }
        self.release(slot);
    }

    fn count_lost(&mut self, stream: usize, code: RDKafkaErrorCode) {
        let (cause, advice) = match code {
            RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => {
                (LossCause::TooLarge, "raise message.max.bytes here and max.message.bytes of the topic")
            }
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::InvalidTopic => (LossCause::UnknownTopic, "create the topic"),
            _ => (LossCause::Refused, "see the broker's log"),
        };
        self.counters.streams[stream].lose(cause, 1);
        if self.may_say(cause.name()) {
            let stream = &self.streams[stream];
            tracing::error!(stream = stream.name, topic = stream.topic, error = %code, "a line is lost: {advice}");
        }
    }

    fn lose(&mut self, slot: usize, line: usize, cause: LossCause) {
        let Some(entry) = self.table.get(slot) else { return };
        if entry.settle(line) {
            let stream = entry.batch().stream;
            self.counters.streams[stream].lose(cause, 1);
        }
    }

    fn release(&mut self, slot: usize) {
        if let Some(batch) = self.table.release(slot) {
            self.inlet.give_back(batch);
        }
    }

    /// After a fatal error: another client, which sends all that is not acknowledged once more, in order. A line that was
    /// delivered without its acknowledgement is doubled then, and dropped by its number downstream.
    fn start_over(&mut self) {
        tracing::error!("the Kafka client has failed for good; starting another one");
        if let Some(client) = &self.client {
            client.purge();
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.client.as_ref().is_some_and(|client| client.outstanding() > 0) && Instant::now() < deadline {
            self.poll(NAP);
        }
        // Its threads are gone after this, and with them every claim on a batch.
        self.client = None;
        let topics: Vec<String> = self.streams.iter().map(|stream| stream.topic.clone()).collect();
        loop {
            match Client::start(&self.properties, &topics) {
                Ok(client) => {
                    self.client = Some(client);
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "trying again in a second");
                    std::thread::sleep(ASK_AGAIN);
                }
            }
        }
        self.failed = false;
        self.streams.iter_mut().for_each(|stream| stream.queue.clear());
        for slot in self.table.in_order() {
            if let Some(entry) = self.table.get(slot) {
                entry.forget_reports();
                entry.rewind();
                let stream = entry.batch().stream;
                self.streams[stream].queue.push_back(slot);
            }
        }
    }

    /// The deadline has come: what is not acknowledged is lost.
    fn give_up(&mut self) {
        // librdkafka lets go of the batches first.
        self.client = None;
        for slot in self.table.in_order() {
            let Some(entry) = self.table.get(slot) else { continue };
            let (stream, lines) = (entry.batch().stream, entry.settle_rest());
            entry.forget_reports();
            self.counters.streams[stream].lose(LossCause::Shutdown, lines as u64);
            self.release(slot);
        }
        while let Some(batch) = self.inlet.take() {
            self.counters.streams[batch.stream].lose(LossCause::Shutdown, Batch::len(&batch) as u64);
            self.inlet.give_back(batch);
        }
        tracing::error!("Kafka did not acknowledge everything in time; the rest is lost and counted");
    }

    fn may_say(&mut self, kind: &'static str) -> bool {
        let now = Instant::now();
        let due = self.said_at.get(kind).is_none_or(|said| now.duration_since(*said) >= SAY_AGAIN);
        if due {
            self.said_at.insert(kind, now);
        }
        due
    }
}
