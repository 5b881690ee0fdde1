//! Records, and runs of them as the sources hand them out.

use super::words::{bytes_of, expect_ahead, split_bytes};
use super::{Layout, Side, Tag};

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

/// Records as they are in the log, one behind the other. It is filled again and again, so that reading allocates nothing.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub(super) words: Vec<u32>,
    /// How far they have been taken.
    taken: usize,
}

impl Run {
    /// The records in words as they are in the log, batch headers among them or not.
    #[must_use]
    pub fn of(words: Vec<u32>) -> Self {
        Self { words, taken: 0 }
    }

    /// These records, in layout one and with a NUL at the end of each payload; `side` are the marker bits of all.
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
        Self::of(words)
    }

    pub(super) fn clear(&mut self) {
        self.words.clear();
    }

    /// The records, from the first one on.
    #[must_use]
    pub fn records(&mut self, layout: Layout) -> Records<'_> {
        self.taken = 0;
        Records::new(&self.words, layout, &mut self.taken)
    }
}

/// Records in the order of the log, up to the end of the run or to what cannot be one.
#[derive(Debug)]
pub struct Records<'a> {
    words: &'a [u32],
    layout: Layout,
    /// The index of the word behind the last record that was taken. It is the source's, which goes on from there.
    taken: &'a mut usize,
}

/// Records that have been taken.
#[derive(Debug, Clone, Copy)]
pub struct Reread<'a> {
    words: &'a [u32],
    /// With those behind them: what is found is told apart by its place in all.
    log: &'a [u32],
    layout: Layout,
}

impl<'a> Reread<'a> {
    /// None.
    pub const NONE: Self = Self { words: &[], log: &[], layout: Layout::One };

    /// The memory that they are in, with what is behind them.
    #[must_use]
    pub fn log(&self) -> &'a [u8] {
        bytes_of(self.log)
    }

    /// Where they end.
    #[must_use]
    pub fn end(&self) -> usize {
        self.words.len()
    }

    /// The records from such an [`end`](Self::end) of earlier on.
    #[must_use]
    pub fn records<'b>(&self, from: &'b mut usize) -> Records<'b>
    where
        'a: 'b,
    {
        Records::new(self.words, self.layout, from)
    }
}

/// What words begin with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found<'a> {
    /// A record, and what is behind it.
    Record(Record<'a>, &'a [u32]),
    /// Nothing, or part of a record: these words.
    Part(&'a [u32]),
    /// No record's first word.
    Damage(&'a [u32]),
}

/// What becomes of a record that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It is taken, and so may be the next one.
    Taken,
    /// It is taken, and is the last one.
    Last,
    /// It is left for the next time.
    Left,
}

impl<'a> Records<'a> {
    /// The records of words, from the index `taken` on.
    pub(super) fn new(words: &'a [u32], layout: Layout, taken: &'a mut usize) -> Self {
        Self { words, layout, taken }
    }

    /// The memory that the records are in.
    #[must_use]
    pub fn log(&self) -> &'a [u8] {
        bytes_of(self.words)
    }

    /// What has been taken, to be read again. It ends with the last record that was.
    #[must_use]
    pub fn read(&self) -> Reread<'a> {
        Reread { words: &self.words[..*self.taken], log: self.words, layout: self.layout }
    }

    /// The record that is next, without taking it.
    #[must_use]
    pub fn peek(&mut self) -> Option<Record<'a>> {
        let mut next = None;
        self.offer(|record| {
            next = Some(*record);
            Offer::Left
        });
        next
    }

    /// Offers record after record to `take`, for as long as it takes them. Quicker than one by one.
    #[inline]
    pub fn offer(&mut self, take: impl FnMut(&Record<'a>) -> Offer) {
        match self.layout {
            Layout::One => self.offer_with::<2>(take),
            Layout::Two => self.offer_with::<3>(take),
        }
    }

    #[inline]
    fn offer_with<const HEADER: usize>(&mut self, mut take: impl FnMut(&Record<'a>) -> Offer) {
        let mut left =
            Left { words: self.words.get(*self.taken..).unwrap_or_default(), of: self.words.len(), taken: self.taken };
        while let Found::Record(record, rest) = find_with::<HEADER>(left.words) {
            let before = std::mem::replace(&mut left.words, rest);
            match take(&record) {
                Offer::Taken => {}
                Offer::Last => return,
                Offer::Left => {
                    left.words = before;
                    return;
                }
            }
        }
    }
}

impl<'a> Records<'a> {
    /// Takes records of one transaction up to the first that `passes` says no to, which is given back; `None` before one of
    /// another transaction, and where [`peek`](Self::peek) gives none. This is the innermost loop of all: it does no more
    /// than it must.
    #[inline]
    pub fn skip_while(&mut self, vxid: u64, passes: impl FnMut(Tag, &'a [u8]) -> bool) -> Option<&'a [u8]> {
        match self.layout {
            Layout::One => self.skip_with::<2>(vxid, passes),
            Layout::Two => self.skip_with::<3>(vxid, passes),
        }
    }

    #[inline(always)]
    fn skip_with<const HEADER: usize>(
        &mut self,
        vxid: u64,
        mut passes: impl FnMut(Tag, &'a [u8]) -> bool,
    ) -> Option<&'a [u8]> {
        let unused = layout_of(HEADER).unused_bits();
        let mut words = self.words.get(*self.taken..).unwrap_or_default();
        let found = loop {
            let Some((header, rest)) = words.split_first_chunk::<HEADER>() else { break None };
            let first = header[0];
            expect_ahead(words);
            let tag = Tag::from_header(first);
            if !tag.is_of_record() || first & unused != 0 {
                if tag != Tag::BATCH {
                    break None;
                }
                words = rest;
                continue;
            }
            if vxid_of(header) != vxid {
                break None;
            }
            let Some((payload, rest)) = split_bytes(rest, payload_bytes(first)) else { break None };
            words = rest;
            if !passes(tag, payload) {
                break Some(payload);
            }
        };
        *self.taken = self.words.len() - words.len();
        found
    }
}

/// The layout whose records have so many words before their payload.
#[inline]
fn layout_of(header_words: usize) -> Layout {
    if header_words == Layout::One.header_words() { Layout::One } else { Layout::Two }
}

/// The transaction's id in a record's first words.
#[inline]
fn vxid_of<const HEADER: usize>(header: &[u32; HEADER]) -> u64 {
    let marker = header[HEADER - 1];
    match layout_of(HEADER) {
        Layout::One => u64::from(marker & 0x3fff_ffff),
        Layout::Two => (u64::from(header[1]) | u64::from(marker) << 32) & ((1 << 51) - 1),
    }
}

/// What has not been taken of some words. Tells how far they have been, also when a panic ends it: then the record is gone
/// that was being taken, and the next one is not.
struct Left<'a, 'b> {
    words: &'a [u32],
    of: usize,
    taken: &'b mut usize,
}

impl Drop for Left<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        *self.taken = self.of - self.words.len();
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let mut next = None;
        self.offer(|record| {
            next = Some(*record);
            Offer::Last
        });
        next
    }
}

/// Finds what words begin with.
pub(super) fn find(words: &[u32], layout: Layout) -> Found<'_> {
    match layout {
        Layout::One => find_with::<2>(words),
        Layout::Two => find_with::<3>(words),
    }
}

