//! Batches: the unit that travels from the reader to the producer.
//!
//! A batch holds lines of one stream with consecutive sequence numbers, all of one partition block
//! ([`PARTITION_BLOCK`]) and hashed under one salt. Lines are rendered straight into its arena; the arena is used again
//! once Kafka has acknowledged every line, so that in the steady state nothing is allocated.

use crate::message::{PARTITION_BLOCK, SaltId};

/// One line in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    start: u32,
    end: u32,
    /// When the request started, milliseconds since 1970-01-01T00:00:00Z: the message's timestamp.
    pub timestamp: i64,
    /// Whether an address was hashed into the line, under the batch's salt.
    pub hashed: bool,
}

/// Consecutive lines of one stream.
#[derive(Debug, Default)]
pub struct Batch {
    /// Index of the stream in the configuration.
    pub stream: usize,
    /// Sequence number of the first line.
    pub first: u64,
    /// The salt that addresses were hashed under.
    pub salt: Option<SaltId>,
    arena: Vec<u8>,
    lines: Vec<Line>,
}

impl Batch {
    /// An empty batch whose arena takes `bytes` before it has to grow.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { arena: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Empties the batch for use by a stream, from this sequence number on. Keeps the memory.
    pub fn begin(&mut self, stream: usize, first: u64, salt: Option<SaltId>) {
        (self.stream, self.first, self.salt) = (stream, first, salt);
        self.arena.clear();
        self.lines.clear();
    }

    /// Where the next line is rendered: append to it, then [`commit`](Self::commit) or [`roll_back`](Self::roll_back).
    pub fn arena(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    /// Makes a line of what was appended since the last one, and gives it the next sequence number.
    ///
    /// # Panics
    ///
    /// When the arena has grown past 4 GiB; batches are closed three orders of magnitude earlier.
    pub fn commit(&mut self, timestamp: i64, hashed: bool) {
        let start = self.committed();
        let end = u32::try_from(self.arena.len()).expect("batches are closed long before 4 GiB");
        self.lines.push(Line { start, end, timestamp, hashed });
    }

    /// Takes back what was appended since the last line.
    pub fn roll_back(&mut self) {
        self.arena.truncate(self.committed() as usize);
    }

    fn committed(&self) -> u32 {
        self.lines.last().map_or(0, |line| line.end)
    }

    /// The lines with their sequence numbers, in order.
    pub fn lines(&self) -> impl Iterator<Item = (u64, Line, &[u8])> {
        (self.first..).zip(&self.lines).map(|(sequence, line)| (sequence, *line, self.text(*line)))
    }

    /// Line `index`, counted from 0, with its text.
    #[must_use]
    pub fn line(&self, index: usize) -> Option<(Line, &[u8])> {
        self.lines.get(index).map(|line| (*line, self.text(*line)))
    }

    fn text(&self, line: Line) -> &[u8] {
        &self.arena[line.start as usize..line.end as usize]
    }

    /// Lines in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Bytes of all lines.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// Bytes of memory that the batch holds on to.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.arena.capacity() + self.lines.capacity() * size_of::<Line>()
    }

    /// The sequence number after the last line.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    /// Whether the next line would begin another partition block, and so needs another batch.
    #[must_use]
    pub fn ends_block(&self) -> bool {
        !self.is_empty() && self.next_sequence().is_multiple_of(PARTITION_BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_a_roll_back_leaves_no_trace() {
        let mut batch = Batch::with_capacity(64);
        batch.begin(2, 510, None);
        for text in ["one", "two"] {
            batch.arena().extend_from_slice(text.as_bytes());
            batch.commit(7, true);
            batch.arena().extend_from_slice(b"half a li");
            batch.roll_back();
        }
        let lines: Vec<_> = batch.lines().map(|(sequence, _, text)| (sequence, text)).collect();
        assert_eq!(lines, [(510, &b"one"[..]), (511, b"two")]);
        assert!(batch.ends_block());
        batch.begin(0, 512, None);
        assert!(batch.is_empty() && !batch.ends_block());
    }
}
