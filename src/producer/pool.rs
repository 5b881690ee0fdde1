//! The way of the batches between reader and producer, and the bound on their memory.
//!
//! There is a fixed number of batches. Each is with the reader, on its way to the producer, with the producer until Kafka
//! has acknowledged its lines, or on its way back. When none is left for the reader, lines are dropped and counted, newest
//! first: the reader never waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::batch::Batch;
use crate::counters::Counters;
use crate::ring::{self, Consumer, Producer};

/// Bytes that a batch's arena takes before it grows. A batch is sent on when it is full, so that it hardly does.
const ARENA: usize = 160 << 10;

/// The reader's end.
#[derive(Debug)]
pub struct Outlet {
    filled: Producer<Box<Batch>>,
    empty: Consumer<Box<Batch>>,
    counters: Arc<Counters>,
    /// Batches that may still be allocated.
    unborn: usize,
    limit: usize,
    /// Batches on the other side.
    away: usize,
}

/// The producer's end.
#[derive(Debug)]
pub struct Inlet {
    filled: Consumer<Box<Batch>>,
    empty: Producer<Box<Batch>>,
    counters: Arc<Counters>,
}

/// A way for batches that hold at most about `budget` bytes at a time, and at least two for each stream.
#[must_use]
pub fn channel(budget: u64, counters: Arc<Counters>) -> (Outlet, Inlet) {
    let wanted = usize::try_from(budget / ARENA as u64).unwrap_or(usize::MAX);
    let limit = wanted.clamp(2 * counters.streams.len() + 2, 1 << 20);
    let (to_producer, filled) = ring::ring(limit);
    let (empty, to_reader) = ring::ring(limit);
    let outlet = Outlet {
        filled: to_producer,
        empty: to_reader,
        counters: Arc::clone(&counters),
        unborn: limit,
        limit,
        away: 0,
    };
    (outlet, Inlet { filled, empty, counters })
}

impl Outlet {
    /// An empty batch, or `None` when all are in use.
    pub fn take(&mut self) -> Option<Box<Batch>> {
        if let Some(mut batch) = self.empty.pop() {
            self.away -= 1;
            batch.begin(0, 0, None);
            return Some(batch);
        }
        self.unborn = self.unborn.checked_sub(1)?;
        Some(Box::new(Batch::with_capacity(ARENA)))
    }

    /// Sends a batch to the producer.
    ///
    /// # Panics
    ///
    /// Never: the ring has room for all the batches there are.
    pub fn send(&mut self, batch: Box<Batch>) {
        self.counters.backlog_bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        self.away += 1;
        let sent = self.filled.push(batch);
        assert!(sent.is_ok(), "there are never more batches than slots");
    }

    /// Whether Kafka keeps up, so that batches that are not full need not be spared.
    #[must_use]
    pub fn is_flowing(&self) -> bool {
        self.away <= self.limit / 8
    }
}

impl Inlet {
    /// The next batch that the reader has sent.
    pub(super) fn take(&mut self) -> Option<Box<Batch>> {
        self.filled.pop()
    }

    /// Gives back a batch whose lines have all been settled.
    pub(super) fn give_back(&mut self, mut batch: Box<Batch>) {
        self.counters.backlog_bytes.fetch_sub(batch.bytes() as u64, Ordering::Relaxed);
        if batch.capacity() > 4 * ARENA {
            // One huge line must not keep its memory for ever.
            *batch = Batch::with_capacity(ARENA);
        }
        let sent = self.empty.push(batch);
        assert!(sent.is_ok(), "there are never more batches than slots");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_and_come_back() {
        let counters = Arc::new(Counters::new(1));
        let (mut outlet, mut inlet) = channel(0, Arc::clone(&counters));
        let mut batches: Vec<_> = std::iter::from_fn(|| outlet.take()).collect();
        assert_eq!(batches.len(), 4);
        let mut batch = batches.pop().unwrap();
        batch.begin(0, 0, None);
        batch.arena().extend_from_slice(b"line");
        batch.commit(0, false);
        outlet.send(batch);
        assert!(outlet.take().is_none());
        assert!(!outlet.is_flowing());
        assert_eq!(counters.backlog_bytes.load(Ordering::Relaxed), 4);
        let batch = inlet.take().unwrap();
        assert_eq!(batch.len(), 1);
        inlet.give_back(batch);
        assert_eq!(counters.backlog_bytes.load(Ordering::Relaxed), 0);
        assert!(outlet.take().unwrap().is_empty());
        assert!(outlet.is_flowing());
    }
}
