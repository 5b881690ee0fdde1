//! What the engine tells its threads, and what they tell back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::HandOver;
use crate::log::LogError;

/// Shared by the engine and its reader.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Stop reading; what is unfinished is left to the next reader.
    hand_over: AtomicBool,
    /// Stop reading; what is unfinished is rendered as it is.
    end: AtomicBool,
    /// Counts the requests to drain.
    drains: AtomicU64,
    /// The last drain for which all was read that was in the log.
    drained: AtomicU64,
    /// Counts the requests to read up to the log's present end.
    read_ups: AtomicU64,
    /// The last of them that has been met.
    read_up: AtomicU64,
    /// Where the reader stopped, once it has.
    stopped_at: Mutex<Option<HandOver>>,
    /// The reader will read no more.
    stopped: AtomicBool,
    /// What ended a recording early.
    failure: Mutex<Option<LogError>>,
}

impl Control {
    pub(super) fn ask_hand_over(&self) {
        self.hand_over.store(true, Ordering::Release);
    }

    pub(super) fn ask_end(&self) {
        self.end.store(true, Ordering::Release);
    }

    pub(super) fn should_stop(&self) -> bool {
        self.hand_over.load(Ordering::Acquire) || self.end.load(Ordering::Acquire)
    }

    pub(super) fn should_hand_over(&self) -> bool {
        self.hand_over.load(Ordering::Acquire)
    }

    /// Asks the reader to read all that is in the log from now on; the number to look for in [`drained`](Self::drained).
    pub(super) fn ask_drain(&self) -> u64 {
        self.drains.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(super) fn drained(&self) -> u64 {
        self.drained.load(Ordering::Acquire)
    }

    /// The drain that has been asked for and not been answered.
    pub(super) fn open_drain(&self) -> Option<u64> {
        let asked = self.drains.load(Ordering::Acquire);
        (asked > self.drained()).then_some(asked)
    }

    pub(super) fn answer_drain(&self, drain: u64) {
        self.drained.store(drain, Ordering::Release);
    }

    /// Asks the reader to come to the log's present end; the number to look for in [`read_up`](Self::read_up).
    pub(super) fn ask_read_up(&self) -> u64 {
        self.read_ups.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(super) fn read_up(&self) -> u64 {
        self.read_up.load(Ordering::Acquire)
    }

    /// What has been asked for by now: met once a read that begins after this finds nothing.
    pub(super) fn read_ups_asked(&self) -> u64 {
        self.read_ups.load(Ordering::Acquire)
    }

    pub(super) fn answer_read_up(&self, asked: u64) {
        self.read_up.store(asked, Ordering::Release);
    }

    pub(super) fn stop(&self, at: Option<HandOver>) {
        *self.stopped_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = at;
        self.stopped.store(true, Ordering::Release);
    }

    pub(super) fn fail(&self, error: LogError) {
        *self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error);
    }

    pub(super) fn take_failure(&self) -> Option<LogError> {
        self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(super) fn stopped_at(&self) -> Option<HandOver> {
        *self.stopped_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
