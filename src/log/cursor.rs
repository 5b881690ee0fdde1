//! Reading the log area: whole records out of memory that is being overwritten, each once and in order, or an overrun.
//!
//! Records are copied first and the writer's distance is looked at afterwards; what fails that is thrown away. Nothing is
//! believed beyond the bounds that the memory has, so that any content is survived. [`area`](super::area) says what the writer
//! does and why a distance is safe.

use std::iter;
use std::sync::atomic::{Ordering, fence};

use super::area::{Area, DISTANCE, END_MARKER, OLDEST, SEGMENTS, WRAP_MARKER, round};
use super::record::payload_words;
use super::{Filter, Position, Run, Tag};

/// Words that are looked at in one pass, so that nobody waits long for the first of them: 256 KiB.
const PASS: usize = 64 << 10;

/// How often a start is tried again while the writer runs away from it.
const TRIES: usize = 8;

/// A reader's place in the log.
#[derive(Debug)]
pub(super) struct Cursor {
    position: Position,
    /// The latest segment that the writer is known to have reached.
    newest: u32,
    /// There is no record at the position that makes sense; reading goes on at a later segment once there is one.
    lost: bool,
}

/// What a pass over the log found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// The position has moved on, and what was wanted has been copied.
    Records,
    /// Nothing new.
    End,
    /// What was next has been overwritten, or makes no sense. The position is now behind it.
    Overrun {
        /// Segments that were skipped.
        segments: u32,
    },
}

/// Why a pass ended.
enum Stop {
    /// At the end marker.
    End,
    /// At the boundary, or with enough looked at.
    Enough,
    /// At something that is no record.
    Damage,
}

impl Cursor {
    /// At the oldest record that is not about to be overwritten.
    pub(super) fn oldest(area: &Area<'_>) -> Self {
        let newest = area.published();
        let mut cursor = Self::before(newest, OLDEST + 1);
        // Nothing has been read that could have been overwritten: no overrun to tell.
        cursor.resynchronise(area);
        cursor
    }

    /// Behind the last record. What the writer adds meanwhile may be left to be read.
    pub(super) fn tail(area: &Area<'_>) -> Self {
        let mut nothing = Run::default();
        let mut cursor = Self::before(area.published(), 1);
        cursor.resynchronise(area);
        let start = cursor.position.segment;
        // A segment's worth, unless the writer is faster than this, or the memory is no log.
        for _ in 0..2 + area.log().len() / PASS {
            let pass = cursor.read(area, None, &Filter::NONE, &mut nothing);
            if pass == Pass::End || distance(cursor.position.segment, start) > 1 {
                break;
            }
        }
        cursor
    }

    /// At a position that an earlier reader of the same log noted. If that is impossible, at the oldest record, after an
    /// overrun.
    pub(super) fn at(area: &Area<'_>, position: Position) -> Self {
        let newest = area.published();
        let possible = (position.offset as usize) < area.log().len()
            && area.position(position.segment, position.offset as usize) == position
            && distance(position.segment, newest) <= SEGMENTS as i32;
        if possible { Self { position, newest, lost: false } } else { Self::before(newest, SEGMENTS) }
    }

    /// Lost, as many segments before the writer.
    fn before(newest: u32, segments: u32) -> Self {
        let position = Position { segment: newest.wrapping_sub(segments), offset: 0 };
        Self { position, newest, lost: true }
    }

    /// Where the next pass begins.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Copies records of the wanted tags, some or all that there are, and moves on behind them, but not across the boundary.
    pub(super) fn read(
        &mut self,
        area: &Area<'_>,
        boundary: Option<Position>,
        wanted: &Filter,
        copy: &mut Run,
    ) -> Pass {
        copy.clear();
        if self.lost {
            return self.resynchronise(area);
        }
        let (reached, stop) = walk(area, self.position, boundary, wanted, copy);
        // The copies must be done before the writer's segment is looked at.
        fence(Ordering::Acquire);
        self.observe(area);
        let behind = distance(self.newest, self.position.segment);
        if behind > DISTANCE {
            copy.clear();
            return self.resynchronise(area);
        }
        if -behind > SEGMENTS as i32 {
            // A round ahead of the writer: it left no end marker. Only what is new from now on is read.
            copy.clear();
            self.position.segment = self.newest.wrapping_sub(1);
            return self.resynchronise(area);
        }
        if reached != self.position {
            self.position = reached;
            return Pass::Records;
        }
        match stop {
            Stop::Damage => self.resynchronise(area),
            Stop::End | Stop::Enough => Pass::End,
        }
    }

