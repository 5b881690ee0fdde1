//! The assembler: from records in log order to whole transactions.
//!
//! Transactions interleave, and one may come in pieces far apart, so records are told apart by vxid alone. Each open
//! transaction has a slot; slots are used again with their memory, so that nothing is allocated once there are enough.
//! A list through the slots, oldest first, finds the ones to give up: when there are too many, or one takes too long.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::counters::Counters;
use crate::log::{Filter, Position, Record, Side, Tag};

use super::{CaptureTable, Transaction};

/// How much may be unfinished.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Transactions at a time.
    pub transactions: usize,
    /// Time from a transaction's begin.
    pub timeout: Duration,
}

/// Which transactions are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Interest {
    /// Requests of clients.
    pub client: bool,
    /// Requests to backends.
    pub backend: bool,
}

impl Interest {
    /// Whether transactions of this side are wanted.
    #[inline]
    pub(super) fn in_side(self, side: Side) -> bool {
        match side {
            Side::Client => self.client,
            Side::Backend => self.backend,
            Side::None => false,
        }
    }
}

/// What a `Begin` record begins with that opens a client's request.
pub(super) const REQUEST: &[u8] = b"req ";
/// What a `Begin` record begins with that opens a request to a backend.
pub(super) const BACKEND_REQUEST: &[u8] = b"bereq ";

const NONE: u32 = u32::MAX;

/// No transaction: vxids have at most 51 bits.
const NOBODY: (u64, u32) = (u64::MAX, NONE);

#[derive(Debug)]
struct Slot {
    transaction: Transaction,
    began: Instant,
    position: Option<Position>,
    older: u32,
    younger: u32,
}

/// Puts transactions together.
#[derive(Debug)]
pub struct Assembler {
    table: CaptureTable,
    interest: Interest,
    limits: Limits,
    slots: Vec<Slot>,
    free: Vec<u32>,
    open: HashMap<u64, u32, BuildHasherDefault<VxidHasher>>,
    /// The vxid of the last record and its slot ([`NONE`] when nobody wants it): records of one transaction come in runs.
    last: (u64, u32),
    oldest: u32,
    youngest: u32,
}

impl Assembler {
    /// An assembler for these captures.
    #[must_use]
    pub fn new(table: CaptureTable, interest: Interest, limits: Limits) -> Self {
        Self {
            table,
            interest,
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            open: HashMap::with_capacity_and_hasher(limits.transactions + 1, BuildHasherDefault::default()),
            last: NOBODY,
            oldest: NONE,
            youngest: NONE,
        }
    }

    /// The records that a log source must hand out.
    #[must_use]
    pub fn wanted(&self) -> Filter {
        self.table.wanted(self.interest)
    }

    /// Transactions that have begun and not ended.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Where the oldest open transaction began; `None` when there is none, or the source has no positions.
    #[must_use]
    pub fn oldest_position(&self) -> Option<Position> {
        self.slots.get(self.oldest as usize).and_then(|slot| slot.position)
    }

    /// Takes a record; `done` gets the transaction that it ends, and the ones that have to make room for it.
    #[inline]
    pub fn record(
        &mut self,
        record: &Record<'_>,
        now: Instant,
        position: Option<Position>,
        counters: &Counters,
        mut done: impl FnMut(&mut Transaction),
    ) {
        if self.last.0 != record.vxid {
            self.last = (record.vxid, self.open.get(&record.vxid).copied().unwrap_or(NONE));
        }
        let slot = self.last.1;
        if record.tag == Tag::BEGIN {
            if slot == NONE {
                self.begin(record, now, position, counters, done);
            }
        } else if slot == NONE {
            // The rest of a transaction that is not wanted, or whose begin was not seen.
        } else if record.tag == Tag::END {
            self.close(slot, &mut done);
        } else {
            self.table.take(record, &mut self.slots[slot as usize].transaction);
        }
    }

    /// Gives up the transactions that have been open for too long. Cheap when there is none.
    pub fn expire(&mut self, now: Instant, counters: &Counters, mut done: impl FnMut(&mut Transaction)) {
        while let Some(slot) = self.slots.get(self.oldest as usize) {
            if now.saturating_duration_since(slot.began) < self.limits.timeout {
                return;
            }
            self.give_up(self.oldest, counters, &mut done);
        }
    }

