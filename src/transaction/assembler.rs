//! The assembler: from records in log order to whole transactions.
//!
//! Transactions interleave, and one may come in pieces far apart, so records are told apart by vxid alone. Each open
//! transaction has a slot; slots are used again with their memory, so that nothing is allocated once there are enough.
//! A list through the slots, oldest first, finds the ones to give up: when there are too many, or one takes too long.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::counters::Counters;
use crate::log::{Filter, Offer, Position, Record, Records, Side, Tag};

use super::matcher::Matchers;
use super::values::Values;
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
    fn in_side(self, side: Side) -> bool {
        match side {
            Side::Client => self.client,
            Side::Backend => self.backend,
            Side::None => false,
        }
    }
}

/// What a `Begin` record begins with that opens a client's request.
const REQUEST: &[u8] = b"req ";
/// What a `Begin` record begins with that opens a request to a backend.
const BACKEND_REQUEST: &[u8] = b"bereq ";

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot {
    values: Values,
    began: Instant,
    position: Option<Position>,
    older: u32,
    younger: u32,
}

/// Puts transactions together.
#[derive(Debug)]
pub struct Assembler {
    matchers: Matchers,
    captures: usize,
    interest: Interest,
    limits: Limits,
    slots: Vec<Slot>,
    free: Vec<u32>,
    open: HashMap<u64, u32, BuildHasherDefault<VxidHasher>>,
    /// The slots that may have values in the run that is being read.
    touched: Vec<u32>,
    oldest: u32,
    youngest: u32,
}

impl Assembler {
    /// An assembler for these captures.
    #[must_use]
    pub fn new(table: &CaptureTable, interest: Interest, limits: Limits) -> Self {
        Self {
            matchers: Matchers::new(table.captures()),
            captures: table.captures().len(),
            interest,
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            open: HashMap::with_capacity_and_hasher(limits.transactions + 1, BuildHasherDefault::default()),
            touched: Vec::new(),
            oldest: NONE,
            youngest: NONE,
        }
    }

