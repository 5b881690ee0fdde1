use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::log::{Layout, Run};
use crate::transaction::{Capture, CaptureId, Pick, Select};

fn assembler(limit: usize) -> (Assembler, CaptureId) {
    let mut table = CaptureTable::default();
    let url = table.intern(Capture::of([Tag::REQ_URL, Tag::BEREQ_URL], &Select::Line, Pick::First));
    let limits = Limits { transactions: limit, timeout: Duration::from_secs(10) };
    let interest = Interest { client: true, ..Interest::default() };
    (Assembler::new(&table, &TestTable::default(), interest, limits), url)
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
        let mut done = |set: &Set<'_>| {
            let transaction = set.transactions().next().unwrap();
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
    let records =
        [(Tag::BEGIN, 1, begin), (Tag::BEGIN, 2, begin), (Tag::BEGIN, 3, begin), (Tag::END, 1, ""), (Tag::END, 3, "")];
    assert_eq!(run(&mut assembler, url, &records), [(1, "-".to_owned(), true), (3, "-".to_owned(), false)]);

    let (mut assembler, url) = self::assembler(9);
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
    assert_eq!(assembler.slots.all().len(), 1);
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
    assert_eq!(self::run(&mut assembler, url, &[(Tag::END, 1, "")]), [(1, "-".to_owned(), true)]);
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
            assembler.run(run.records(Layout::One), now, None, &counters, |set| {
                let transaction = set.transactions().next().unwrap();
                let url = transaction.value(url).map(|url| String::from_utf8_lossy(url).into_owned());
                got.push((transaction.vxid, url));
            });
        }
        prop_assert_eq!(got, expected);
        prop_assert_eq!(assembler.open(), model.len());
    }
}

/// What a query is true of, with the URL: of records cut into runs of this length, in room for so many transactions. The second
/// run of all panics when told to.
fn found(deferring: bool, records: &[(Tag, u32, &[u8])], length: usize, room: usize, panics: bool) -> Vec<Found> {
    let mut table = CaptureTable::default();
    let url = table.intern(Capture::of([Tag::REQ_URL, Tag::BEREQ_URL], &Select::Line, Pick::Last));
    let mut tests = TestTable::default();
    let query = Query::compile("ReqMethod eq \"b\"", false, &mut tests).unwrap();
    let limits = Limits { transactions: room, timeout: Duration::from_secs(10) };
    let interest = Interest { client: true, ..Interest::default() };
    let mut assembler = Assembler::new(&table, &tests, interest, limits);
    if deferring {
        assembler = assembler.deferring(&tests, vec![query.clone()]);
    }
    let (counters, now) = (Counters::new(0), Instant::now());
    let mut found = Vec::new();
    let mut done = |set: &Set<'_>, panics: bool| {
        assert!(!panics, "on purpose");
        let transaction = set.transactions().next().unwrap();
        if query.holds(set.members()) {
            found.push((transaction.vxid, transaction.value(url).map(<[u8]>::to_vec), transaction.incomplete));
        }
    };
    for (number, records) in records.chunks(length).enumerate() {
        let mut run = Run::of_records(1, records.iter().copied());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let panics = panics && number == 1;
            assembler.run(run.records(Layout::One), now, None, &counters, |set| done(set, panics));
        }));
        assert!(panics || panicked.is_ok());
    }
    assembler.give_up_all(&counters, |set| done(set, false));
    found
}

type Found = (u64, Option<Vec<u8>>, bool);

proptest! {
    /// Values that are taken later are the same, with transactions that end in other runs and with those that are given up. A
    /// panic may cost values, but not more transactions, and what lost some says so.
    #[test]
    fn deferred_values_are_the_same(
        steps in proptest::collection::vec((1_u32..6, 0_u8..4, "[ab]"), 0..200),
        length in 1_usize..40,
        room in 1_usize..6,
    ) {
        let tags = [Tag::BEGIN, Tag::REQ_URL, Tag::REQ_METHOD, Tag::END];
        let records: Vec<_> = steps.iter().map(|(vxid, action, text)| {
            let tag = tags[usize::from(*action)];
            (tag, *vxid, if tag == Tag::BEGIN { &b"req 0 rxreq"[..] } else { text.as_bytes() })
        }).collect();
        let at_once = found(false, &records, length, room, false);
        prop_assert_eq!(found(true, &records, length, room, false), at_once);
        let at_once = found(false, &records, length, room, true);
        let later = found(true, &records, length, room, true);
        prop_assert_eq!(later.len(), at_once.len());
        for ((vxid, value, incomplete), (vxid_at_once, value_at_once, _)) in later.into_iter().zip(at_once) {
            prop_assert_eq!(vxid, vxid_at_once);
            prop_assert!(incomplete || value == value_at_once);
        }
    }
}