    /// Gives up every open transaction: the log broke, and what is missing of them will not come.
    pub fn give_up_all(&mut self, counters: &Counters, mut done: impl FnMut(&mut Transaction)) {
        while self.oldest != NONE {
            self.give_up(self.oldest, counters, &mut done);
        }
    }

    fn begin(
        &mut self,
        record: &Record<'_>,
        now: Instant,
        position: Option<Position>,
        counters: &Counters,
        mut done: impl FnMut(&mut Transaction),
    ) {
        if !self.interest.in_side(record.side) || !is_request(record.payload) {
            return;
        }
        if self.open.len() >= self.limits.transactions {
            self.give_up(self.oldest, counters, &mut done);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { transaction: Transaction::new(), began: now, position, older: NONE, younger: NONE });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.transaction.begin(record.vxid, record.side, self.table.len());
        (entry.began, entry.position, entry.older, entry.younger) = (now, position, self.youngest, NONE);
        match self.slots.get_mut(self.youngest as usize) {
            Some(youngest) => youngest.younger = slot,
            None => self.oldest = slot,
        }
        self.youngest = slot;
        self.open.insert(record.vxid, slot);
        self.last = (record.vxid, slot);
        self.table.take(record, &mut self.slots[slot as usize].transaction);
    }

    fn give_up(&mut self, slot: u32, counters: &Counters, done: &mut impl FnMut(&mut Transaction)) {
        self.slots[slot as usize].transaction.incomplete = true;
        counters.incomplete.add(1);
        self.close(slot, done);
    }

    /// Frees the slot, then hands the transaction on: should that panic, the assembler is whole.
    fn close(&mut self, slot: u32, done: &mut impl FnMut(&mut Transaction)) {
        let entry = &self.slots[slot as usize];
        let (older, younger, vxid) = (entry.older, entry.younger, entry.transaction.vxid);
        match self.slots.get_mut(older as usize) {
            Some(older) => older.younger = younger,
            None => self.oldest = younger,
        }
        match self.slots.get_mut(younger as usize) {
            Some(younger) => younger.older = older,
            None => self.youngest = older,
        }
        self.open.remove(&vxid);
        self.last = NOBODY;
        self.free.push(slot);
        done(&mut self.slots[slot as usize].transaction);
    }
}

/// Whether a `Begin` record opens a request that gets a line: of a client or to a backend, but neither a session nor a
/// sub-request for ESI, which varnishncsa shows only when asked (`-E`). Payload: type, parent's vxid, reason.
fn is_request(payload: &[u8]) -> bool {
    match payload.strip_prefix(REQUEST) {
        Some(rest) => rest.split(|byte| *byte == b' ' || *byte == 0).nth(1) != Some(b"esi"),
        None => payload.starts_with(BACKEND_REQUEST),
    }
}

/// vxids are handed out in sequence, so that one multiplication spreads them well enough.
#[derive(Debug, Default)]
struct VxidHasher(u64);

impl Hasher for VxidHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, vxid: u64) {
        // 2⁶⁴ divided by the golden ratio; the table uses the top bits as well as the bottom ones.
        self.0 = (self.0 ^ vxid).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::transaction::{Capture, CaptureId, Pick, Select};

    fn assembler(limit: usize) -> (Assembler, CaptureId) {
        let mut table = CaptureTable::default();
        let url = table.intern(Capture::of([Tag::REQ_URL, Tag::BEREQ_URL], &Select::Line, Pick::First));
        let limits = Limits { transactions: limit, timeout: Duration::from_secs(10) };
        (Assembler::new(table, Interest { client: true, backend: false }, limits), url)
    }

