//! The log area: records in memory that varnishd writes while they are read.
//!
//! # Layout
//!
//! ```text
//! byte 0   marker, 8 bytes           VSLHEAD1 or VSLHEAD2
//!      8   segsize, 8 bytes          words in a segment
//!     16   segment_n, 4 bytes        the segment that is being written, a running number
//!     24   offset[8], 8 bytes each   word of the first record in a segment; -1 before its first use
//!     88   log                       8 × segsize words
//! ```
//!
//! # How varnishd writes
//!
//! ```text
//! lock
//!   no room before the end of the log?  offset[0] = 0, log[0] = END; behind the last record: WRAP;
//!                                       segment_n = the next multiple of 8
//!   take the room; behind it: END; for every segment that begins in it: count up, offset[segment] = behind it
//! unlock
//! segment_n = the count
//! fill the room; its first word last
//! ```
//!
//! So a reader that finds END waits, even for a record that was taken before others that are finished, and one that finds
//! anything else may read that record.
//!
//! # What may be believed
//!
//! With *s* the running number of the segment that a word lies in, the word is overwritten by what is written eight segments
//! later. A record's words are stored only after its own thread has published the number of the segment that the record ends
//! in. So whoever has seen a word of segment *s* + 8, and looks at `segment_n` afterwards, finds *s* + 8 there or more. The
//! markers are different: END is stored, and `log[0]` at a wrap, before the number is published, and they can lie one segment
//! ahead of it. With `segment_n` = *n*, then, nothing is stored beyond segment *n* + 1, and what lies in segment *s* is as
//! it was while *n* + 1 < *s* + 8, that is, while the distance *n* − *s* is [`DISTANCE`] = 6 at the most. The readers that come
//! with Varnish stop at 5.
//!
//! Three things are outside of this. A thread that sleeps between taking room and filling it, while the others go once round
//! the log, writes into the middle of their records. A batch that is longer than a segment (`vsl_buffer` above an eighth of
//! `vsl_space`) can put END two segments ahead, and a wrap can then leave out a segment whose entry in the table stays that
//! of the round before. varnishd's own readers are wrong in both cases, too. And since `segment_n` is stored without the
//! lock, a thread that is interrupted between loading the count and storing it puts back an old number until the next record
//! is written. So the number may be *behind* what has been read already, which is no overrun, and
//! [`Cursor`](super::cursor::Cursor) takes the latest number that it has seen.
//!
//! Source: varnishd's `cache/cache_shmlog.c` and `vsl_priv.h`, 6.0 to trunk.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::{Layout, Position};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the log's head is read as 64-bit varnishd lays it out");

/// Segments of the log.
pub(super) const SEGMENTS: u32 = kafkalog_ffi::layout::SEGMENTS as u32;

/// The largest distance to the writer's segment at which a segment is whole.
pub(super) const DISTANCE: i32 = SEGMENTS as i32 - 2;

/// How far behind the writer reading starts when it starts at the oldest: even if the writer enters its next segment at once,
/// there is one more before the reader is too far behind.
pub(super) const OLDEST: u32 = SEGMENTS - 3;

/// Words before the log.
pub(super) const HEAD: usize = 22;

/// Where in the head the segment's number stands.
pub(super) const SEGMENT_N: usize = 4;

/// Where in the head the table of offsets begins; two words for each.
pub(super) const OFFSETS: usize = 6;

/// `EEE` under the tag that is reserved for markers: no finished record here yet.
pub(super) const END_MARKER: u32 = 254 << 24 | 0x45_4545;

/// `WWW`: the next record is at the start of the log.
pub(super) const WRAP_MARKER: u32 = 254 << 24 | 0x57_5757;

/// What the head says of the memory behind it, checked once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    layout: Layout,
    segment_words: usize,
}

/// A memory that is no log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotALog {
    /// The marker is not known.
    Marker([u8; 8]),
    /// The sizes in the head do not fit the memory.
    Size,
}

impl Shape {
    /// The shape that the head tells, if the memory has room for it.
    pub(super) fn of(words: &[AtomicU32]) -> Result<Self, NotALog> {
        let (head, log) = words.split_at_checked(HEAD).ok_or(NotALog::Size)?;
        let mut marker = [0; 8];
        marker[..4].copy_from_slice(&head[0].load(Ordering::Relaxed).to_ne_bytes());
        marker[4..].copy_from_slice(&head[1].load(Ordering::Relaxed).to_ne_bytes());
        // varnishd writes the marker last.
        fence(Ordering::Acquire);
        let layout = match &marker {
            b"VSLHEAD1" => Layout::One,
            b"VSLHEAD2" => Layout::Two,
            _ => return Err(NotALog::Marker(marker)),
        };
        let segment_words = usize::try_from(wide(head, 2)).map_err(|_| NotALog::Size)?;
        // Positions keep offsets in 32 bits: a log of 16 GiB.
        match segment_words.checked_mul(SEGMENTS as usize) {
            Some(size @ 1..) if size <= log.len() && u32::try_from(size).is_ok() => Ok(Self { layout, segment_words }),
            _ => Err(NotALog::Size),
        }
    }

