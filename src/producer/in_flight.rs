//! Batches that Kafka has not acknowledged yet.
//!
//! A line is named by its batch's slot and its index there: that is the token of its message, and how its report finds it.

use crate::batch::Batch;
use crate::message::SaltId;

/// Lines of a batch fit 16 bits: a partition block has fewer.
const LINE_BITS: u32 = 16;

/// A batch with what became of its lines so far.
#[derive(Debug)]
pub(super) struct InFlight {
    batch: Box<Batch>,
    /// The next line to hand over.
    next: usize,
    /// Lines handed over whose report has not come.
    waiting: usize,
    /// A bit for each line that is settled: acknowledged, or lost and counted.
    settled: Vec<u64>,
    /// Lines that are not settled.
    open: usize,
    /// The salt's id as header text.
    salt: Option<Box<str>>,
}

/// All of them, by slot.
#[derive(Debug, Default)]
pub(super) struct InFlightTable {
    slots: Vec<Option<InFlight>>,
    free: Vec<usize>,
}

/// A token's parts.
pub(super) fn parts(token: usize) -> (usize, usize) {
    (token >> LINE_BITS, token & ((1 << LINE_BITS) - 1))
}

/// The token of a line.
pub(super) fn token(slot: usize, line: usize) -> usize {
    slot << LINE_BITS | line
}

impl InFlightTable {
    /// Takes a batch in; gives its slot.
    pub(super) fn insert(&mut self, batch: Box<Batch>) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let lines = batch.len();
        let salt = batch.salt.as_ref().map(SaltId::to_string).map(String::into_boxed_str);
        let settled = vec![0; lines.div_ceil(64)];
        self.slots[slot] = Some(InFlight { batch, next: 0, waiting: 0, settled, open: lines, salt });
        slot
    }

    pub(super) fn get(&mut self, slot: usize) -> Option<&mut InFlight> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Gives the batch back if all its lines are settled and none is with librdkafka.
    pub(super) fn release(&mut self, slot: usize) -> Option<Box<Batch>> {
        let done = self.get(slot).is_some_and(|entry| entry.open == 0 && entry.waiting == 0);
        if !done {
            return None;
        }
        self.free.push(slot);
        self.slots[slot].take().map(|entry| entry.batch)
    }

    /// The slots in use, in the order in which their lines were numbered.
    pub(super) fn in_order(&self) -> Vec<usize> {
        let mut slots: Vec<(u64, usize)> = (0..)
            .zip(&self.slots)
            .filter_map(|(slot, entry)| entry.as_ref().map(|entry| (entry.batch.first, slot)))
            .collect();
        slots.sort_unstable();
        slots.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Lines that are not settled.
    #[cfg(test)]
    fn open(&self) -> usize {
        self.slots.iter().flatten().map(|entry| entry.open).sum()
    }
}

impl InFlight {
    pub(super) fn batch(&self) -> &Batch {
        &self.batch
    }

    pub(super) fn salt(&self) -> Option<&str> {
        self.salt.as_deref()
    }

    /// The next line that is to be handed over, `None` behind the last.
    pub(super) fn next(&mut self) -> Option<usize> {
        while self.next < self.batch.len() && self.is_settled(self.next) {
            self.next += 1;
        }
        (self.next < self.batch.len()).then_some(self.next)
    }

    /// The line has been handed over.
    pub(super) fn handed_over(&mut self) {
        self.next += 1;
        self.waiting += 1;
    }

    /// The line's report has come. Its length in bytes.
    pub(super) fn reported(&mut self, line: usize) -> usize {
        self.waiting = self.waiting.saturating_sub(1);
        self.batch.line(line).map_or(0, |(_, text)| text.len())
    }

    /// The line is acknowledged, or lost and counted. `false` if it was settled before.
    pub(super) fn settle(&mut self, line: usize) -> bool {
        if line >= self.batch.len() || self.is_settled(line) {
            return false;
        }
        self.settled[line / 64] |= 1 << (line % 64);
        self.open -= 1;
        true
    }

    /// The client that had lines of this batch is gone, and no report of it comes any more.
    pub(super) fn forget_reports(&mut self) {
        self.waiting = 0;
    }

    /// Hands over everything that is not settled once more.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// Lines that are not settled; they are now.
    pub(super) fn settle_rest(&mut self) -> usize {
        std::mem::take(&mut self.open)
    }

    fn is_settled(&self, line: usize) -> bool {
        self.settled[line / 64] & (1 << (line % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(first: u64, lines: usize) -> Box<Batch> {
        let mut batch = Box::new(Batch::default());
        batch.begin(0, first, None);
        (0..lines).for_each(|_| batch.commit(0, false));
        batch
    }

    proptest! {
        /// Reports in any order settle each line once, and a batch is free once all of its are.
        #[test]
        fn every_line_is_settled_once(sizes in proptest::collection::vec(1_usize..200, 1..6), order in any::<u64>(), rewind: bool) {
            let mut table = InFlightTable::default();
            let mut handed = Vec::new();
            for size in &sizes {
                let slot = table.insert(batch(0, *size));
                let entry = table.get(slot).unwrap();
                while let Some(line) = entry.next() {
                    entry.handed_over();
                    handed.push(token(slot, line));
                }
            }
            prop_assert_eq!(handed.len(), sizes.iter().sum::<usize>());
            // A fixed shuffle.
            handed.sort_by_key(|token| (*token as u64).wrapping_mul(order | 1));
            let (first, second) = handed.split_at(handed.len() / 2);
            let mut released = 0;
            for token in first {
                let (slot, line) = parts(*token);
                let entry = table.get(slot).unwrap();
                entry.reported(line);
                prop_assert!(entry.settle(line));
                prop_assert!(!entry.settle(line));
                released += usize::from(table.release(slot).is_some());
            }
            prop_assert_eq!(table.open(), second.len());
            for token in second {
                let (slot, line) = parts(*token);
                let entry = table.get(slot).unwrap();
                entry.reported(line);
                if rewind {
                    // The report was a failure of the client: the line goes out again.
                    entry.rewind();
                    prop_assert!(entry.next().is_some());
                }
                prop_assert!(entry.settle(line));
                released += usize::from(table.release(slot).is_some());
            }
            prop_assert_eq!((released, table.open()), (sizes.len(), 0));
        }
    }
}