    /// The records that a log source must hand out: what is looked for, with those that transactions are put together by.
    #[must_use]
    pub fn wanted(&self) -> Filter {
        let mut wanted = Filter::NONE;
        self.matchers.add_to(&mut wanted);
        for (side, kind) in [(Side::Client, REQUEST), (Side::Backend, BACKEND_REQUEST)] {
            if self.interest.in_side(side) {
                wanted.add_side(side);
                wanted.add_beginning_with(Tag::BEGIN, kind);
            }
        }
        wanted.add(Tag::END);
        wanted
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

    /// Takes a run of records that begins at `position`; `done` gets the transactions that end in it, and the ones that have
    /// to make room.
    pub fn run(
        &mut self,
        mut records: Records<'_>,
        now: Instant,
        position: Option<Position>,
        counters: &Counters,
        mut done: impl FnMut(&Transaction<'_>),
    ) {
        // A run whose reading ended in a panic is gone.
        self.keep_values(&[]);
        let log = records.log();
        while let Some(record) = records.peek() {
            let slot = self.open.get(&record.vxid).copied();
            let Some(slot) = slot.or_else(|| self.begin(&record, log, now, position, counters, &mut done)) else {
                // The rest of a transaction that is not wanted, or whose begin was not seen.
                records.next();
                records.offer(|next| {
                    if next.vxid == record.vxid && next.tag != Tag::BEGIN { Offer::Taken } else { Offer::Left }
                });
                continue;
            };
            self.touched.push(slot);
            if self.matchers.take(&mut records, &mut self.slots[slot as usize].values) {
                self.close(slot, log, &mut done);
            }
        }
        self.keep_values(log);
    }

    /// Copies the values of open transactions that are in `log`, which is about to go.
    fn keep_values(&mut self, log: &[u8]) {
        for slot in self.touched.drain(..) {
            self.slots[slot as usize].values.keep(log);
        }
    }

    /// Gives up the transactions that have been open for too long. Cheap when there is none.
    pub fn expire(&mut self, now: Instant, counters: &Counters, mut done: impl FnMut(&Transaction<'_>)) {
        while let Some(slot) = self.slots.get(self.oldest as usize) {
            if now.saturating_duration_since(slot.began) < self.limits.timeout {
                return;
            }
            self.give_up(self.oldest, &[], counters, &mut done);
        }
    }

    /// Gives up every open transaction: the log broke, and what is missing of them will not come.
    pub fn give_up_all(&mut self, counters: &Counters, mut done: impl FnMut(&Transaction<'_>)) {
        while self.oldest != NONE {
            self.give_up(self.oldest, &[], counters, &mut done);
        }
    }

    /// Opens the transaction that a record begins, if it does and if that is wanted.
    fn begin(
        &mut self,
        record: &Record<'_>,
        log: &[u8],
        now: Instant,
        position: Option<Position>,
        counters: &Counters,
        done: &mut impl FnMut(&Transaction<'_>),
    ) -> Option<u32> {
        if record.tag != Tag::BEGIN || !self.interest.in_side(record.side) || !is_request(record.payload) {
            return None;
        }
        if self.open.len() >= self.limits.transactions {
            self.give_up(self.oldest, log, counters, done);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { values: Values::new(), began: now, position, older: NONE, younger: NONE });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.values.begin(record.vxid, record.side, self.captures);
        (entry.began, entry.position, entry.older, entry.younger) = (now, position, self.youngest, NONE);
        match self.slots.get_mut(self.youngest as usize) {
            Some(youngest) => youngest.younger = slot,
            None => self.oldest = slot,
        }
        self.youngest = slot;
        self.open.insert(record.vxid, slot);
        Some(slot)
    }

    fn give_up(&mut self, slot: u32, log: &[u8], counters: &Counters, done: &mut impl FnMut(&Transaction<'_>)) {
        self.slots[slot as usize].values.incomplete = true;
        counters.incomplete.add(1);
        self.close(slot, log, done);
    }

    /// Frees the slot, then hands the transaction on: should that panic, the assembler is whole.
    fn close(&mut self, slot: u32, log: &[u8], done: &mut impl FnMut(&Transaction<'_>)) {
        let entry = &self.slots[slot as usize];
        let (older, younger, vxid) = (entry.older, entry.younger, entry.values.vxid);
        match self.slots.get_mut(older as usize) {
            Some(older) => older.younger = younger,
            None => self.oldest = younger,
        }
        match self.slots.get_mut(younger as usize) {
            Some(younger) => younger.older = older,
            None => self.youngest = older,
        }
        self.open.remove(&vxid);
        self.free.push(slot);
        let values = &mut self.slots[slot as usize].values;
        if !values.left_out {
            done(&values.transaction(log));
        }
        values.end();
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
    use crate::log::{Layout, Run};
    use crate::transaction::{Capture, CaptureId, Pick, Select};

    fn assembler(limit: usize) -> (Assembler, CaptureId) {
        let mut table = CaptureTable::default();
        let url = table.intern(Capture::of([Tag::REQ_URL, Tag::BEREQ_URL], &Select::Line, Pick::First));
        let limits = Limits { transactions: limit, timeout: Duration::from_secs(10) };
        (Assembler::new(&table, Interest { client: true, backend: false }, limits), url)
    }

    /// A run of one record.
    fn record(tag: Tag, vxid: u64, payload: &str) -> Run {
        Run::of_records(1, [(tag, vxid as u32, payload.as_bytes())])
    }

    /// Feeds records one second apart and gives the URLs of what comes out, with whether it was incomplete.
    fn run(assembler: &mut Assembler, url: CaptureId, records: &[(Tag, u64, &str)]) -> Vec<(u64, String, bool)> {
        let counters = Counters::new(0);
        let start = Instant::now();
        let mut out = Vec::new();
        for (second, (tag, vxid, payload)) in (0..).zip(records) {
            let now = start + Duration::from_secs(second);
            let mut done = |transaction: &Transaction<'_>| {
                let text = String::from_utf8_lossy(transaction.value(url).unwrap_or(b"-")).into_owned();
                out.push((transaction.vxid, text, transaction.incomplete));
            };
            assembler.expire(now, &counters, &mut done);
            let mut run = record(*tag, *vxid, payload);
            assembler.run(run.records(Layout::One), now, None, &counters, &mut done);
        }
        out
    }

    #[test]
    fn only_top_level_requests_are_taken() {
        let (mut assembler, url) = assembler(9);
        let records = [
            (Tag::BEGIN, 1, "sess 0 HTTP/1"),
            (Tag::BEGIN, 2, "req 1 rxreq"),
            (Tag::REQ_URL, 2, "/top"),
            (Tag::BEGIN, 3, "req 2 esi"),
            (Tag::REQ_URL, 3, "/part"),
            (Tag::END, 3, ""),
            (Tag::END, 2, ""),
            (Tag::END, 1, ""),
            (Tag::END, 77, ""),
        ];
        assert_eq!(run(&mut assembler, url, &records), [(2, "/top".to_owned(), false)]);
        assert_eq!(assembler.open(), 0);
    }

    #[test]
    fn the_oldest_makes_room_and_the_late_give_up() {
        let (mut assembler, url) = assembler(2);
        let begin = "req 1 rxreq";
        let records = [
            (Tag::BEGIN, 1, begin),
            (Tag::BEGIN, 2, begin),
            (Tag::BEGIN, 3, begin),
            (Tag::END, 1, ""),
            (Tag::END, 3, ""),
        ];
        assert_eq!(run(&mut assembler, url, &records), [(1, "-".to_owned(), true), (3, "-".to_owned(), false)]);

        let (mut assembler, url) = super::tests::assembler(9);
        let mut records = vec![(Tag::BEGIN, 1, begin)];
        records.extend([(Tag::REQ_URL, 9, "/other"); 11]);
        assert_eq!(run(&mut assembler, url, &records), [(1, "-".to_owned(), true)]);
    }

    #[test]
    fn memory_is_used_again() {
        let (mut assembler, url) = assembler(9);
        for vxid in 0..1000 {
            let records = [(Tag::BEGIN, vxid, "req 1 rxreq"), (Tag::REQ_URL, vxid, "/"), (Tag::END, vxid, "\0")];
            assert_eq!(run(&mut assembler, url, &records).len(), 1);
        }
        assert_eq!(assembler.slots.len(), 1);
    }

    #[test]
    fn a_panic_costs_the_values_that_were_in_the_run() {
        let (mut assembler, url) = assembler(9);
        let counters = Counters::new(0);
        let now = Instant::now();
        let begin = &b"req 1 rxreq"[..];
        let records = [(Tag::BEGIN, 1, begin), (Tag::REQ_URL, 1, b"/lost"), (Tag::BEGIN, 2, begin), (Tag::END, 2, b"")];
        let mut run = Run::of_records(1, records);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            assembler.run(run.records(Layout::One), now, None, &counters, |_| panic!("on purpose"));
        }));
        assert!(panicked.is_err());
        assert_eq!(super::tests::run(&mut assembler, url, &[(Tag::END, 1, "")]), [(1, "-".to_owned(), true)]);
    }

    proptest! {
        /// Whatever comes in whatever order and however it is cut into runs, a transaction comes out once with its first URL, as
        /// a simple model says.
        #[test]
        fn it_does_what_a_map_does(
            steps in proptest::collection::vec((0_u32..6, 0_u8..3, "[a-z]{0,3}"), 0..200),
            length in 1_usize..40,
        ) {
            let (mut assembler, url) = assembler(100);
            let mut model: BTreeMap<u32, Option<String>> = BTreeMap::new();
            let mut expected = Vec::new();
            let mut got = Vec::new();
            let (counters, now) = (Counters::new(0), Instant::now());
            for steps in steps.chunks(length) {
                let mut records = Vec::new();
                for (vxid, action, text) in steps {
                    let tag = [Tag::BEGIN, Tag::REQ_URL, Tag::END][usize::from(*action)];
                    match tag {
                        Tag::BEGIN => { model.entry(*vxid).or_insert(None); }
                        Tag::REQ_URL => if let Some(url) = model.get_mut(vxid) { url.get_or_insert(text.clone()); },
                        _ => expected.extend(model.remove(vxid).map(|url| (u64::from(*vxid), url))),
                    }
                    records.push((tag, *vxid, if tag == Tag::BEGIN { &b"req 0 rxreq"[..] } else { text.as_bytes() }));
                }
                let mut run = Run::of_records(1, records);
                assembler.run(run.records(Layout::One), now, None, &counters, |transaction| {
                    let url = transaction.value(url).map(|url| String::from_utf8_lossy(url).into_owned());
                    got.push((transaction.vxid, url));
                });
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(assembler.open(), model.len());
        }
    }
}
