//! The loop of the producer thread.

mod trouble;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use self::trouble::{Trouble, loss_of};
use super::brokers::Brokers;
use super::client::{Client, Event, Report};
use super::headers::StreamHeaders;
use super::in_flight::{InFlightTable, parts, token};
use super::properties::{self, BOOTSTRAP};
use super::protocol::Detection;
use super::{Inlet, ProducerError, Stop};
use crate::counters::{Counters, LossCause};
use crate::fault::Fault;
use crate::message::Boot;

/// How long the thread sleeps between rounds, at least and at most. Neither the reader nor librdkafka wakes it: a wake-up costs as much as ten
/// lines, and what it hands over lingers anyway.
const NAP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(80));

/// A round with fewer lines and reports than this has had little to do.
const LITTLE: usize = 64;

/// How long a round takes once somebody waits for the last acknowledgements.
const HURRY: Duration = Duration::from_millis(3);

/// How long the cluster is asked for a topic's partitions, and how long until it is asked again: more each time.
const ASK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How long a failed client may take to give back what it has.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// Whether this is what a cluster says of a topic, and not that there is nobody to say anything.
pub(super) fn is_answer(code: RDKafkaErrorCode) -> bool {
    loss_of(code) == LossCause::UnknownTopic || code == RDKafkaErrorCode::TopicAuthorizationFailed
}

/// A topic and the lines that wait for it.
#[derive(Debug)]
struct Stream {
    name: String,
    topic: String,
    headers: StreamHeaders,
    /// Known once the cluster has told; the same for the whole boot, since lines are placed by it.
    partitions: Option<u32>,
    /// Whether the topic could be written to when last asked or tried.
    open: bool,
    ask_at: Instant,
    /// How long the next question may take.
    patience: Duration,
    /// Since when the cluster has been saying that there is no such topic.
    missing_since: Option<Instant>,
    /// Slots with lines to hand over, in order.
    queue: VecDeque<usize>,
}

/// Acknowledged lines of one stream that are not in the counters yet: those are shared, and reports come by the hundred.
#[derive(Debug, Default)]
struct Tally {
    stream: usize,
    lines: u64,
    bytes: u64,
}

/// All that the producer thread has. A panic leaves it as it was between two lines or two reports.
#[derive(Debug)]
pub(super) struct Sender {
    client: Option<Client>,
    properties: BTreeMap<String, String>,
    brokers: Brokers,
    detection: Detection,
    boot: Boot,
    streams: Vec<Stream>,
    /// The stream whose turn it is to come first.
    turn: usize,
    counters: Arc<Counters>,
    inlet: Inlet,
    table: InFlightTable,
    /// Lines that librdkafka has, and their bytes: see [`Budget`](super::pool::Budget).
    window: (usize, usize),
    /// Reports that were taken and not been looked at.
    reports: Vec<Report>,
    tally: Tally,
    fault: Fault,
    /// The line that is being handed over: if there is a panic, it is the one that is lost.
    in_hand: Option<(usize, usize)>,
    /// The client has failed for good; what it gives back is sent again by the next one.
    failed: bool,
    /// How long a topic may be missing until its lines are lost.
    propagation: Duration,
    trouble: Trouble,
}

impl Sender {
    #[expect(clippy::too_many_arguments, reason = "one caller, which has them all")]
    pub(super) fn new(
        properties: BTreeMap<String, String>,
        brokers: Brokers,
        host: &str,
        boot: Boot,
        streams: Vec<(String, String)>,
        counters: Arc<Counters>,
        inlet: Inlet,
        fault: Fault,
    ) -> Result<Self, ProducerError> {
        let ask_at = Instant::now();
        let stream = |(name, topic): (String, String)| Stream {
            headers: StreamHeaders::new(host, boot, &name),
            name,
            topic,
            partitions: None,
            open: false,
            ask_at,
            patience: ASK.0,
            missing_since: None,
            queue: VecDeque::new(),
        };
        let mut sender = Self {
            client: None,
            propagation: properties::propagation(&properties),
            detection: Detection::new(&properties),
            properties,
            brokers,
            boot,
            streams: streams.into_iter().map(stream).collect(),
            turn: 0,
            counters,
            inlet,
            table: InFlightTable::default(),
            window: (0, 0),
            reports: Vec::new(),
            tally: Tally::default(),
            fault,
            in_hand: None,
            failed: false,
            trouble: Trouble::default(),
        };
        sender.start_client()?;
        Ok(sender)
    }

