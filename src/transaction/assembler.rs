//! The assembler: from records in log order to whole transactions, and to sets of them.
//!
//! Transactions interleave, and one may come in pieces far apart, so records are told apart by vxid alone. Those that are
//! never ended are given up: when there are too many, or one takes too long.

use std::time::{Duration, Instant};

use crate::counters::Counters;
use crate::log::{Filter, Offer, Position, Record, Records, Reread, Side, Tag};
use crate::query::{Member, Query, TestTable};

use super::CaptureTable;
use super::family::{Family, Kind, Link, Reason};
use super::matcher::{Attention, Matchers, Stop};
use super::set::{Grouping, Set};
use super::slots::{Slot, Slots};
use super::values::Values;

/// How much may be unfinished.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Transactions at a time.
    pub transactions: usize,
    /// Time from a transaction's begin.
    pub timeout: Duration,
}

/// Which transactions are wanted, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct Interest {
    /// Requests of clients.
    pub client: bool,
    /// Requests to backends.
    pub backend: bool,
    /// Sub-requests for ESI, too.
    pub esi: bool,
    /// Requests with `HttpGarbage`, too.
    pub garbage: bool,
    /// The sets that are handed out: single transactions, requests, sessions. Larger ones take all of their transactions,
    /// whatever is said above.
    pub sets: Sets,
}

/// Kinds of sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets(u8);

impl Sets {
    /// With sets of this kind.
    #[must_use]
    pub const fn with(self, grouping: Grouping) -> Self {
        Self(self.0 | 1 << grouping as u8)
    }

    /// Whether sets of this kind are among them.
    #[inline]
    #[must_use]
    pub const fn has(self, grouping: Grouping) -> bool {
        self.0 >> grouping as u8 & 1 == 1
    }

    /// Whether transactions need to know their relatives.
    #[inline]
    fn are_linked(self) -> bool {
        self.has(Grouping::Request) || self.has(Grouping::Session)
    }
}

impl Interest {
    /// Whether single transactions of this side are wanted.
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

/// Why a transaction is given up: what varnishlog says in a `VSL` record of its own making.
#[derive(Debug, Clone, Copy)]
enum GivenUp {
    Overflow,
    Timeout,
    Flush,
}

impl GivenUp {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Overflow => b"store overflow\0",
            Self::Timeout => b"timeout\0",
            Self::Flush => b"flush\0",
        }
    }
}

/// Values that are only taken once it is known that they are wanted.
#[derive(Debug)]
struct Deferral {
    /// What the queries ask.
    tests: Matchers,
    queries: Vec<Query>,
}

/// Puts transactions together.
#[derive(Debug)]
pub struct Assembler {
    matchers: Matchers,
    deferral: Option<Deferral>,
    captures: usize,
    interest: Interest,
    limits: Limits,
    slots: Slots,
    /// The slots that may have values in the run that is being read.
    touched: Vec<u32>,
    /// The set that is being handed out, kept for its memory.
    members: Vec<(u32, i32)>,
}

impl Assembler {
    /// An assembler for these captures and queries.
    #[must_use]
    pub fn new(table: &CaptureTable, tests: &TestTable, interest: Interest, limits: Limits) -> Self {
        let attention = Attention { links: interest.sets.are_linked(), garbage: !interest.garbage };
        Self {
            matchers: Matchers::new(table.captures(), tests, attention),
            deferral: None,
            captures: table.captures().len(),
            interest,
            limits,
            slots: Slots::new(limits.transactions),
            touched: Vec::new(),
            members: Vec::new(),
        }
    }

    /// Takes values only of transactions that one of these queries is true of: whoever gets the others does not look at them. No
    /// effect with sets that are larger.
    #[must_use]
    pub fn deferring(mut self, tests: &TestTable, queries: Vec<Query>) -> Self {
        if !self.interest.sets.are_linked() {
            let attention = Attention { links: false, garbage: !self.interest.garbage };
            self.deferral = Some(Deferral { tests: Matchers::new(&[], tests, attention), queries });
        }
        self
    }

    /// The records that a log source must hand out: what is looked for, with those that transactions are put together by.
    #[must_use]
    pub fn wanted(&self) -> Filter {
        let mut wanted = Filter::NONE;
        self.matchers.add_to(&mut wanted);
        if self.interest.sets.are_linked() {
            wanted.add_side(Side::Client);
            wanted.add_side(Side::Backend);
            wanted.add(Tag::BEGIN);
        }
        for (side, kind) in [(Side::Client, REQUEST), (Side::Backend, BACKEND_REQUEST)] {
            if self.interest.in_side(side) {
                wanted.add_side(side);
                wanted.add_beginning_with(Tag::BEGIN, kind);
            }
        }
        wanted.add(Tag::END);
        wanted
    }

