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
//! Under a lock it takes room, puts an end marker behind it, and counts the segment up if the end is in the next one; then,
//! without the lock, it publishes the segment's number, fills the room, and writes the record's first word last. So a reader
//! that finds the end marker waits, and one that finds anything else (loaded with acquire ordering) may read the record. At
//! the end of the log a wrap marker sends the reader to the start.
//!
//! # What may be believed
//!
//! The writer overwrites whatever is eight segments behind it. With `segment_n` published as *n*, room that is being taken
//! can reach into segment *n* + 1: the number is published after the lock is let go. So the segment with number *s* is
//! untouched while *n* + 1 < *s* + 8, that is, while the distance *n* − *s* is 6 at the most. Records are copied first and
//! the distance is looked at afterwards; what fails that is thrown away. Nothing that is read before is believed beyond
//! bounds that the mapping has.
//!
//! Source: varnishd's `cache/cache_shmlog.c` and `vsl_priv.h`, 6.0 to trunk.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::{Layout, Position, Tag, TagSet};

/// Segments of the log.
const SEGMENTS: u32 = kafkalog_ffi::layout::SEGMENTS as u32;

/// The largest distance to the writer's segment at which a segment is whole.
const DISTANCE: u32 = SEGMENTS - 2;

/// How far behind the writer reading starts when it starts at the oldest: one segment from being overwritten.
const OLDEST: u32 = SEGMENTS - 3;

/// Words before the log.
const HEAD: usize = 22;

/// `EEE` and `WWW` under the tag that is reserved for them.
const END_MARKER: u32 = 254 << 24 | 0x45_4545;
const WRAP_MARKER: u32 = 254 << 24 | 0x57_5757;

/// Words that are copied at a time, so that nobody waits long for the first of them.
const CHUNK: usize = 64 << 10;

/// The log in memory, checked to have the size that its head tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area<'a> {
    head: &'a [AtomicU32],
    log: &'a [AtomicU32],
    segment_size: usize,
    layout: Layout,
}

/// What a pass over the log found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Everything up to the end marker, or to the boundary, has been copied.
    End,
    /// There may be more.
    More,
    /// The writer was too close, or what it left makes no sense. What was copied is void.
    Overrun,
}

/// A memory that is no log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotALog {
    /// The marker is not known.
    Marker([u8; 8]),
    /// The sizes in the head do not fit the memory.
    Size,
}

