//! The reader's side of the batches: one open batch a stream, sent on when it is full, old, or must end.

use crate::batch::Batch;
use crate::message::SaltId;
use crate::pipeline::Output;
use crate::producer::Outlet;

/// Collects lines into batches.
#[derive(Debug)]
pub(super) struct Outbox {
    outlet: Outlet,
    /// A batch is sent on once its lines have this many bytes.
    full: usize,
    open: Vec<Option<Box<Batch>>>,
}

impl Outbox {
    pub(super) fn new(outlet: Outlet, streams: usize) -> Self {
        Self { full: outlet.full(), outlet, open: (0..streams).map(|_| None).collect() }
    }

    /// Sends on what there is, however little, as long as Kafka keeps up. When it does not, batches are filled first: they
    /// are what there is a fixed number of.
    pub(super) fn flush_if_flowing(&mut self) {
        if self.outlet.is_flowing() {
            self.flush();
        }
    }

    /// Sends on what there is.
    pub(super) fn flush(&mut self) {
        for batch in &mut self.open {
            match batch.take() {
                Some(lines) if lines.is_empty() => *batch = Some(lines),
                Some(lines) => self.outlet.send(lines),
                None => {}
            }
        }
    }
}

impl Output for Outbox {
    fn line(&mut self, stream: usize, sequence: u64, salt: Option<SaltId>) -> Option<&mut Vec<u8>> {
        let open = &mut self.open[stream];
        // A batch has consecutive numbers, one salt and one partition block.
        let must_end = |batch: &Batch| {
            batch.next_sequence() != sequence || batch.salt != salt || batch.ends_block() || batch.bytes() >= self.full
        };
        if let Some(batch) = open.take_if(|batch| !batch.is_empty() && must_end(batch)) {
            self.outlet.send(batch);
        }
        if open.is_none() {
            *open = self.outlet.take();
        }
        let batch = open.as_mut()?;
        if batch.is_empty() {
            batch.begin(stream, sequence, salt);
        }
        Some(batch.arena())
    }

    fn commit(&mut self, stream: usize, timestamp: i64, hashed: bool) {
        if let Some(batch) = &mut self.open[stream] {
            batch.commit(timestamp, hashed);
        }
    }

    fn roll_back(&mut self, stream: usize) {
        if let Some(batch) = &mut self.open[stream] {
            batch.roll_back();
        }
    }
}