/// The ids and levels of sets as they come out.
fn sets(grouping: Grouping, records: &[(Tag, u32, &[u8])]) -> Vec<Vec<(u64, i32)>> {
    let interest = Interest { client: true, sets: Sets::default().with(grouping), ..Interest::default() };
    let limits = Limits { transactions: 100, timeout: Duration::from_secs(10) };
    let mut assembler = Assembler::new(&CaptureTable::default(), &TestTable::default(), interest, limits);
    let counters = Counters::new(0);
    let mut out = Vec::new();
    let mut run = Run::of_records(1, records.iter().copied());
    let mut keep = |set: &Set<'_>| out.push(set.members().map(|member| (member.vxid, member.level)).collect());
    assembler.run(run.records(Layout::One), Instant::now(), None, &counters, &mut keep);
    assembler.give_up_all(&counters, &mut keep);
    assert_eq!((assembler.open(), assembler.slots.oldest()), (0, None));
    out
}

#[test]
fn what_belongs_together_comes_out_together() {
    let records: &[(Tag, u32, &[u8])] = &[
        // A child comes before its parent has begun, and a fetch in the background comes too late.
        (Tag::BEGIN, 4, b"bereq 2 fetch"),
        (Tag::END, 4, b""),
        (Tag::BEGIN, 1, b"sess 0 HTTP/1"),
        (Tag::LINK, 1, b"req 2 rxreq"),
        (Tag::LINK, 1, b"req 9 rxreq"),
        (Tag::BEGIN, 2, b"req 1 rxreq"),
        (Tag::LINK, 2, b"bereq 4 fetch"),
        (Tag::LINK, 2, b"req 3 restart"),
        (Tag::END, 2, b""),
        (Tag::BEGIN, 3, b"req 2 restart"),
        (Tag::LINK, 3, b"req 5 esi"),
        (Tag::END, 3, b""),
        (Tag::BEGIN, 5, b"req 3 esi"),
        (Tag::END, 5, b""),
        (Tag::BEGIN, 6, b"bereq 2 bgfetch"),
        (Tag::END, 6, b""),
        (Tag::END, 1, b""),
        (Tag::BEGIN, 9, b"req 1 rxreq"),
        (Tag::END, 9, b""),
    ];
    // Of a child whose parent is whole and gone, varnishlog makes nothing either.
    assert_eq!(sets(Grouping::Request, records), [vec![(2, 1), (4, 2), (3, 1), (5, 2)], vec![(9, 1)]]);
    let session = vec![(1, 1), (2, 2), (9, 2), (4, 3), (3, 2), (5, 3)];
    assert_eq!(sets(Grouping::Session, records), [session]);
    assert_eq!(
        sets(Grouping::Vxid, records),
        [[(4, 1)], [(2, 1)], [(3, 1)], [(6, 1)], [(9, 1)]],
        "without sub-requests for ESI"
    );
}

#[test]
fn relatives_in_a_circle_are_given_up() {
    let records: &[(Tag, u32, &[u8])] = &[
        (Tag::BEGIN, 1, b"req 2 esi"),
        (Tag::LINK, 1, b"req 2 esi"),
        (Tag::BEGIN, 2, b"req 1 esi"),
        (Tag::LINK, 2, b"req 2 esi"),
        (Tag::END, 2, b""),
        (Tag::END, 1, b""),
    ];
    assert_eq!(sets(Grouping::Request, records).concat().len(), 2);
}

proptest! {
    /// Whatever is linked to whatever, every transaction comes out at most once, and nothing is left behind.
    #[test]
    fn no_relatives_break_it(
        steps in proptest::collection::vec((1_u32..7, 0_u8..3, 0_u64..8, 0_usize..6), 0..60),
        session: bool,
    ) {
        let texts: Vec<_> = steps.iter().map(|(vxid, action, other, kind)| {
            let kind = ["req % rxreq", "req % esi", "req % restart", "bereq % fetch", "sess % HTTP/1", "odd % x"][*kind];
            ([Tag::BEGIN, Tag::LINK, Tag::END][usize::from(*action)], *vxid, kind.replace('%', &other.to_string()))
        }).collect();
        let records: Vec<_> = texts.iter().map(|(tag, vxid, text)| (*tag, *vxid, text.as_bytes())).collect();
        let grouping = if session { Grouping::Session } else { Grouping::Request };
        for set in sets(grouping, &records) {
            let mut vxids: Vec<_> = set.iter().map(|(vxid, _)| *vxid).collect();
            vxids.sort_unstable();
            vxids.dedup();
            prop_assert_eq!(vxids.len(), set.len());
        }
    }
}