impl<'a> Area<'a> {
    pub(super) fn new(words: &'a [AtomicU32]) -> Result<Self, NotALog> {
        let (head, log) = words.split_at_checked(HEAD).ok_or(NotALog::Size)?;
        let mut marker = [0; 8];
        marker[..4].copy_from_slice(&head[0].load(Ordering::Acquire).to_ne_bytes());
        marker[4..].copy_from_slice(&head[1].load(Ordering::Acquire).to_ne_bytes());
        let layout = match &marker {
            b"VSLHEAD1" => Layout::One,
            b"VSLHEAD2" => Layout::Two,
            _ => return Err(NotALog::Marker(marker)),
        };
        let segment_size = usize::try_from(wide(head, 2)).map_err(|_| NotALog::Size)?;
        let size = segment_size.checked_mul(SEGMENTS as usize).ok_or(NotALog::Size)?;
        // Offsets are kept in 32 bits; varnishd's -l is limited to 4 GB.
        if segment_size == 0 || u32::try_from(size).is_err() {
            return Err(NotALog::Size);
        }
        let log = log.get(..size).ok_or(NotALog::Size)?;
        Ok(Self { head, log, segment_size, layout })
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// The segment that is being written.
    fn written_segment(&self) -> u32 {
        self.head[4].load(Ordering::Acquire)
    }

    /// Where the oldest record is that is not about to be overwritten.
    pub(super) fn oldest(&self) -> Position {
        self.first_from(self.written_segment().wrapping_sub(OLDEST))
    }

    /// Where the segment starts that is being written.
    pub(super) fn newest(&self) -> Position {
        self.first_from(self.written_segment())
    }

    /// The first record from the start of a segment on; in the log's first round, later segments are not used yet.
    fn first_from(&self, segment: u32) -> Position {
        for segment in (0..SEGMENTS).map(|step| segment.wrapping_add(step)) {
            let offset = wide(self.head, 6 + 2 * (segment % SEGMENTS) as usize);
            if let Some(offset) = u32::try_from(offset).ok().filter(|offset| (*offset as usize) < self.log.len()) {
                return Position { segment, offset };
            }
        }
        Position { segment: segment & !(SEGMENTS - 1), offset: 0 }
    }

    /// Whether everything from this position on is still as it was written.
    pub(super) fn is_whole(&self, position: Position) -> bool {
        self.written_segment().wrapping_sub(position.segment) <= DISTANCE
    }

    /// Copies the records of the wanted tags from `position` on, some or all, and moves it behind what was looked at: to
    /// the boundary at the most. After an overrun, `position` is unchanged and what is in `copy` is void.
    pub(super) fn read(
        &self,
        position: &mut Position,
        boundary: Option<Position>,
        wanted: &TagSet,
        copy: &mut Vec<u32>,
    ) -> Pass {
        copy.clear();
        let mut at = *position;
        let mut looked_at = 0;
        let pass = loop {
            if boundary == Some(at) {
                break Pass::End;
            }
            if looked_at >= CHUNK {
                break Pass::More;
            }
            let Some(first) = self.log.get(at.offset as usize).map(|word| word.load(Ordering::Acquire)) else {
                break Pass::Overrun;
            };
            match first {
                END_MARKER => break Pass::End,
                WRAP_MARKER => {
                    at = Position { segment: (at.segment | (SEGMENTS - 1)).wrapping_add(1), offset: 0 };
                    // A wrap to a wrap makes no sense; counting keeps it from going on for ever.
                    looked_at += CHUNK / 8;
                    continue;
                }
                _ => {}
            }
            let Some(length) = self.copy_unit(at.offset as usize, first, wanted, copy) else {
                break Pass::Overrun;
            };
            looked_at += length;
            at = self.advance(at, length);
        };
        // The copies above must be done before the writer's segment is looked at.
        fence(Ordering::Acquire);
        if pass == Pass::Overrun || !self.is_whole(*position) {
            return Pass::Overrun;
        }
        *position = at;
        pass
    }

    /// Copies what is wanted of a record or a batch. Returns its words, or `None` if they are not in the log.
    fn copy_unit(&self, offset: usize, first: u32, wanted: &TagSet, copy: &mut Vec<u32>) -> Option<usize> {
        let header = self.layout.header_words();
        let tag = Tag::from_header(first);
        if tag != Tag::BATCH {
            let length = header + payload_words(first);
            let record = self.log.get(offset..offset + length)?;
            if tag.number() == 0 || tag == Tag::RESERVED {
                return None;
            }
            copy_record(record, first, tag, wanted, copy);
            return Some(length);
        }
        let bytes = self.log.get(offset + 1)?.load(Ordering::Relaxed) as usize;
        let length = header + bytes.div_ceil(4);
        let mut rest = self.log.get(offset + header..offset + length)?;
        while let Some(first) = rest.first().map(|word| word.load(Ordering::Relaxed)) {
            let (record, behind) = rest.split_at_checked(header + payload_words(first))?;
            copy_record(record, first, Tag::from_header(first), wanted, copy);
            rest = behind;
        }
        Some(length)
    }

    fn advance(&self, at: Position, words: usize) -> Position {
        let offset = at.offset as usize + words;
        // As the writer counts: segment by segment, up to the one that the offset is in.
        let behind = (offset / self.segment_size) as u32;
        let segment = at.segment.wrapping_add(behind.saturating_sub(at.segment % SEGMENTS));
        Position { segment, offset: offset as u32 }
    }
}

#[inline]
fn copy_record(record: &[AtomicU32], first: u32, tag: Tag, wanted: &TagSet, copy: &mut Vec<u32>) {
    if wanted.contains(tag) {
        copy.push(first);
        copy.extend(record[1..].iter().map(|word| word.load(Ordering::Relaxed)));
    }
}

#[inline]
fn payload_words(first: u32) -> usize {
    ((first & 0xffff) as usize).div_ceil(4)
}

/// A 64-bit value of the head.
fn wide(words: &[AtomicU32], index: usize) -> i64 {
    let low = u64::from(words[index].load(Ordering::Relaxed));
    let high = u64::from(words[index + 1].load(Ordering::Relaxed));
    (low | high << 32).cast_signed()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::log::Records;

    /// Writes a log as varnishd does, with its own state beside the shared head.
    struct Writer {
        words: Vec<AtomicU32>,
        layout: Layout,
        segment_size: usize,
        segment: u32,
        offset: usize,
    }

    impl Writer {
        fn new(layout: Layout, segment_size: usize) -> Self {
            let words = (0..HEAD + segment_size * SEGMENTS as usize).map(|_| AtomicU32::new(0)).collect();
            let mut writer = Self { words, layout, segment_size, segment: 0_u32.wrapping_sub(SEGMENTS), offset: 0 };
            let marker = if layout == Layout::One { b"VSLHEAD1" } else { b"VSLHEAD2" };
            writer.put(0, u32::from_ne_bytes([marker[0], marker[1], marker[2], marker[3]]));
            writer.put(1, u32::from_ne_bytes([marker[4], marker[5], marker[6], marker[7]]));
            writer.put(2, segment_size as u32);
            writer.put(4, writer.segment);
            for segment in 1..SEGMENTS as usize {
                writer.put(6 + 2 * segment, u32::MAX);
                writer.put(7 + 2 * segment, u32::MAX);
            }
            writer.put(HEAD, END_MARKER);
            writer
        }

        fn put(&mut self, index: usize, word: u32) {
            self.words[index].store(word, Ordering::Release);
        }

        /// `vsl_get`: room for these words of payload, whose first word is still the end marker.
        fn take_room(&mut self, payload: usize) -> usize {
            let length = self.layout.header_words() + payload;
            let size = self.segment_size * SEGMENTS as usize;
            if self.offset + length >= size {
                self.segment = self.segment.wrapping_add(SEGMENTS - self.segment % SEGMENTS);
                self.put(6, 0);
                self.put(7, 0);
                self.put(HEAD, END_MARKER);
                self.put(HEAD + self.offset, WRAP_MARKER);
                self.offset = 0;
                self.put(4, self.segment);
            }
            let start = self.offset;
            self.offset += length;
            self.put(HEAD + self.offset, END_MARKER);
            while (self.offset / self.segment_size) as u32 > self.segment % SEGMENTS {
                self.segment = self.segment.wrapping_add(1);
                let index = 6 + 2 * (self.segment % SEGMENTS) as usize;
                self.put(index, self.offset as u32);
                self.put(index + 1, 0);
            }
            self.put(4, self.segment);
            start
        }

        fn record_words(&self, vxid: u32, payload: &[u8]) -> Vec<u32> {
            let mut words = vec![u32::from(Tag::REQ_URL.number()) << 24 | payload.len() as u32, vxid];
            words.resize(self.layout.header_words(), 0);
            let mut payload = payload.to_vec();
            payload.resize(payload.len().next_multiple_of(4), 0);
            words.extend(payload.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)));
            words
        }