    fn start_client(&mut self) -> Result<(), ProducerError> {
        let topics: Vec<String> = self.streams.iter().map(|stream| stream.topic.clone()).collect();
        if let Some(brokers) = self.brokers.for_a_new_client() {
            self.properties.insert(BOOTSTRAP.to_owned(), brokers);
        }
        self.client = Some(Client::start(&self.detection.apply(&self.properties), &topics)?);
        Ok(())
    }

    /// Sends until told to stop.
    pub(super) fn run(&mut self, stop: &Stop) {
        let mut rest = NAP.0;
        loop {
            // Asked before what was sent is taken in: whoever asks has sent everything.
            let deadline = stop.deadline();
            let taken = self.take_in();
            self.tell_brokers();
            self.ask_for_partitions();
            let full = self.hand_over_all();
            let nap = if stop.is_urgent() { HURRY } else { rest };
            if full {
                // Reports make room.
                self.poll(nap);
            } else if nap == HURRY && self.window.0 > 0 {
                self.flush(HURRY);
                self.poll(Duration::ZERO);
            } else {
                let reported = self.poll(Duration::ZERO);
                rest = if taken + reported < LITTLE { NAP.1.min(rest * 2) } else { NAP.0 };
                if !(deadline.is_some() && self.table.is_empty()) {
                    thread::park_timeout(nap);
                }
            }
            self.count_throttling();
            let refused = self.client.as_ref().is_some_and(Client::was_refused);
            self.failed |= self.detection.changes(refused, Instant::now());
            if self.failed {
                self.start_over(deadline);
            }
            if let Some(deadline) = deadline {
                if self.table.is_empty() {
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
        if let Some((slot, line)) = self.in_hand.take()
            && let Some(entry) = self.table.get(slot)
            && entry.settle(line)
        {
            // The slot is still in its stream's queue, and released from there.
            let stream = entry.batch().stream;
            self.counters.streams[stream].lose(LossCause::Panic, 1);
        }
    }

    /// Takes in what the reader has sent. How many lines that was.
    fn take_in(&mut self) -> usize {
        let mut taken = 0;
        while let Some(batch) = self.inlet.take() {
            let stream = batch.stream;
            taken += batch.len();
            let slot = self.table.insert(batch);
            self.streams[stream].queue.push_back(slot);
        }
        taken
    }

    /// Tells the client of brokers that have come.
    fn tell_brokers(&mut self) {
        if let Some(news) = self.brokers.news()
            && let Some(client) = &self.client
        {
            client.add_brokers(&news);
            if self.brokers.are_stale() {
                tracing::info!("the Kafka client knows many brokers that are no more; another one takes its place");
                self.failed = true;
            }
        }
    }

    /// Asks the cluster about one topic, if its lines wait for the answer. While no broker is there, the question takes as long
    /// as it may; nothing could be sent meanwhile.
    fn ask_for_partitions(&mut self) {
        let now = Instant::now();
        let waiting = |stream: &Stream| !stream.open && !stream.queue.is_empty() && stream.ask_at <= now;
        let Some(index) = self.streams.iter().position(waiting) else { return };
        let Some(client) = &self.client else { return };
        let stream = &mut self.streams[index];
        let answer = client.partitions(index, stream.patience);
        let now = Instant::now();
        stream.ask_at = now + stream.patience;
        stream.patience = (stream.patience * 2).min(ASK.1);
        match answer {
            Ok(partitions) => {
                self.detection.heard();
                (stream.open, stream.patience, stream.missing_since) = (true, ASK.0, None);
                if stream.partitions.is_none() {
                    stream.partitions = Some(partitions);
                    tracing::info!(topic = stream.topic, partitions, "the topic was found");
                }
            }
            Err(code) => {
                let missing = loss_of(code) == LossCause::UnknownTopic;
                stream.missing_since = if missing { stream.missing_since.or(Some(now)) } else { None };
                let given_up = stream.missing_since.is_some_and(|since| now.duration_since(since) >= self.propagation);
                if given_up {
                    self.lose_queue(index, code);
                } else if self.trouble.may_say("partitions") {
                    tracing::warn!(
                        topic = self.streams[index].topic,
                        error = %code,
                        "the topic's partitions are not known yet, its lines wait: is Kafka up, does the topic exist?"
                    );
                }
            }
        }
    }

    /// Loses a stream's lines that were not handed over: they must not take the room of other streams for ever.
    fn lose_queue(&mut self, index: usize, code: RDKafkaErrorCode) {
        while let Some(slot) = self.streams[index].queue.pop_front() {
            if let Some(entry) = self.table.get(slot) {
                entry.unqueue();
                let lines = entry.settle_rest();
                self.count_lost(index, code, lines as u64);
                self.release(slot);
            }
        }
    }

    /// Hands over what there is room for, beginning with another stream each time. Whether something is left over.
    fn hand_over_all(&mut self) -> bool {
        self.turn = (self.turn + 1) % self.streams.len().max(1);
        let (first, count) = (self.turn, self.streams.len());
        (0..count).any(|offset| self.hand_over((first + offset) % count))
    }

    /// Hands over a stream's lines. Whether there is no room for more.
    fn hand_over(&mut self, index: usize) -> bool {
        let budget = self.inlet.budget();
        let Some(partitions) = self.streams[index].partitions.filter(|_| self.streams[index].open) else {
            return false;
        };
        while let (Some(&slot), Some(client)) = (self.streams[index].queue.front(), &self.client) {
            let Some(entry) = self.table.get(slot) else {
                self.streams[index].queue.pop_front();
                continue;
            };
            let mut refused = None;
            while let Some(line) = entry.next() {
                self.in_hand = Some((slot, line));
                if line == 0 {
                    self.fault.hit("producer");
                }
                let batch = entry.batch();
                let Some((shape, text)) = batch.line(line) else { break };
                let (lines, bytes) = self.window;
                if lines >= budget.window_lines || (lines > 0 && bytes + text.len() > budget.window_bytes) {
                    self.in_hand = None;
                    return true;
                }
                let sequence = batch.first + line as u64;
                let salt = batch.salt.filter(|_| shape.hashed);
                let has_headers = self.detection.protocol().has_headers();
                let headers = has_headers.then(|| self.streams[index].headers.take(sequence, salt));
                let partition = self.boot.partition(sequence, partitions);
                match client.produce(index, partition, shape.timestamp, token(slot, line), text, headers) {
                    Ok(()) => {
                        self.window = (lines + 1, bytes + text.len());
                        entry.handed_over();
                    }
                    Err(RDKafkaErrorCode::QueueFull) => {
                        self.in_hand = None;
                        return true;
                    }
                    // It has failed for good; the next client sends this line.
                    Err(RDKafkaErrorCode::Fatal) => {
                        self.in_hand = None;
                        self.failed = true;
                        return true;
                    }
                    // librdkafka takes nothing for the topic until it has heard better; so the line can wait.
                    Err(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => {
                        self.in_hand = None;
                        let stream = &mut self.streams[index];
                        (stream.open, stream.ask_at) = (false, Instant::now() + ASK.1);
                        if self.trouble.may_say("closed") {
                            let topic = &self.streams[index].topic;
                            tracing::error!(topic, error = %code, "lines wait until this client may write to the topic");
                        }
                        return false;
                    }
                    Err(code) => {
                        entry.settle(line);
                        refused = Some(code);
                        break;
                    }
                }
            }
            self.in_hand = None;
            if let Some(code) = refused {
                self.count_lost(index, code, 1);
                continue;
            }
            entry.unqueue();
            self.streams[index].queue.pop_front();
            self.release(slot);
        }
        false
    }

    /// Takes what librdkafka reports, waiting for the first report at the most for `timeout`. How many messages it was of.
    fn poll(&mut self, mut timeout: Duration) -> usize {
        let mut reported = 0;
        loop {
            reported += self.reports.len();
            while let Some(report) = self.reports.pop() {
                self.reported(report);
            }
            let Some(client) = &self.client else { break };
            let reports = &mut self.reports;
            let Some(event) = client.poll(timeout, |report| reports.push(report)) else { break };
            timeout = Duration::ZERO;
            if let Event::Error { code, text, fatal } = event {
                self.failed |= fatal;
                if fatal || self.trouble.may_say("error") {
                    tracing::warn!(error = %code, "Kafka: {text}");
                }
            }
        }
        self.count_tally();
        reported
    }

    fn flush(&self, timeout: Duration) {
        if let Some(client) = &self.client {
            client.flush(timeout);
        }
    }

    #[inline]
    fn reported(&mut self, report: Report) {
        let (slot, line) = parts(report.token);
        let Some(entry) = self.table.get(slot) else { return };
        let Some((shape, bytes)) = entry.reported(line) else { return };
        self.window = (self.window.0.saturating_sub(1), self.window.1.saturating_sub(bytes));
        let batch = entry.batch();
        let (stream, salt) = (batch.stream, batch.salt.filter(|_| shape.hashed));
        if let Some(headers) = report.headers {
            self.streams[stream].headers.give_back(headers, salt);
        }
        match report.error {
            None => {
                if entry.settle(line) {
                    self.tally(stream, bytes);
                }
            }
            Some(code) => {
                self.failed |= code == RDKafkaErrorCode::Fatal
                    || self.client.as_ref().is_none_or(|client| client.failure().is_some());
                // What a client that has failed gives back, the next one sends.
                if !self.failed && entry.settle(line) {
                    self.count_lost(stream, code, 1);
                }
            }
        }
        self.release(slot);
    }

    /// Notes an acknowledged line.
    #[inline]
    fn tally(&mut self, stream: usize, bytes: usize) {
        if self.tally.stream != stream {
            self.count_tally();
            self.tally.stream = stream;
        }
        self.tally.lines += 1;
        self.tally.bytes += bytes as u64;
    }

    /// Puts into the counters what was noted.
    fn count_tally(&mut self) {
        let Tally { stream, lines, bytes } = std::mem::take(&mut self.tally);
        let counters = &self.counters.streams[stream];
        counters.acknowledged.add(lines);
        counters.acknowledged_bytes.add(bytes);
        if !self.detection.protocol().has_headers() {
            counters.unnumbered.add(lines);
        }
    }

    fn count_throttling(&mut self) {
        let milliseconds = self.client.as_ref().map_or(0, Client::take_throttled);
        if milliseconds > 0 {
            self.counters.throttled_milliseconds.add(milliseconds);
            if self.trouble.may_say("throttled") {
                tracing::warn!(
                    milliseconds,
                    "Kafka throttles this client, lines wait: its quota is less than they need"
                );
            }
        }
    }

    fn count_lost(&mut self, stream: usize, code: RDKafkaErrorCode, lines: u64) {
        let cause = loss_of(code);
        self.counters.streams[stream].lose(cause, lines);
        if self.trouble.may_say(cause.name()) {
            let advice = trouble::advice(cause);
            let stream = &self.streams[stream];
            tracing::error!(stream = stream.name, topic = stream.topic, error = %code, "lines are lost: {advice}");
        }
    }

    fn release(&mut self, slot: usize) {
        if let Some(batch) = self.table.release(slot) {
            self.inlet.give_back(batch);
        }
    }

    /// After a fatal error: another client, which sends all that is not acknowledged once more, in order. A line that was
    /// delivered without its acknowledgement is doubled then, and dropped by its number downstream.
    fn start_over(&mut self, deadline: Option<Instant>) {
        if let Some(client) = &self.client {
            let is_old = client.failure().is_some_and(|code| self.detection.failed(code));
            tracing::info!(is_old, "starting another Kafka client; what is not acknowledged is sent again");
            client.purge();
        }
        let limit = Instant::now() + GIVE_BACK;
        let limit = deadline.map_or(limit, |deadline| limit.min(deadline));
        while self.client.as_ref().is_some_and(|client| client.outstanding() > 0) && Instant::now() < limit {
            self.poll(HURRY);
        }
        // Its threads are gone after this, and with them every claim on a batch.
        self.client = None;
        self.reports.clear();
        self.window = (0, 0);
        self.table.forget_reports();
        while let Err(error) = self.start_client() {
            // The properties were taken once: it can only be the system that has run out of something.
            tracing::error!(%error, "trying again in a second");
            thread::sleep(ASK.1);
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return;
            }
        }
        self.failed = false;
        self.streams.iter_mut().for_each(|stream| stream.queue.clear());
        for slot in self.table.in_order() {
            if let Some(entry) = self.table.get(slot) {
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
        self.reports.clear();
        self.table.forget_reports();
        self.take_in();
        for slot in self.table.in_order() {
            let Some(entry) = self.table.get(slot) else { continue };
            entry.unqueue();
            let (stream, lines) = (entry.batch().stream, entry.settle_rest());
            self.counters.streams[stream].lose(LossCause::Shutdown, lines as u64);
            self.release(slot);
        }
        tracing::error!("Kafka did not acknowledge everything in time; the rest is lost and counted");
    }
}

#[cfg(test)]
mod tests;
