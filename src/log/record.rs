//! Records, and runs of them as the sources hand them out.

use super::words::bytes_of;
use super::{Filter, Layout, Side, Tag};

/// One record of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What kind of record.
    pub tag: Tag,
    /// The transaction, without the side's marker bits; 0 for none.
    pub vxid: u64,
    /// The side that the marker bits tell.
    pub side: Side,
    /// The payload as it is in the log, with its terminating NUL where the tag has one.
    pub payload: &'a [u8],
}

/// Words of the log, and where in them the records begin that are wanted. It is filled again and again, so that reading
/// allocates nothing.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub(super) words: Vec<u32>,
    /// Indices into `words`. Each is that of a whole record.
    starts: Vec<u32>,
}

/// Where a walk over a run's words ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walked {
    /// The index behind the last whole record.
    pub(super) end: usize,
    /// What stands there, if it cannot be a record's first word.
    pub(super) damage: Option<u32>,
}

impl Run {
    /// All whole records in words as they are in the log, batch headers among them or not.
    #[must_use]
    pub fn of(words: Vec<u32>, layout: Layout) -> Self {
        let mut run = Self { words, starts: Vec::new() };
        run.find(run.words.len(), layout, &Filter::ALL);
        run
    }

    /// These records, with a NUL at the end of each payload; `side` are the marker bits of all.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_records<'a>(side: u32, records: impl IntoIterator<Item = (Tag, u32, &'a [u8])>) -> Self {
        let mut words = Vec::new();
        for (tag, vxid, payload) in records {
            let mut payload = payload.to_vec();
            payload.push(0);
            words.extend([u32::from(tag.number()) << 24 | payload.len() as u32, vxid | side << 30]);
            payload.resize(payload.len().next_multiple_of(4), 0);
            words.extend(payload.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)));
        }
        Self::of(words, Layout::One)
    }

    pub(super) fn clear(&mut self) {
        self.words.clear();
        self.starts.clear();
    }

    /// Appends a record, whole.
    #[inline]
    pub(super) fn push(&mut self, record: impl Iterator<Item = u32>) {
        self.starts.push(self.words.len() as u32);
        self.words.extend(record);
    }

    /// Finds the wanted records in the first `length` words, and forgets those that were found before.
    pub(super) fn find(&mut self, length: usize, layout: Layout, filter: &Filter) -> Walked {
        match layout {
            Layout::One => self.find_with::<2>(length, layout, filter),
            Layout::Two => self.find_with::<3>(length, layout, filter),
        }
    }

    fn find_with<const HEADER: usize>(&mut self, length: usize, layout: Layout, filter: &Filter) -> Walked {
        self.starts.clear();
        let unused = layout.unused_bits();
        let words = &self.words[..length];
        let mut at = 0;
        while let Some(&first) = words.get(at) {
            let tag = Tag::from_header(first);
            if !tag.is_of_record() || first & unused != 0 {
                // The length of a batch stands in its second word and counts the records behind it, which are read as records.
                if tag != Tag::BATCH {
                    return Walked { end: at, damage: Some(first) };
                }
                if at + HEADER > words.len() {
                    break;
                }
                at += HEADER;
                continue;
            }
            let next = at + HEADER + payload_words(first);
            if next > words.len() {
                break;
            }
            if filter.wants_some(tag)
                && let Some(&marker) = words.get(at + HEADER - 1)
                && filter.wants(tag, marker, words.get(at + HEADER).copied().unwrap_or_default())
            {
                self.starts.push(at as u32);
            }
            at = next;
        }
        Walked { end: at, damage: None }
    }

    /// The records.
    #[must_use]
    pub fn records(&self, layout: Layout) -> Records<'_> {
        Records { words: &self.words, starts: self.starts.iter(), layout }
    }
}

/// The records of a run, in the order of the log.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    words: &'a [u32],
    starts: std::slice::Iter<'a, u32>,
    layout: Layout,
}

impl<'a> Records<'a> {
    /// The memory that the run's records are in.
    #[must_use]
    pub fn log(&self) -> &'a [u8] {
        bytes_of(self.words)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        let record = self.words.get(*self.starts.next()? as usize..)?;
        let (first, vxid, marker, payload) = match (self.layout, record) {
            (Layout::One, [first, id, payload @ ..]) => (*first, u64::from(id & 0x3fff_ffff), id >> 30, payload),
            (Layout::Two, [first, low, high, payload @ ..]) => {
                (*first, (u64::from(*low) | u64::from(*high) << 32) & ((1 << 51) - 1), high >> 30, payload)
            }
            _ => return None,
        };
        let side = match marker {
            1 => Side::Client,
            2 => Side::Backend,
            _ => Side::None,
        };
        let payload = bytes_of(payload).get(..payload_bytes(first))?;
        Some(Record { tag: Tag::from_header(first), vxid, side, payload })
    }
}

/// Bytes of a record's payload, by its first word.
#[inline]
fn payload_bytes(first: u32) -> usize {
    (first & 0xffff) as usize
}

/// Words of a record's payload, by its first word.
#[inline]
pub(super) fn payload_words(first: u32) -> usize {
    payload_bytes(first).div_ceil(4)
}