    pub(super) fn layout(self) -> Layout {
        self.layout
    }
}

/// The log in memory. Every load is one of 32 bits, atomic and relaxed, with a fence where order matters: other loads are
/// not promised to work on memory that is mapped for reading only.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area<'a> {
    head: &'a [AtomicU32],
    log: &'a [AtomicU32],
    shape: Shape,
}

impl<'a> Area<'a> {
    /// The words that `shape` was made of.
    pub(super) fn new(words: &'a [AtomicU32], shape: Shape) -> Self {
        let (head, log) = words.split_at(HEAD);
        Self { head, log: &log[..shape.segment_words * SEGMENTS as usize], shape }
    }

    pub(super) fn layout(&self) -> Layout {
        self.shape.layout
    }

    /// The words of the log.
    pub(super) fn log(&self) -> &'a [AtomicU32] {
        self.log
    }

    /// The segment that is being written, as published last.
    pub(super) fn published(&self) -> u32 {
        let segment = self.head[SEGMENT_N].load(Ordering::Relaxed);
        // The table of offsets must not be older than the number.
        fence(Ordering::Acquire);
        segment
    }

    /// Where the first record is that begins in a segment, by the table in the head. `None` for a segment that was not used
    /// yet in the first round, and for what cannot be.
    pub(super) fn entry(&self, segment: u32) -> Option<Position> {
        let offset = wide(self.head, OFFSETS + 2 * (segment % SEGMENTS) as usize);
        let offset = u32::try_from(offset).ok().filter(|offset| (*offset as usize) < self.log.len())?;
        let position = self.position(segment, offset as usize);
        // A record that goes over several segments leaves the same entry in all of them.
        (position.segment % SEGMENTS >= segment % SEGMENTS).then_some(position)
    }

    /// The position of this word in the round of the log that the segment belongs to.
    pub(super) fn position(&self, segment: u32, offset: usize) -> Position {
        let within = (offset / self.shape.segment_words) as u32;
        Position { segment: round(segment).wrapping_add(within), offset: offset as u32 }
    }
}

/// The number of the first segment of a segment's round.
pub(super) fn round(segment: u32) -> u32 {
    segment & !(SEGMENTS - 1)
}

/// A 64-bit value of the head. Its halves may be of different times; whoever uses it checks its range.
fn wide(words: &[AtomicU32], index: usize) -> i64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&words[index].load(Ordering::Relaxed).to_ne_bytes());
    bytes[4..].copy_from_slice(&words[index + 1].load(Ordering::Relaxed).to_ne_bytes());
    i64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::simulation::Writer;

    #[test]
    fn what_is_no_log_is_refused() {
        let words: Vec<AtomicU32> = (0..10).map(AtomicU32::new).collect();
        assert_eq!(Shape::of(&words), Err(NotALog::Size));
        let writer = Writer::new(Layout::One, 64);
        for size in [0, 65, u32::MAX] {
            writer.put(2, size);
            assert_eq!(Shape::of(writer.words()), Err(NotALog::Size));
        }
        writer.put(3, u32::MAX);
        assert_eq!(Shape::of(writer.words()), Err(NotALog::Size), "negative");
        writer.put(0, 0);
        assert!(matches!(Shape::of(writer.words()), Err(NotALog::Marker([0, 0, 0, 0, b'E', ..]))));
    }

    #[test]
    fn an_entry_is_where_a_segment_begins() {
        let writer = Writer::new(Layout::Two, 64);
        let area = Area::new(writer.words(), Shape::of(writer.words()).unwrap());
        assert_eq!(area.layout(), Layout::Two);
        let first = area.published();
        assert_eq!(first, 0_u32.wrapping_sub(8), "the first round ends where the number wraps");
        assert_eq!(area.entry(first), Some(Position { segment: first, offset: 0 }));
        assert_eq!(area.entry(first + 1), None);
        writer.put(OFFSETS + 2, 130);
        writer.put(OFFSETS + 3, 0);
        assert_eq!(area.entry(first + 1), Some(Position { segment: first + 2, offset: 130 }), "behind a long record");
        writer.put(OFFSETS + 2, 5);
        assert_eq!(area.entry(first + 1), None, "that is segment 0");
        writer.put(OFFSETS + 2, 8 * 64);
        assert_eq!(area.entry(first + 1), None, "that is the end of the log");
    }
}
