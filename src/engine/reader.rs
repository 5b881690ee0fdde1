//! The reader thread: log in, batches out. It never waits for Kafka.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::HandOver;
use super::control::Control;
use super::outbox::Outbox;
use crate::counters::Counters;
use crate::fault::Fault;
use crate::log::{Event, LogError, LogSource, Pace, Position, Read};
use crate::pipeline::Pipeline;

/// How often a reader that waits looks whether it is to stop.
const NAP: Duration = Duration::from_millis(4);

/// How long unfinished transactions hold up a drain once nothing more comes: requests that end after the cache's workers
/// have been told to stop leave no record.
const QUIET: Duration = Duration::from_millis(250);

/// After an error of the log, how long until it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread owns. It outlives a panic: the next round goes on with it.
#[derive(Debug)]
pub(super) struct Reader<S> {
    pub(super) source: S,
    pub(super) pipeline: Pipeline,
    pub(super) outbox: Outbox,
    pub(super) counters: Arc<Counters>,
    pub(super) control: Arc<Control>,
    /// Transactions that end before this place have been taken by another reader.
    pub(super) taken_until: Option<Position>,
    pub(super) pace: Pace,
    /// Bytes that may wait for acknowledgements before a log that waits is read on.
    pub(super) patience: u64,
    pub(super) fault: Fault,
}

/// Why a round of reading ended.
enum Outcome {
    Stop,
    End,
    Broken(LogError),
}

impl<S: LogSource> Reader<S> {
    /// The thread's body: reads until it is told to stop, or a recording ends.
    pub(super) fn run(&mut self) {
        raise_priority();
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.read())) {
                Ok(Outcome::Stop | Outcome::End) => break,
                Ok(Outcome::Broken(error @ LogError::Corrupt { .. })) => {
                    self.control.fail(error);
                    break;
                }
                Ok(Outcome::Broken(error)) => {
                    tracing::error!(%error, "the log cannot be read; trying again every second");
                    self.give_up_all();
                    // Whoever waits for more than could be read waits in vain.
                    self.control.answer_read_up(self.control.read_ups_asked());
                    self.nap(RETRY);
                }
                Err(_) => {
                    // The panic hook has said where. What was being read is lost; nobody has numbered it yet.
                    self.counters.panics.add(1);
                    tracing::error!("a defect in the reader thread was caught; reading goes on");
                    self.nap(NAP);
                }
            }
            if self.control.should_stop() {
                break;
            }
        }
        let hand_over = self.source.position().map(|until| {
            let from = self.pipeline.oldest_position().unwrap_or(until);
            HandOver { from, until }
        });
        if !self.control.should_hand_over() {
            self.give_up_all();
        }
        self.outbox.flush();
        self.control.stop(hand_over);
    }

    fn read(&mut self) -> Outcome {
        let mut quiet_since = Instant::now();
        while !self.control.should_stop() {
            let now = Instant::now();
            let position = self.source.position();
            // Also true behind an overrun that skipped the place.
            if self.taken_until.is_some_and(|until| position.is_none_or(|position| !position.is_before(until))) {
                self.taken_until = None;
            }
            if self.source.waits() && self.counters.backlog_bytes.load(Ordering::Relaxed) > self.patience {
                self.outbox.flush();
                thread::sleep(NAP);
                continue;
            }
            let read_ups = self.control.read_ups_asked();
            match self.source.read() {
                Ok(Read::Records(records)) => {
                    self.fault.hit("reader");
                    quiet_since = now;
                    match self.taken_until {
                        Some(_) => self.pipeline.feed_taken(records, now, position, &self.counters),
                        None => self.pipeline.feed(records, now, position, &self.counters, &mut self.outbox),
                    }
                }
                Ok(Read::Idle) => {
                    self.control.answer_read_up(read_ups);
                    self.idle(now, quiet_since);
                }
                Ok(Read::Event(event)) => self.event(event),
                Ok(Read::End) => return Outcome::End,
                Err(error) => return Outcome::Broken(error),
            }
        }
        Outcome::Stop
    }

    fn idle(&mut self, now: Instant, quiet_since: Instant) {
        self.pipeline.expire(now, &self.counters, &mut self.outbox);
        self.outbox.flush_if_flowing();
        if let Some(drain) = self.control.open_drain()
            && (self.pipeline.open_transactions() == 0 || now.duration_since(quiet_since) >= QUIET)
        {
            self.outbox.flush();
            self.control.answer_drain(drain);
        }
        self.pace.sleep(self.source.position());
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Overrun { segments } => {
                self.counters.overruns.add(1);
                self.counters.overrun_segments.add(u64::from(segments));
                tracing::warn!(
                    segments,
                    "varnishd overwrote its log before it was read: requests are lost unnumbered; raise varnishd's -l"
                );
            }
            Event::Abandoned => tracing::warn!("varnishd's child has gone; waiting for the next one"),
            Event::Reacquired => {
                self.counters.reacquired.add(1);
                tracing::info!("attached to the log of a new child");
                self.taken_until = None;
            }
        }
        self.give_up_all();
    }

    fn give_up_all(&mut self) {
        self.pipeline.give_up_all(&self.counters, &mut self.outbox);
        self.outbox.flush();
    }

    fn nap(&self, length: Duration) {
        let until = Instant::now() + length;
        while Instant::now() < until && !self.control.should_stop() {
            thread::sleep(NAP.min(length));
        }
    }
}

/// Readers lose data when they are woken too late, not when they are too slow; where the system allows it, this thread
/// goes before varnishd's workers. It uses a small part of a core.
pub fn raise_priority() {
    // On Linux this is the calling thread's own priority. Without the right to raise it, it stays as it is.
    let _ = rustix::process::setpriority_process(None, -10);
}
