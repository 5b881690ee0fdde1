//! The way of batches between reader and producer thread, and the bound on the memory that they take.
//!
//! ```text
//!  reader thread                                          producer thread
//!  Outlet::take ─▶ lines ─▶ Outlet::send ──▶ ring ──▶ Inlet::take ─▶ Kafka ─▶ every line settled
//!       ▲                                                                            │
//!       └──────── spare batches ◀────────────── ring back ◀────── Inlet::give_back ◀─┘
//! ```
//!
//! Batches are allocated when they are first needed. Once as many bytes are out as the budget allows, [`Outlet::take`]
//! gives none: lines are dropped and counted, newest first. The reader never waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::batch::{Batch, Line};
use crate::counters::{Counters, LossCause};
use crate::message::PARTITION_BLOCK;
use crate::ring::{Receiver, Sender, ring};

/// Batches that are kept for use again. What an outage took beyond them goes back to the system afterwards.
const SPARE: usize = 64;

/// What librdkafka takes for a line beside its text, bytes: its message and five headers, each allocated on its own; about
/// 720 with glibc's allocator, rounded up for others.
const LINE_OVERHEAD: usize = 1024;

/// What a batch takes for a line beside its text, bytes.
const LINE_ENTRY: usize = size_of::<Line>();

/// How the memory for unacknowledged lines (`journal.max_bytes`) is divided.
///
/// librdkafka keeps, for each line that it has been handed, its own message and headers, and a copy of the text while a
/// request is under way. So it is handed only a window of the lines, and what that window may cost is taken off before
/// batches get the rest. All other lines wait in batches, where a line costs its text and 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Bytes that batches may take, their unused room included.
    batches: usize,
    /// Bytes of text that a new batch has room for.
    arena: usize,
    /// Lines that librdkafka may have at a time.
    pub(super) window_lines: usize,
    /// Bytes of those lines. A single line that is larger goes alone.
    pub(super) window_bytes: usize,
}

impl Budget {
    /// Divides `max_bytes`, which the configuration holds to 4 MiB at least, for that many streams.
    fn new(max_bytes: u64, streams: usize) -> Self {
        let total = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        // With lines of a kilobyte, 16 MiB under way keep a broker 100 ms away busy at 160,000 lines a second.
        let window_lines = (total / 16 / LINE_OVERHEAD).clamp(1024, 16_384);
        let window_bytes = (total / 16).clamp(1 << 20, 16 << 20);
        let batches = total.saturating_sub(window_lines * LINE_OVERHEAD + window_bytes);
        // Small enough that every stream can have several, and that a block of short lines does not leave most of it empty.
        let arena = 1 << (batches / (32 + 4 * streams)).clamp(8 << 10, 64 << 10).ilog2();
        Self { batches, arena, window_lines, window_bytes }
    }

    /// What a batch takes at the most, as long as no line makes its arena grow.
    fn batch(&self) -> usize {
        self.arena + PARTITION_BLOCK as usize * LINE_ENTRY
    }

    /// Batches that can exist at a time.
    fn count(&self) -> usize {
        self.batches / self.arena + 1
    }
}

/// A way for batches, whose lines take `max_bytes` at the most until they are acknowledged, librdkafka's part included.
#[must_use]
pub fn channel(max_bytes: u64, counters: Arc<Counters>) -> (Outlet, Inlet) {
    let budget = Budget::new(max_bytes, counters.streams.len());
    let (there, arriving) = ring(budget.count());
    let (back, returning) = ring(budget.count());
    let inlet = Inlet { budget, arriving, back, counters: Arc::clone(&counters) };
    (Outlet { budget, there, returning, spare: Vec::with_capacity(SPARE), out: 0, counters }, inlet)
}

/// The reader's end.
#[derive(Debug)]
pub struct Outlet {
    budget: Budget,
    there: Sender<Box<Batch>>,
    returning: Receiver<Box<Batch>>,
    /// The one used last is used next: its memory is still in the caches.
    #[expect(clippy::vec_box, reason = "they travel boxed: a pointer through the ring")]
    spare: Vec<Box<Batch>>,
    /// Bytes of the batches that are sent and not returned, and of the one or few that the reader fills.
    out: usize,
    counters: Arc<Counters>,
}

impl Outlet {
    /// An empty batch; `None` when unacknowledged lines take all that they may. Lines without a batch are lost to
    /// [`LossCause::Backlog`]; their numbers are used up.
    pub fn take(&mut self) -> Option<Box<Batch>> {
        self.collect();
        if self.out + self.budget.batch() > self.budget.batches {
            return None;
        }
        let batch = self.spare.pop().unwrap_or_else(|| Box::new(Batch::with_capacity(self.budget.arena)));
        self.out += self.budget.batch();
        Some(batch)
    }

    /// Sends a batch on. Never waits: the ring has room for every batch that [`take`](Self::take) gives out.
    ///
    /// When the producer is gone, the lines are counted as lost to [`LossCause::Shutdown`].
    pub fn send(&mut self, batch: Box<Batch>) {
        // From now on it is charged what it takes: less where its lines are few, more where one has made it grow.
        self.out = self.out - self.budget.batch() + batch.capacity();
        let (stream, lines, bytes) = (batch.stream, batch.len() as u64, batch.bytes() as u64);
        self.counters.backlog_bytes.fetch_add(bytes, Ordering::Relaxed);
        let refused = if self.there.is_closed() { Some(batch) } else { self.there.push(batch).err() };
        if let Some(batch) = refused {
            self.counters.backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counters.streams[stream].lose(LossCause::Shutdown, lines);
            self.keep(batch);
        }
    }