#[inline]
fn find_with<const HEADER: usize>(words: &[u32]) -> Found<'_> {
    let layout = layout_of(HEADER);
    let Some((header, rest)) = words.split_first_chunk::<HEADER>() else { return Found::Part(words) };
    let first = header[0];
    let tag = Tag::from_header(first);
    if !tag.is_of_record() || first & layout.unused_bits() != 0 {
        return if tag == Tag::BATCH { find_in_batch::<HEADER>(rest) } else { Found::Damage(words) };
    }
    let Some((payload, rest)) = split_bytes(rest, payload_bytes(first)) else { return Found::Part(words) };
    let marker = header[HEADER - 1];
    let vxid = vxid_of(header);
    let side = match marker >> 30 {
        1 => Side::Client,
        2 => Side::Backend,
        _ => Side::None,
    };
    Found::Record(Record { tag, vxid, side, payload }, rest)
}

/// The length of a batch stands in its second word and counts the records behind it, which are read as records.
#[cold]
fn find_in_batch<const HEADER: usize>(mut words: &[u32]) -> Found<'_> {
    while let Some((header, rest)) = words.split_first_chunk::<HEADER>()
        && Tag::from_header(header[0]) == Tag::BATCH
    {
        words = rest;
    }
    find_with::<HEADER>(words)
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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn vxids(records: Records<'_>) -> Vec<u64> {
        records.map(|record| record.vxid).collect()
    }

    #[test]
    fn records_are_taken_until_one_is_left_or_the_last() {
        let mut run = Run::of_records(1, (1..=5).map(|vxid| (Tag::REQ_URL, vxid, &b"/"[..])));
        let mut records = run.records(Layout::One);
        let mut offered = Vec::new();
        for stop in [Offer::Left, Offer::Last, Offer::Taken] {
            records.offer(|record| {
                offered.push(record.vxid);
                if record.vxid % 2 == 0 { stop } else { Offer::Taken }
            });
        }
        assert_eq!(offered, [1, 2, 2, 3, 4, 5]);
        assert!(records.peek().is_none() && records.next().is_none());
    }

    #[test]
    fn a_panic_costs_one_record() {
        let mut run = Run::of_records(1, (1..=3).map(|vxid| (Tag::REQ_URL, vxid, &b"/"[..])));
        let mut records = run.records(Layout::One);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            records.offer(|record| if record.vxid == 2 { panic!("on purpose") } else { Offer::Taken });
        }));
        assert!(panicked.is_err());
        assert_eq!(vxids(records), [3]);
    }

    #[test]
    fn batch_headers_are_passed_over_and_damage_ends_the_run() {
        let batch = u32::from(Tag::BATCH.number()) << 24;
        let record = |vxid| Run::of_records(1, [(Tag::REQ_URL, vxid, &b"/"[..])]).words;
        let mut words = vec![batch, 7, batch, 0];
        words.extend([record(1), record(2), vec![batch, 9], record(3)].concat());
        assert_eq!(vxids(Run::of(words.clone()).records(Layout::One)), [1, 2, 3]);
        let whole = words.len();
        for cut in 1..=3 {
            let cut = &words[..whole - cut];
            assert_eq!(vxids(Run::of(cut.to_vec()).records(Layout::One)), [1, 2]);
            assert!(
                matches!(find(&cut[12..], Layout::One), Found::Part(rest) if rest.len() == 3 - (whole - cut.len()))
            );
        }
        words.extend([batch, 9, 0, 0, 0]);
        assert_eq!(vxids(Run::of(words.clone()).records(Layout::One)), [1, 2, 3]);
        assert!(matches!(find(&words[whole..], Layout::One), Found::Damage([0, 0, 0])));
    }
}