        fn write(&mut self, records: &[(u32, Vec<u8>)], batch: bool) {
            let header = self.layout.header_words();
            let records: Vec<Vec<u32>> = records.iter().map(|(vxid, text)| self.record_words(*vxid, text)).collect();
            if batch {
                let inside: Vec<u32> = records.concat();
                let start = HEAD + self.take_room(inside.len());
                self.put(start + 1, 4 * inside.len() as u32);
                (start + header..).zip(inside).for_each(|(index, word)| self.put(index, word));
                self.put(start, u32::from(Tag::BATCH.number()) << 24);
            } else {
                for record in records {
                    let start = HEAD + self.take_room(record.len() - header);
                    (start + 1..).zip(&record[1..]).for_each(|(index, word)| self.put(index, *word));
                    self.put(start, record[0]);
                }
            }
        }
    }

    fn read_some(area: &Area<'_>, position: &mut Position, boundary: Option<Position>) -> (Pass, Vec<u32>) {
        let mut copy = Vec::new();
        let pass = area.read(position, boundary, &TagSet::ALL, &mut copy);
        let vxids = Records::new(&copy, area.layout(), &TagSet::ALL).map(|record| record.vxid as u32).collect();
        (pass, vxids)
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let words: Vec<AtomicU32> = (0..10).map(AtomicU32::new).collect();
        assert_eq!(Area::new(&words).map(drop), Err(NotALog::Size));
        let mut writer = Writer::new(Layout::One, 64);
        writer.put(2, 65);
        assert_eq!(Area::new(&writer.words).map(drop), Err(NotALog::Size));
        writer.put(0, 0);
        assert!(matches!(Area::new(&writer.words).map(drop), Err(NotALog::Marker(_))));
    }

    #[test]
    fn reading_stops_at_a_boundary_and_at_a_record_that_is_not_finished() {
        let mut writer = Writer::new(Layout::One, 256);
        writer.write(&[(1, b"a".to_vec()), (2, b"b".to_vec())], false);
        let mut position = Area::new(&writer.words).unwrap().oldest();
        let start = position;
        assert_eq!(read_some(&Area::new(&writer.words).unwrap(), &mut position, None), (Pass::End, vec![1, 2]));
        let boundary = position;
        writer.write(&[(3, b"c".to_vec())], true);
        writer.take_room(4);
        let area = Area::new(&writer.words).unwrap();
        let mut again = start;
        assert_eq!(read_some(&area, &mut again, Some(boundary)), (Pass::End, vec![1, 2]));
        assert_eq!(again, boundary);
        assert_eq!(read_some(&area, &mut again, None), (Pass::End, vec![3]));
    }

    proptest! {
        /// Whatever the pace, every record is read once and in order, or an overrun is told.
        #[test]
        fn nothing_is_lost_or_doubled_in_silence(
            steps in proptest::collection::vec((proptest::collection::vec(0_usize..60, 1..5), any::<bool>(), 0_u8..4), 1..400),
            two: bool,
        ) {
            let mut writer = Writer::new(if two { Layout::Two } else { Layout::One }, 128);
            let mut position = Area::new(&writer.words).unwrap().oldest();
            let mut next = 0;
            let mut unread = VecDeque::new();
            for (lengths, batch, reads) in steps {
                let records: Vec<_> = lengths.iter().map(|length| { next += 1; (next, vec![b'x'; *length]) }).collect();
                unread.extend(records.iter().map(|(vxid, _)| *vxid));
                writer.write(&records, batch);
                let area = Area::new(&writer.words).unwrap();
                for _ in 0..reads.saturating_sub(1) {
                    let (pass, vxids) = read_some(&area, &mut position, None);
                    if pass == Pass::Overrun {
                        position = area.oldest();
                        let (pass, vxids) = read_some(&area, &mut position, None);
                        prop_assert_ne!(pass, Pass::Overrun);
                        // What is left is a tail of what was written.
                        let skipped = unread.len() - vxids.len();
                        unread.drain(..skipped);
                        prop_assert_eq!(&vxids[..], &*unread.make_contiguous());
                        unread.clear();
                    } else {
                        for vxid in vxids {
                            prop_assert_eq!(Some(vxid), unread.pop_front());
                        }
                    }
                }
            }
        }

        #[test]
        fn any_memory_is_survived(
            noise in proptest::collection::vec(any::<u32>(), 0..300),
            segment_size in 1_u32..64,
            segment: u32,
            offset: u32,
            two: bool,
        ) {
            let mut writer = Writer::new(if two { Layout::Two } else { Layout::One }, segment_size as usize);
            (4..writer.words.len()).zip(noise).for_each(|(index, word)| writer.put(index, word));
            let area = Area::new(&writer.words).unwrap();
            for mut position in [area.oldest(), area.newest(), Position { segment, offset }] {
                let _ = read_some(&area, &mut position, None);
            }
        }
    }
}