    /// Takes note of the writer's segment. The number can go back for a moment; what has been seen counts.
    fn observe(&mut self, area: &Area<'_>) {
        let published = area.published();
        if distance(published, self.newest) > 0 {
            self.newest = published;
        }
    }

    /// Goes to the oldest segment behind the position that is whole and stays so for a while. Without one, waits for it.
    fn resynchronise(&mut self, area: &Area<'_>) -> Pass {
        self.lost = true;
        for _ in 0..TRIES {
            self.observe(area);
            let next = self.position.segment.wrapping_add(1);
            let oldest = self.newest.wrapping_sub(OLDEST);
            let first = if distance(next, oldest) > 0 { next } else { oldest };
            let candidates = 0..=distance(self.newest, first);
            let Some(found) = candidates.map(|step| first.wrapping_add_signed(step)).find_map(|at| area.entry(at))
            else {
                return Pass::End;
            };
            self.observe(area);
            if distance(self.newest, found.segment) <= DISTANCE {
                let segments = found.segment.wrapping_sub(self.position.segment);
                (self.position, self.lost) = (found, false);
                return Pass::Overrun { segments };
            }
        }
        Pass::End
    }
}

/// How many segments `to` is ahead of `from`; negative if it is behind. The numbers wrap.
fn distance(to: u32, from: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

/// Copies the wanted records from a position on. Returns where the first record begins that was not looked at.
fn walk(
    area: &Area<'_>,
    from: Position,
    boundary: Option<Position>,
    wanted: &Filter,
    copy: &mut Run,
) -> (Position, Stop) {
    let log = area.log();
    let header = area.layout().header_words();
    // Bits of a record's first word that are neither tag, version nor length.
    let unused = area.layout().unused_bits();
    let mut segment = from.segment;
    let mut at = from.offset as usize;
    let mut budget = PASS;
    'round: loop {
        let limit = match boundary {
            Some(boundary) if round(boundary.segment) == round(segment) => boundary.offset as usize,
            _ => log.len(),
        };
        let start = at;
        let limit = limit.min(start + budget);
        while at < limit {
            let Some(first) = log.get(at).map(|word| word.load(Ordering::Relaxed)) else {
                return (area.position(segment, at), Stop::Damage);
            };
            // The rest of a record must not be older than its first word.
            fence(Ordering::Acquire);
            let tag = Tag::from_header(first);
            if tag == Tag::RESERVED || tag.number() == 0 || first & unused != 0 {
                match first {
                    END_MARKER => return (area.position(segment, at), Stop::End),
                    WRAP_MARKER if at != 0 => {
                        budget -= budget.min(at - start);
                        segment = round(segment).wrapping_add(SEGMENTS);
                        at = 0;
                        continue 'round;
                    }
                    _ => return (area.position(segment, at), Stop::Damage),
                }
            }
            // A batch's length is in its second word; the records in it are read one by one.
            let end = at + header + if tag == Tag::BATCH { 0 } else { payload_words(first) };
            // The writer keeps a word for its marker.
            let Some(record) = log.get(at..end).filter(|_| end < log.len()) else {
                return (area.position(segment, at), Stop::Damage);
            };
            if wanted.wants_some(tag) && tag != Tag::BATCH {
                let [marker, beginning] =
                    [header - 1, header].map(|at| record.get(at).map_or(0, |word| word.load(Ordering::Relaxed)));
                if wanted.wants(tag, marker, beginning) {
                    // The length that `end` came from, whatever stands there by now.
                    let rest = record[1..].iter().map(|word| word.load(Ordering::Relaxed));
                    copy.words.extend(iter::once(first).chain(rest));
                }
            }
            at = end;
        }
        return (area.position(segment, at), Stop::Enough);
    }
}

#[cfg(test)]
mod tests;