    /// Transactions that have begun and not been handed out.
    #[must_use]
    pub fn open(&self) -> usize {
        self.slots.in_use()
    }

    /// Where the oldest open transaction began; `None` when there is none, or the source has no positions.
    #[must_use]
    pub fn oldest_position(&self) -> Option<Position> {
        self.slots.oldest().and_then(|slot| self.slots[slot].position)
    }

    /// Takes a run of records that begins at `position`; `done` gets the sets that end in it, and the ones that have to make
    /// room.
    pub fn run(
        &mut self,
        mut records: Records<'_>,
        now: Instant,
        position: Option<Position>,
        counters: &Counters,
        mut done: impl FnMut(&Set<'_>),
    ) {
        // A run whose reading ended in a panic is gone.
        self.keep_values(Reread::NONE);
        while let Some(record) = records.peek() {
            let Some(slot) = self.slot_of(&record, records.read(), now, position, counters, &mut done) else {
                // The rest of a transaction that is not wanted, or whose begin was not seen.
                records.next();
                records.offer(|next| {
                    if next.vxid == record.vxid && next.tag != Tag::BEGIN { Offer::Taken } else { Offer::Left }
                });
                continue;
            };
            self.touched.push(slot);
            let values = &mut self.slots[slot].values;
            let stop = match &self.deferral {
                None => self.matchers.take(&mut records, values),
                Some(deferral) => {
                    values.deferred.get_or_insert(records.read().end());
                    deferral.tests.take(&mut records, values)
                }
            };
            match stop {
                Stop::Left => {}
                Stop::Ended => {
                    self.take_deferred(slot, records.read(), true);
                    self.end(slot, records.log(), &mut done);
                }
                Stop::Linked(payload) => {
                    self.link_child(slot, payload, now, position);
                    continue;
                }
            }
            // Relatives have come along that had not begun.
            if self.slots.in_use() > self.limits.transactions {
                self.make_room(self.limits.transactions, records.read(), counters, &mut done);
            }
        }
        self.keep_values(records.read());
    }

    /// Takes the values that were left for later; of a transaction that is whole, only if a query is true of it.
    fn take_deferred(&mut self, slot: u32, read: Reread<'_>, whole: bool) {
        let Some(deferral) = &self.deferral else { return };
        let values = &mut self.slots[slot].values;
        let Some(mut from) = values.deferred.take() else { return };
        // They went with a run whose reading ended in a panic.
        values.incomplete |= from >= read.end();
        if whole {
            let alone = Member { level: 1, vxid: values.vxid, met: &values.met };
            if !deferral.queries.iter().any(|query| query.holds(std::iter::once(alone))) {
                return;
            }
        }
        let mut records = read.records(&mut from);
        while records.peek().is_some() {
            match self.matchers.take(&mut records, values) {
                Stop::Ended => return,
                Stop::Linked(_) => {}
                Stop::Left => records.offer(|other| if other.vxid == values.vxid { Offer::Left } else { Offer::Taken }),
            }
        }
    }

    /// Gives up the oldest transactions until there are no more than so many.
    fn make_room(&mut self, count: usize, read: Reread<'_>, counters: &Counters, done: &mut impl FnMut(&Set<'_>)) {
        while self.slots.in_use() > count
            && let Some(oldest) = self.slots.oldest()
        {
            self.give_up(oldest, GivenUp::Overflow, read, counters, done);
        }
    }

    /// Copies the values of open transactions that are in the log, which is about to go.
    fn keep_values(&mut self, read: Reread<'_>) {
        let mut touched = std::mem::take(&mut self.touched);
        for slot in touched.drain(..) {
            self.take_deferred(slot, read, false);
            self.slots[slot].values.keep(read.log());
        }
        self.touched = touched;
    }