    fn record(tag: Tag, vxid: u64, payload: &str) -> Record<'_> {
        Record { tag, vxid, side: Side::Client, payload: payload.as_bytes() }
    }

    /// Feeds records one second apart and gives the URLs of what comes out, with whether it was incomplete.
    fn run(assembler: &mut Assembler, url: CaptureId, records: &[(Tag, u64, &str)]) -> Vec<(u64, String, bool)> {
        let counters = Counters::new(0);
        let start = Instant::now();
        let mut out = Vec::new();
        for (second, (tag, vxid, payload)) in (0..).zip(records) {
            let now = start + Duration::from_secs(second);
            let mut done = |transaction: &mut Transaction| {
                let text = String::from_utf8_lossy(transaction.value(url).unwrap_or(b"-")).into_owned();
                out.push((transaction.vxid, text, transaction.incomplete));
            };
            assembler.expire(now, &counters, &mut done);
            assembler.record(&record(*tag, *vxid, payload), now, None, &counters, &mut done);
        }
        out
    }

    #[test]
    fn only_top_level_requests_are_taken() {
        let (mut assembler, url) = assembler(9);
        let records = [
            (Tag::BEGIN, 1, "sess 0 HTTP/1\0"),
            (Tag::BEGIN, 2, "req 1 rxreq\0"),
            (Tag::REQ_URL, 2, "/top\0"),
            (Tag::BEGIN, 3, "req 2 esi\0"),
            (Tag::REQ_URL, 3, "/part\0"),
            (Tag::END, 3, "\0"),
            (Tag::END, 2, "\0"),
            (Tag::END, 1, "\0"),
            (Tag::END, 77, "\0"),
        ];
        assert_eq!(run(&mut assembler, url, &records), [(2, "/top".to_owned(), false)]);
        assert_eq!(assembler.open(), 0);
    }

    #[test]
    fn the_oldest_makes_room_and_the_late_give_up() {
        let (mut assembler, url) = assembler(2);
        let begin = "req 1 rxreq\0";
        let records = [
            (Tag::BEGIN, 1, begin),
            (Tag::BEGIN, 2, begin),
            (Tag::BEGIN, 3, begin),
            (Tag::END, 1, "\0"),
            (Tag::END, 3, "\0"),
        ];
        assert_eq!(run(&mut assembler, url, &records), [(1, "-".to_owned(), true), (3, "-".to_owned(), false)]);

        let (mut assembler, url) = super::tests::assembler(9);
        let mut records = vec![(Tag::BEGIN, 1, begin)];
        records.extend([(Tag::REQ_URL, 9, "/other\0"); 11]);
        assert_eq!(run(&mut assembler, url, &records), [(1, "-".to_owned(), true)]);
    }

    #[test]
    fn memory_is_used_again() {
        let (mut assembler, url) = assembler(9);
        for vxid in 0..1000 {
            let records = [(Tag::BEGIN, vxid, "req 1 rxreq\0"), (Tag::REQ_URL, vxid, "/\0"), (Tag::END, vxid, "\0")];
            assert_eq!(run(&mut assembler, url, &records).len(), 1);
        }
        assert_eq!(assembler.slots.len(), 1);
    }

    proptest! {
        /// Whatever comes in whatever order, a transaction comes out once with its first URL, as a simple model says.
        #[test]
        fn it_does_what_a_map_does(steps in proptest::collection::vec((0_u64..6, 0_u8..3, "[a-z]{0,3}"), 0..200)) {
            let (mut assembler, url) = assembler(100);
            let mut model: BTreeMap<u64, Option<String>> = BTreeMap::new();
            let mut expected = Vec::new();
            let mut got = Vec::new();
            let (counters, now) = (Counters::new(0), Instant::now());
            for (vxid, action, text) in steps {
                let tag = [Tag::BEGIN, Tag::REQ_URL, Tag::END][usize::from(action)];
                match tag {
                    Tag::BEGIN => { model.entry(vxid).or_insert(None); }
                    Tag::REQ_URL => if let Some(url) = model.get_mut(&vxid) { url.get_or_insert(text.clone()); },
                    _ => expected.extend(model.remove(&vxid).map(|url| (vxid, url))),
                }
                let payload = if tag == Tag::BEGIN { "req 0 rxreq" } else { &text };
                assembler.record(&record(tag, vxid, payload), now, None, &counters, |transaction| {
                    let url = transaction.value(url).map(|url| String::from_utf8_lossy(url).into_owned());
                    got.push((transaction.vxid, url));
                });
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(assembler.open(), model.len());
        }
    }
}