    /// Bytes of text at which a batch is full. There is some room behind, so that the last line seldom makes it grow.
    #[must_use]
    pub fn full(&self) -> usize {
        self.budget.arena / 8 * 7
    }

    /// Whether Kafka keeps up, so that batches that are not full need not be spared.
    #[must_use]
    pub fn is_flowing(&mut self) -> bool {
        self.collect();
        self.out <= self.budget.batches / 8
    }

    fn collect(&mut self) {
        while let Some(batch) = self.returning.pop() {
            self.keep(batch);
        }
    }

    fn keep(&mut self, mut batch: Box<Batch>) {
        self.out -= batch.capacity();
        if self.spare.len() < SPARE && batch.capacity() <= self.budget.batch() {
            batch.begin(0, 0, None);
            self.spare.push(batch);
        }
    }
}

/// The producer's end.
#[derive(Debug)]
pub struct Inlet {
    budget: Budget,
    arriving: Receiver<Box<Batch>>,
    back: Sender<Box<Batch>>,
    counters: Arc<Counters>,
}

impl Inlet {
    /// The next batch that the reader has sent.
    pub(crate) fn take(&mut self) -> Option<Box<Batch>> {
        self.arriving.pop()
    }

    /// Gives back a batch whose lines have all been settled.
    pub(crate) fn give_back(&mut self, batch: Box<Batch>) {
        self.counters.backlog_bytes.fetch_sub(batch.bytes() as u64, Ordering::Relaxed);
        // The ring has room for all the batches there are. With the reader gone, nobody takes it out any more.
        let _ = self.back.push(batch);
    }

    pub(super) fn budget(&self) -> Budget {
        self.budget
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        // Nobody will send these.
        while let Some(batch) = self.take() {
            self.counters.streams[batch.stream].lose(LossCause::Shutdown, batch.len() as u64);
            self.give_back(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(batch: &mut Batch, lines: usize, bytes: usize) {
        batch.begin(0, 0, None);
        for _ in 0..lines {
            let end = batch.bytes() + bytes;
            batch.arena().resize(end, b'x');
            batch.commit(0, false);
        }
    }

    #[test]
    fn the_budget_covers_what_librdkafka_takes() {
        for (max_bytes, streams) in [(4 << 20, 1), (4 << 20, 20), (64 << 20, 2), (256 << 20, 1), (8 << 30, 3)] {
            let budget = Budget::new(max_bytes, streams);
            let window = budget.window_lines * LINE_OVERHEAD + budget.window_bytes;
            assert!((window + budget.batches) as u64 <= max_bytes, "{budget:?}");
            assert!(budget.count() > 3 * streams + 8, "{budget:?}");
        }
    }

    #[test]
    fn batches_are_bounded_and_come_back() {
        let counters = Arc::new(Counters::new(1));
        let (mut outlet, mut inlet) = channel(4 << 20, Arc::clone(&counters));
        let mut held = 0;
        while let Some(mut batch) = outlet.take() {
            fill(&mut batch, 10, outlet.full() / 10);
            held += batch.capacity();
            outlet.send(batch);
        }
        assert!((1 << 20..2 << 20).contains(&held), "{held}");
        assert!(!outlet.is_flowing());
        assert_eq!(
            counters.backlog_bytes.load(Ordering::Relaxed),
            outlet.there.len() as u64 * (outlet.full() / 10 * 10) as u64
        );
        let batch = inlet.take().unwrap();
        inlet.give_back(batch);
        assert!(outlet.take().unwrap().is_empty() && outlet.take().is_none());
        while let Some(batch) = inlet.take() {
            inlet.give_back(batch);
        }
        assert!(outlet.is_flowing());
        assert_eq!(counters.backlog_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_batch_that_a_long_line_has_made_grow_is_charged_and_not_kept() {
        let (mut outlet, mut inlet) = channel(4 << 20, Arc::new(Counters::new(1)));
        let mut batch = outlet.take().unwrap();
        fill(&mut batch, 1, 3 << 20);
        outlet.send(batch);
        assert!(outlet.take().is_none());
        let batch = inlet.take().unwrap();
        inlet.give_back(batch);
        let batch = outlet.take().unwrap();
        assert!(batch.capacity() <= outlet.budget.batch());
    }

    #[test]
    fn what_nobody_will_send_is_counted() {
        let counters = Arc::new(Counters::new(1));
        let (mut outlet, inlet) = channel(4 << 20, Arc::clone(&counters));
        let mut batches: Vec<_> = std::iter::from_fn(|| outlet.take()).take(2).collect();
        batches.iter_mut().for_each(|batch| fill(batch, 3, 10));
        outlet.send(batches.pop().unwrap());
        drop(inlet);
        outlet.send(batches.pop().unwrap());
        assert_eq!(counters.streams[0].lost(LossCause::Shutdown), 6);
        assert_eq!(counters.backlog_bytes.load(Ordering::Relaxed), 0);
    }
}