    /// Gives up the transactions that have been open for too long. Cheap when there is none.
    pub fn expire(&mut self, now: Instant, counters: &Counters, mut done: impl FnMut(&Set<'_>)) {
        while let Some(slot) = self.slots.oldest() {
            if now.saturating_duration_since(self.slots[slot].began) < self.limits.timeout {
                return;
            }
            self.give_up(slot, GivenUp::Timeout, Reread::NONE, counters, &mut done);
        }
    }

    /// Gives up every open transaction: the log broke, and what is missing of them will not come.
    pub fn give_up_all(&mut self, counters: &Counters, mut done: impl FnMut(&Set<'_>)) {
        while let Some(slot) = self.slots.oldest() {
            self.give_up(slot, GivenUp::Flush, Reread::NONE, counters, &mut done);
        }
    }

    /// The slot of a record's transaction, which it may open. `None` if that is not wanted, or has ended.
    #[inline]
    fn slot_of(
        &mut self,
        record: &Record<'_>,
        read: Reread<'_>,
        now: Instant,
        position: Option<Position>,
        counters: &Counters,
        done: &mut impl FnMut(&Set<'_>),
    ) -> Option<u32> {
        let known = self.slots.of(record.vxid);
        if record.tag == Tag::BEGIN && (known.is_none() || self.interest.sets.are_linked()) {
            return self.begin(record, known, read, now, position, counters, done);
        }
        known.filter(|slot| !self.slots[*slot].family.ended)
    }

    /// Opens the transaction that a record begins, if it does and if that is wanted.
    #[expect(clippy::too_many_arguments, reason = "what a run of records has, once more")]
    fn begin(
        &mut self,
        record: &Record<'_>,
        known: Option<u32>,
        read: Reread<'_>,
        now: Instant,
        position: Option<Position>,
        counters: &Counters,
        done: &mut impl FnMut(&Set<'_>),
    ) -> Option<u32> {
        let Interest { sets, .. } = self.interest;
        if !sets.are_linked() {
            let esi = request(record.payload).filter(|_| self.interest.in_side(record.side))?;
            if esi && !self.interest.esi {
                return None;
            }
            self.make_room(self.limits.transactions.saturating_sub(1), read, counters, done);
            let slot = self.slots.open(record.vxid, self.captures, now, position);
            let Values { side, esi: is_esi, .. } = &mut self.slots[slot].values;
            (*side, *is_esi) = (record.side, esi);
            return Some(slot);
        }
        let link = Link::parse(record.payload)
            .filter(|link| link.kind != Kind::Unknown && (link.kind != Kind::Session || sets.has(Grouping::Session)))?;
        let slot = match known {
            Some(slot) if self.slots[slot].family.ended => return None,
            Some(slot) => slot,
            None => self.slots.open(record.vxid, self.captures, now, position),
        };
        self.set_kind(slot, link);
        self.slots[slot].family.begun = true;
        let is_top = !sets.has(Grouping::Session) && (link.kind, link.reason) == (Kind::Request, Reason::Received);
        if link.vxid != 0 && link.vxid != record.vxid && !is_top && self.slots[slot].family.parent.is_none() {
            match self.slots.of(link.vxid) {
                Some(parent) if self.slots[parent].family.ended => {}
                Some(parent) => self.set_parent(parent, slot),
                None => {
                    let parent = self.slots.open(link.vxid, self.captures, now, position);
                    self.set_parent(parent, slot);
                }
            }
        }
        Some(slot)
    }

    /// Takes note of a child that a transaction names.
    fn link_child(&mut self, parent: u32, payload: &[u8], now: Instant, position: Option<Position>) {
        let Some(link) = Link::parse(payload) else { return };
        let Slot { values, family, .. } = &self.slots[parent];
        let is_apart = family.kind == Kind::Session && !self.interest.sets.has(Grouping::Session);
        if is_apart || link.vxid == 0 || link.vxid == values.vxid {
            return;
        }
        let child = match self.slots.of(link.vxid) {
            Some(child) if self.slots[child].family.parent.is_some() || self.slots[child].family.ended => return,
            Some(child) => child,
            None => self.slots.open(link.vxid, self.captures, now, position),
        };
        self.set_kind(child, link);
        self.set_parent(parent, child);
    }

    fn set_kind(&mut self, slot: u32, Link { kind, reason, .. }: Link) {
        let Slot { values, family, .. } = &mut self.slots[slot];
        (family.kind, family.reason) = (kind, reason);
        values.side = match kind {
            Kind::Request => Side::Client,
            Kind::BackendRequest => Side::Backend,
            Kind::Session | Kind::Unknown => Side::None,
        };
        values.esi = reason == Reason::Esi;
    }

    /// Makes one the other's parent, unless that would close a circle.
    fn set_parent(&mut self, parent: u32, child: u32) {
        let began = self.slots[child].position;
        let mut ancestor = Some(parent);
        while let Some(slot) = ancestor {
            if slot == child {
                return;
            }
            ancestor = self.slots[slot].family.parent;
        }
        self.slots[parent].family.children.push(child);
        self.slots[child].family.parent = Some(parent);
        // What is read again for the sake of an open transaction must reach back to its children.
        let mut ancestor = Some(parent);
        while let Some(slot) = ancestor {
            let entry = &mut self.slots[slot];
            if let (Some(one), Some(other)) = (began, entry.position)
                && one.is_before(other)
            {
                entry.position = Some(one);
            }
            ancestor = entry.family.parent;
        }
    }

    /// Ends a transaction as varnishlog does, with records of its own making.
    fn give_up(
        &mut self,
        slot: u32,
        why: GivenUp,
        read: Reread<'_>,
        counters: &Counters,
        done: &mut impl FnMut(&Set<'_>),
    ) {
        self.take_deferred(slot, read, false);
        let Slot { values, family, .. } = &mut self.slots[slot];
        values.keep(read.log());
        if self.interest.sets.are_linked() && !family.begun {
            let begin = format!("{} 0 synth\0", family.kind.name());
            self.matchers.take_made_up(Tag::BEGIN, begin.as_bytes(), values);
        }
        self.matchers.take_made_up(Tag::VSL, why.text(), values);
        self.matchers.take_made_up(Tag::END, b"synth\0", values);
        values.incomplete = true;
        counters.incomplete.add(1);
        self.end(slot, read.log(), done);
    }

    /// A transaction has ended: hands out the sets that are whole with it. Slots are freed first: should `done` panic, the
    /// assembler is whole.
    fn end(&mut self, slot: u32, log: &[u8], done: &mut impl FnMut(&Set<'_>)) {
        let Interest { sets, client, backend, .. } = self.interest;
        self.slots.end(slot);
        if !sets.are_linked() {
            self.slots.free(slot);
            done(&Set { grouping: Grouping::Vxid, members: &[(slot, 1)], slots: self.slots.all(), log });
            self.slots[slot].values.end();
            return;
        }
        let single = sets.has(Grouping::Vxid)
            && match self.slots[slot].values.side {
                Side::Client => client,
                Side::Backend => backend,
                Side::None => false,
            };
        self.slots[slot].family.ended = true;
        if single {
            done(&Set { grouping: Grouping::Vxid, members: &[(slot, 1)], slots: self.slots.all(), log });
        }
        let mut ready = slot;
        while self.slots[ready].family.is_ready() {
            let Family { kind, parent, .. } = self.slots[ready].family;
            let of_session = parent.is_some_and(|parent| self.slots[parent].family.kind == Kind::Session);
            let grouping = match kind {
                Kind::Request if parent.is_none() || of_session => Some(Grouping::Request),
                Kind::Session if parent.is_none() => Some(Grouping::Session),
                _ => None,
            };
            let grouping = grouping.filter(|grouping| sets.has(*grouping));
            if grouping.is_some() || parent.is_none() {
                self.hand_out(ready, grouping, parent.is_none(), log, done);
            }
            let Some(parent) = parent else { return };
            self.slots[parent].family.children_ready += 1;
            ready = parent;
        }
    }

    /// Hands out a transaction with all that came of it, and frees their slots if that was the `last` time.
    fn hand_out(
        &mut self,
        top: u32,
        grouping: Option<Grouping>,
        last: bool,
        log: &[u8],
        done: &mut impl FnMut(&Set<'_>),
    ) {
        let mut members = std::mem::take(&mut self.members);
        members.clear();
        members.push((top, 1));
        let mut index = 0;
        while let Some((slot, level)) = members.get(index).copied() {
            for child in &self.slots[slot].family.children {
                // A restart is the same request once more.
                let deeper = i32::from(self.slots[*child].family.reason != Reason::Restart);
                members.push((*child, level + deeper));
            }
            index += 1;
        }
        if last {
            members.iter().for_each(|(slot, _)| self.slots.free(*slot));
        }
        if let Some(grouping) = grouping {
            done(&Set { grouping, members: &members, slots: self.slots.all(), log });
        }
        if last {
            members.iter().for_each(|(slot, _)| self.slots[*slot].values.end());
        }
        self.members = members;
    }
}

/// Whether the request that a `Begin` record opens, of a client or to a backend, is a sub-request for ESI; `None` if it opens
/// no request but a session. Payload: type, parent's vxid, reason.
fn request(payload: &[u8]) -> Option<bool> {
    match payload.strip_prefix(REQUEST) {
        Some(rest) => Some(rest.split(|byte| *byte == b' ' || *byte == 0).nth(1) == Some(b"esi")),
        None => payload.starts_with(BACKEND_REQUEST).then_some(false),
    }
}

#[cfg(test)]
mod tests;
