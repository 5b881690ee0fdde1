//! A writer that keeps varnishd's protocol, step by step, for tests: several threads can be anywhere between taking room and
//! finishing a record.

// The fuzz target needs less of it than the tests.
#![cfg_attr(not(test), allow(dead_code))]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::area::{END_MARKER, HEAD, OFFSETS, SEGMENT_N, SEGMENTS, WRAP_MARKER};
use super::{Layout, Tag};

/// A log and its writer's own state.
#[derive(Debug)]
pub(super) struct Writer {
    words: Arc<[AtomicU32]>,
    layout: Layout,
    segment_words: usize,
    segment: u32,
    offset: usize,
}

/// Room that a thread has taken.
#[derive(Debug)]
#[must_use]
pub(super) struct Room {
    /// The segment that had been reached before.
    pub(super) segment: u32,
    start: usize,
    words: Vec<u32>,
}

impl Writer {
    pub(super) fn new(layout: Layout, segment_words: usize) -> Self {
        let words = (0..HEAD + segment_words * SEGMENTS as usize).map(|_| AtomicU32::new(0)).collect();
        let writer = Self { words, layout, segment_words, segment: 0_u32.wrapping_sub(SEGMENTS), offset: 0 };
        let marker = if layout == Layout::One { b"VSLHEAD1" } else { b"VSLHEAD2" };
        for (index, word) in marker.as_chunks::<4>().0.iter().enumerate() {
            writer.put(index, u32::from_ne_bytes(*word));
        }
        writer.put_wide(2, segment_words as i64);
        writer.put(SEGMENT_N, writer.segment);
        for segment in 1..SEGMENTS as usize {
            writer.put_wide(OFFSETS + 2 * segment, -1);
        }
        writer.put(HEAD, END_MARKER);
        writer
    }

    /// Head and log.
    pub(super) fn words(&self) -> &[AtomicU32] {
        &self.words
    }

    /// The same, for a reader in another thread.
    pub(super) fn shared(&self) -> Arc<[AtomicU32]> {
        Arc::clone(&self.words)
    }

    /// The segment that has been reached, published or not.
    pub(super) fn segment(&self) -> u32 {
        self.segment
    }

    /// Overwrites any word.
    pub(super) fn put(&self, index: usize, word: u32) {
        self.words[index].store(word, Ordering::Release);
    }

    fn put_wide(&self, index: usize, value: i64) {
        let bytes = value.to_ne_bytes();
        self.put(index, u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        self.put(index + 1, u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]));
    }

    /// The words of a record.
    pub(super) fn record(&self, tag: Tag, vxid: u32, payload: &[u8]) -> Vec<u32> {
        let version = if self.layout == Layout::Two { 1 << 16 } else { 0 };
        let mut words = vec![u32::from(tag.number()) << 24 | version | payload.len() as u32, vxid];
        words.resize(self.layout.header_words(), 0);
        let mut payload = payload.to_vec();
        payload.resize(payload.len().next_multiple_of(4), 0);
        words.extend(payload.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)));
        words
    }

    /// The words of a batch of records.
    pub(super) fn batch(&self, records: &[u32]) -> Vec<u32> {
        let mut words = vec![u32::from(Tag::BATCH.number()) << 24, 4 * records.len() as u32];
        words.resize(self.layout.header_words(), 0);
        words.extend(records);
        words
    }

    /// Takes room, as under varnishd's lock. It is neither published nor filled yet.
    pub(super) fn take_room(&mut self, words: Vec<u32>) -> Room {
        let size = self.segment_words * SEGMENTS as usize;
        if self.offset + words.len() >= size {
            self.segment = self.segment.wrapping_add(SEGMENTS - self.segment % SEGMENTS);
            self.put_wide(OFFSETS, 0);
            self.put(HEAD, END_MARKER);
            if self.offset != 0 {
                self.put(HEAD + self.offset, WRAP_MARKER);
                self.offset = 0;
            }
            self.publish();
        }
        let (segment, start) = (self.segment, self.offset);
        self.offset += words.len();
        self.put(HEAD + self.offset, END_MARKER);
        while (self.offset / self.segment_words) as u32 > self.segment % SEGMENTS {
            self.segment = self.segment.wrapping_add(1);
            self.put_wide(OFFSETS + 2 * (self.segment % SEGMENTS) as usize, self.offset as i64);
        }
        Room { segment, start, words }
    }

    /// Publishes the segment that has been reached.
    pub(super) fn publish(&self) {
        self.put(SEGMENT_N, self.segment);
    }

    /// Everything but the first word. The number must have been published.
    pub(super) fn fill(&self, room: &Room) {
        for (index, word) in room.words.iter().enumerate().skip(1) {
            self.words[HEAD + room.start + index].store(*word, Ordering::Relaxed);
        }
    }

    /// The first word, last.
    pub(super) fn finish(&self, room: &Room) {
        self.put(HEAD + room.start, room.words[0]);
    }

    /// All of it at once.
    pub(super) fn write(&mut self, words: Vec<u32>) {
        let room = self.take_room(words);
        self.publish();
        self.fill(&room);
        self.finish(&room);
    }
}
