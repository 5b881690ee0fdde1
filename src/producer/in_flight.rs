//! Batches that Kafka has not acknowledged yet.
//!
//! A line is named by its batch's slot and its index there: that is the token of its message, and how its report finds it.

use crate::batch::{Batch, Line};

/// Lines of a batch fit 16 bits: a partition block has fewer.
const LINE_BITS: u32 = 16;

/// A batch with what became of its lines so far.
#[derive(Debug)]
pub(super) struct InFlight {
    batch: Box<Batch>,
    /// The next line to hand over.
    next: usize,
    /// Whether a stream's queue names this slot: it must not be used for another batch then.
    queued: bool,
    /// Lines handed over whose report has not come.
    waiting: usize,
    /// A bit for each line that is settled: acknowledged, or lost and counted.
    settled: Vec<u64>,
    /// Lines that are not settled.
    open: usize,
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
    /// Takes a batch in, whose lines are to be handed over; gives its slot.
    pub(super) fn insert(&mut self, batch: Box<Batch>) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let lines = batch.len();
        let settled = vec![0; lines.div_ceil(64)];
        self.slots[slot] = Some(InFlight { batch, next: 0, queued: true, waiting: 0, settled, open: lines });
        slot
    }

    pub(super) fn get(&mut self, slot: usize) -> Option<&mut InFlight> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Gives the batch back if all its lines are settled, and neither a queue nor librdkafka names it any more.
    pub(super) fn release(&mut self, slot: usize) -> Option<Box<Batch>> {
        let done = self.get(slot).is_some_and(|entry| entry.open == 0 && entry.waiting == 0 && !entry.queued);
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

    /// No report of any line will come any more: the client that had them is gone.
    pub(super) fn forget_reports(&mut self) {
        self.slots.iter_mut().flatten().for_each(|entry| entry.waiting = 0);
    }

    /// Whether there is no batch.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
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

    /// The line's report has come. The line, and its length in bytes.
    pub(super) fn reported(&mut self, line: usize) -> Option<(Line, usize)> {
        self.waiting = self.waiting.saturating_sub(1);
        self.batch.line(line).map(|(line, text)| (line, text.len()))
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

    /// Hands over everything that is not settled once more: a queue names the slot again.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
        self.queued = true;
    }

    /// No queue names the slot any more.
    pub(super) fn unqueue(&mut self) {
        self.queued = false;
    }

    /// Lines that are not settled; they are now.
    pub(super) fn settle_rest(&mut self) -> usize {
        self.settled.fill(u64::MAX);
        std::mem::take(&mut self.open)
    }

    fn is_settled(&self, line: usize) -> bool {
        self.settled[line / 64] & (1 << (line % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn batch(first: u64, lines: usize) -> Box<Batch> {
        let mut batch = Box::new(Batch::default());
        batch.begin(0, first, None);
        (0..lines).for_each(|_| batch.commit(0, false));
        batch
    }

    /// What may happen to a batch. Numbers choose among what there is.
    #[derive(Debug, Clone)]
    enum Action {
        Arrive {
            lines: usize,
        },
        HandOver {
            batch: usize,
            lines: usize,
        },
        Acknowledge {
            report: usize,
        },
        Lose {
            batch: usize,
        },
        /// The client fails: nothing is reported any more, and everything that is not settled goes out again.
        Restart,
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            2 => (1_usize..200).prop_map(|lines| Action::Arrive { lines }),
            4 => (any::<usize>(), 1_usize..200).prop_map(|(batch, lines)| Action::HandOver { batch, lines }),
            8 => any::<usize>().prop_map(|report| Action::Acknowledge { report }),
            1 => any::<usize>().prop_map(|batch| Action::Lose { batch }),
            1 => Just(Action::Restart),
        ]
    }

    /// The table with its callers' side, and what it should know, by first number of the batch.
    #[derive(Default)]
    struct Model {
        table: InFlightTable,
        queue: VecDeque<usize>,
        reports: Vec<usize>,
        arrived: u64,
        unsettled: BTreeSet<u64>,
        released: BTreeSet<u64>,
    }

    impl Model {
        fn apply(&mut self, action: Action) {
            match action {
                Action::Arrive { lines } => {
                    let first = self.arrived;
                    self.arrived += lines as u64;
                    self.unsettled.extend(first..self.arrived);
                    self.queue.push_back(self.table.insert(batch(first, lines)));
                }
                Action::HandOver { batch, lines } => {
                    // Several streams take turns.
                    let count = self.queue.len().max(1);
                    self.queue.rotate_left(batch % count);
                    let Some(&slot) = self.queue.front() else { return };
                    for _ in 0..lines {
                        let entry = self.table.get(slot).unwrap();
                        let Some(line) = entry.next() else {
                            entry.unqueue();
                            self.queue.pop_front();
                            return self.release(slot);
                        };
                        entry.handed_over();
                        self.reports.push(token(slot, line));
                    }
                }
                Action::Acknowledge { report } if !self.reports.is_empty() => {
                    let (slot, line) = parts(self.reports.swap_remove(report % self.reports.len()));
                    let entry = self.table.get(slot).unwrap();
                    assert!(entry.reported(line).is_some());
                    let sequence = entry.batch().first + line as u64;
                    assert_eq!(entry.settle(line), self.unsettled.remove(&sequence));
                    self.release(slot);
                }
                Action::Acknowledge { .. } => {}
                Action::Lose { batch } => {
                    let slots = self.table.in_order();
                    let Some(&slot) = slots.get(batch % slots.len().max(1)) else { return };
                    let entry = self.table.get(slot).unwrap();
                    let sequence = entry.batch().first;
                    assert_eq!(entry.settle(0), self.unsettled.remove(&sequence));
                    self.release(slot);
                }
                Action::Restart => {
                    self.reports.clear();
                    self.queue.clear();
                    self.table.forget_reports();
                    for slot in self.table.in_order() {
                        self.table.get(slot).unwrap().rewind();
                        self.queue.push_back(slot);
                    }
                }
            }
        }

        fn release(&mut self, slot: usize) {
            if let Some(batch) = self.table.release(slot) {
                assert!(self.unsettled.range(batch.first..batch.next_sequence()).next().is_none());
                assert!(self.released.insert(batch.first), "released twice");
            }
        }
    }

    proptest! {
        /// Whatever the order of hand-overs, reports, losses and restarts: every line is settled once, no batch is let go of
        /// while librdkafka or a queue has it, and in the end every batch is.
        #[test]
        fn the_table_does_what_the_model_says(actions in proptest::collection::vec(action(), 0..60)) {
            let mut model = Model::default();
            for action in actions {
                model.apply(action);
                prop_assert_eq!(model.table.open(), model.unsettled.len());
            }
            while !model.queue.is_empty() {
                model.apply(Action::HandOver { batch: 0, lines: usize::MAX });
            }
            while !model.reports.is_empty() {
                model.apply(Action::Acknowledge { report: 0 });
            }
            prop_assert!(model.unsettled.is_empty() && model.table.is_empty());
        }
    }
}
