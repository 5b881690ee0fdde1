//! Matchers: captures as they are applied to each record, found by its tag and by how its payload begins.

use crate::log::{Beginning, Filter, Records, Tag, is_space};
use crate::query::{RecordTest, TestId, TestTable};

use super::Handling;
use super::capture::{Capture, CaptureId, Pick, Select, Source};
use super::field::field;
use super::name::{Name, bytes_at};
use super::values::Values;

/// All that is looked for in records.
#[derive(Debug)]
pub(super) struct Matchers {
    /// The first matcher for each tag and beginning of a payload, or [`NONE`].
    first: Box<[[u32; Beginning::COUNT]; 256]>,
    /// The same for the records that end a transaction, and for those that link it to another, which stop the search.
    at_end: [u32; Beginning::COUNT],
    at_link: [u32; Beginning::COUNT],
    matchers: Vec<Matcher>,
    tests: Vec<RecordTest>,
    schemes: Vec<Box<[u8]>>,
}

/// Why taking records stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop<'a> {
    /// The next record is another transaction's, or there is none.
    Left,
    /// The transaction ended.
    Ended,
    /// It is linked to another one: the payload of its `Link` record.
    Linked(&'a [u8]),
}

/// What a record is tried against.
#[derive(Debug, Clone)]
struct Matcher {
    name: Name,
    then: Then,
    /// The next one for the same records, or [`NONE`].
    next: u32,
}

/// No matcher.
const NONE: u32 = u32::MAX;

/// In place of a matcher: the transaction ends.
const ENDED: u32 = u32::MAX - 1;

/// In place of a matcher: the transaction is linked to another.
const LINKED: u32 = u32::MAX - 2;

/// What a record does that matches.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Its value, or a part of it, is the capture's.
    Keep(CaptureId, Pick, Part),
    /// It tells how the request was handled, if nothing follows the name.
    Handle(Handling),
    /// The transaction gets no line; only if nothing follows the name, where that must be all.
    LeaveOut { whole: bool },
    /// A query asks something of what follows the name.
    Test(TestId),
}

/// Which part of what follows the name.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// All of it, without white space around it.
    Whole,
    /// The same with the NUL at the payload's end.
    Payload,
    /// A field, separated by white space, counted from 1.
    Field(u8),
    /// What follows a scheme, of which there are few, and a space.
    Scheme(u8),
}

/// Records that tell how a request was handled, or that it gets no line. varnishd writes methods in upper case and actions
/// in lower case (`cache_vcl_vrt.c`).
const TELLING: [(Tag, &[u8], Then); 7] = [
    (Tag::VCL_CALL, b"RECV", Then::Handle(Handling::Unknown)),
    (Tag::VCL_CALL, b"HIT", Then::Handle(Handling::Hit)),
    (Tag::VCL_CALL, b"MISS", Then::Handle(Handling::Miss)),
    (Tag::VCL_CALL, b"PASS", Then::Handle(Handling::Pass)),
    (Tag::VCL_CALL, b"SYNTH", Then::Handle(Handling::Synth)),
    (Tag::VCL_RETURN, b"pipe", Then::Handle(Handling::Pipe)),
    (Tag::VCL_RETURN, b"restart", Then::LeaveOut { whole: true }),
];

/// What is looked for, beside the captures and tests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention {
    /// `Link` records stop the search.
    pub(super) links: bool,
    /// Transactions with `HttpGarbage` are left out.
    pub(super) garbage: bool,
}

impl Matchers {
    /// Matchers for these captures and tests, and for what is asked of every transaction.
    pub(super) fn new(captures: &[Capture], tests: &TestTable, attention: Attention) -> Self {
        let mut by_tag = vec![Vec::new(); 256];
        let mut schemes = Vec::new();
        let mut add = |tag: Tag, name, then| by_tag[usize::from(tag.number())].push((name, then));
        for (index, Capture(sources)) in captures.iter().enumerate() {
            for Source { tag, select, pick } in sources {
                let (name, part) = match select {
                    Select::Line => (Name::any(), Part::Whole),
                    Select::Payload => (Name::any(), Part::Payload),
                    Select::Field(number) => (Name::any(), Part::Field(*number)),
                    Select::Header(name) => (Name::before_colon(name, true), Part::Whole),
                    Select::HeaderField(name, number) => (Name::before_colon(name, true), Part::Field(*number)),
                    Select::Scheme(name, scheme) => {
                        let scheme: Box<[u8]> = [scheme, &b" "[..]].concat().into();
                        let known = schemes.iter().position(|known| *known == scheme);
                        let index = known.unwrap_or_else(|| {
                            schemes.push(scheme);
                            schemes.len() - 1
                        });
                        (Name::before_colon(name, true), Part::Scheme(index as u8))
                    }
                    Select::Key(key) => (Name::before_colon(key, false), Part::Whole),
                };
                add(*tag, name, Then::Keep(CaptureId(index as u32), *pick, part));
            }
        }
        for (tag, text, then) in TELLING {
            add(tag, Name::of_whole(text), then);
        }
        if attention.garbage {
            add(Tag::HTTP_GARBAGE, Name::any(), Then::LeaveOut { whole: false });
        }
        for (id, test) in tests.iter() {
            for tag in &test.tags {
                let name = test.prefix.as_deref().map_or_else(Name::any, |prefix| Name::before_colon(prefix, true));
                add(*tag, name, Then::Test(id));
            }
        }

        let mut matchers = Vec::new();
        let mut first = Box::new([[NONE; Beginning::COUNT]; 256]);
        for (of_tag, first) in by_tag.iter().zip(first.iter_mut()) {
            for (index, first) in first.iter_mut().enumerate() {
                let begins = |(name, _): &&(Name, Then)| name.beginning.is_none_or(|known| known.index() == index);
                *first = of_tag.iter().filter(begins).rev().fold(NONE, |next, (name, then)| {
                    matchers.push(Matcher { name: name.clone(), then: *then, next });
                    (matchers.len() - 1) as u32
                });
            }
        }
        let mut stop_at =
            |tag: Tag, mark| std::mem::replace(&mut first[usize::from(tag.number())], [mark; Beginning::COUNT]);
        let at_end = stop_at(Tag::END, ENDED);
        let at_link = if attention.links { stop_at(Tag::LINK, LINKED) } else { [NONE; Beginning::COUNT] };
        let tests = tests.iter().map(|(_, test)| test.clone()).collect();
        Self { first, at_end, at_link, matchers, tests, schemes }
    }

    /// Adds the records that are looked at.
    pub(super) fn add_to(&self, wanted: &mut Filter) {
        for (tag, first) in (0..=u8::MAX).map(Tag::from_number).zip(self.first.iter()) {
            for (index, first) in first.iter().enumerate() {
                let mut next = match *first {
                    ENDED => self.at_end[index],
                    LINKED => {
                        wanted.add(Tag::LINK);
                        self.at_link[index]
                    }
                    first => first,
                };
                while let Some(matcher) = self.matchers.get(next as usize) {
                    match matcher.name.beginning {
                        Some(beginning) => wanted.add_beginning(tag, beginning),
                        None => wanted.add(tag),
                    }
                    next = matcher.next;
                }
            }
        }
    }

    /// Takes what is looked for from the next records that are of the same transaction as `values`.
    pub(super) fn take<'a>(&self, records: &mut Records<'a>, values: &mut Values) -> Stop<'a> {
        let log = records.log();
        let vxid = values.vxid;
        loop {
            let Some((next, payload)) = self.next_of_interest(records, vxid) else { return Stop::Left };
            let beginning = || Beginning::of_payload(payload).index();
            match next {
                ENDED => {
                    self.try_at_stop(self.at_end[beginning()], payload, values, log);
                    return Stop::Ended;
                }
                LINKED => {
                    self.try_at_stop(self.at_link[beginning()], payload, values, log);
                    return Stop::Linked(payload);
                }
                _ => self.try_each(next, payload, values, log),
            }
        }
    }

    /// Takes records of a transaction up to one that is looked for; gives it, and the first matcher to try. Apart, so that the
    /// registers are this loop's alone.
    #[inline(never)]
    fn next_of_interest<'a>(&self, records: &mut Records<'a>, vxid: u64) -> Option<(u32, &'a [u8])> {
        let mut next = NONE;
        let payload = records.skip_while(vxid, |tag, payload| {
            next = self.first[usize::from(tag.number())][Beginning::of_payload(payload).index()];
            next == NONE
        });
        Some((next, payload?))
    }

    #[inline(never)]
    fn try_at_stop(&self, next: u32, payload: &[u8], values: &mut Values, log: &[u8]) {
        if next != NONE {
            self.try_each(next, payload, values, log);
        }
    }

    /// Takes what is looked for from a record that is not in the log. Values that are must have been kept before.
    pub(super) fn take_made_up(&self, tag: Tag, payload: &[u8], values: &mut Values) {
        let beginning = Beginning::of_payload(payload).index();
        let first = match self.first[usize::from(tag.number())][beginning] {
            ENDED => self.at_end[beginning],
            first => first,
        };
        self.try_each(first, payload, values, payload);
        values.keep(payload);
    }

    /// Tries this matcher and those behind it on a record of `log`.
    #[inline(always)]
    fn try_each(&self, mut next: u32, payload: &[u8], values: &mut Values, log: &[u8]) {
        let start = payload.as_ptr().addr().wrapping_sub(log.as_ptr().addr());
        let head = bytes_at(log, start);
        while let Some(matcher) = self.matchers.get(next as usize) {
            if matcher.name.is_in(log, start, head) {
                let seldom = matcher.take(payload, values, log);
                if seldom {
                    self.take_otherwise(next, payload, values, log);
                }
            }
            next = matcher.next;
        }
    }
}

impl Matcher {
    /// Takes the value of a record of `log` that begins with the name, if it is long enough. `true` when that is left to
    /// [`Matchers::take_otherwise`].
    #[inline(always)]
    fn take(&self, payload: &[u8], values: &mut Values, log: &[u8]) -> bool {
        let end = payload.len() - usize::from(payload.last() == Some(&0));
        // Where the payload is shorter than the name, what follows it in the log is no part of it.
        let Some(value) = payload.get(self.name.length..end) else { return false };
        match self.then {
            Then::Keep(capture, Pick::First, _) if values.has(capture) => {}
            Then::Keep(capture, _, Part::Whole) => take_whole(capture, value, values, log),
            Then::Keep(capture, _, Part::Field(number)) => take_field(capture, number, value, values, log),
            Then::Handle(handling) => {
                if value.is_empty() {
                    values.handling = handling;
                }
            }
            _ => return true,
        }
        false
    }
}

impl Matchers {
    /// The same for what is seldom looked for.
    #[inline(never)]
    fn take_otherwise(&self, matcher: u32, payload: &[u8], values: &mut Values, log: &[u8]) {
        let Matcher { name, then, .. } = &self.matchers[matcher as usize];
        let text = &payload[name.length..];
        let value = text.strip_suffix(&[0]).unwrap_or(text);
        match *then {
            Then::Keep(capture, _, Part::Scheme(scheme)) => {
                take_behind_scheme(capture, &self.schemes[usize::from(scheme)], value, values, log);
            }
            Then::Keep(capture, _, _) => take_trimmed(capture, text, values, log),
            Then::LeaveOut { whole } => values.left_out |= value.is_empty() || !whole,
            // Unless a record before has met it.
            Then::Test(id) => {
                if !values.met.contains(id) && self.tests[id.index()].is_met(text) {
                    values.met.insert(id);
                }
            }
            Then::Handle(_) => {}
        }
    }
}

/// Takes a value without white space around it. Most have one space before them, or none.
#[inline]
fn take_whole(capture: CaptureId, value: &[u8], values: &mut Values, log: &[u8]) {
    let value = &value[usize::from(value.first() == Some(&b' '))..];
    match value {
        [b'!'..=u8::MAX, .., b'!'..=u8::MAX] | [b'!'..=u8::MAX] => values.set(capture, value, log),
        _ => take_trimmed(capture, value, values, log),
    }
}

#[cold]
fn take_trimmed(capture: CaptureId, value: &[u8], values: &mut Values, log: &[u8]) {
    let start = value.iter().take_while(|byte| is_space(**byte)).count();
    let end = value.iter().rev().take_while(|byte| is_space(**byte)).count();
    values.set(capture, value.get(start..value.len() - end).unwrap_or(&value[start..start]), log);
}

/// Takes what follows a scheme.
fn take_behind_scheme(capture: CaptureId, scheme: &[u8], value: &[u8], values: &mut Values, log: &[u8]) {
    let value = &value[value.iter().take_while(|byte| **byte == b' ').count()..];
    if value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)) {
        take_trimmed(capture, &value[scheme.len()..], values, log);
    }
}

/// Takes a field of a value, if it has that many.
#[inline(never)]
fn take_field(capture: CaptureId, number: u8, value: &[u8], values: &mut Values, log: &[u8]) {
    if let Some(value) = field(value, number, log) {
        values.set(capture, value, log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Layout, Run};

    fn matchers(captures: &[Capture]) -> Matchers {
        Matchers::new(captures, &TestTable::default(), Attention { links: false, garbage: true })
    }

    /// What is taken of a transaction's records, and their log.
    fn take(captures: &[Capture], records: &[(Tag, &[u8])]) -> (Values, Vec<u8>) {
        let mut run = Run::of_records(1, records.iter().map(|(tag, payload)| (*tag, 1, *payload)));
        let mut values = Values::new();
        values.begin(1, captures.len());
        let mut records = run.records(Layout::One);
        let log = records.log().to_vec();
        assert_eq!(matchers(captures).take(&mut records, &mut values), Stop::Left, "there is no end");
        (values, log)
    }

    /// What a capture makes of one record.
    fn apply(select: &Select, payload: &str) -> Option<String> {
        let source = Source { tag: Tag::REQ_HEADER, select: select.clone(), pick: Pick::First };
        let (values, log) = take(&[Capture(vec![source])], &[(Tag::REQ_HEADER, payload.as_bytes())]);
        let value = values.value(CaptureId(0), &log)?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    #[test]
    fn parts_of_a_record_are_found() {
        let host = Select::Header(b"Host"[..].into());
        assert_eq!(apply(&host, "host:  example.org ").as_deref(), Some("example.org"));
        assert_eq!(apply(&host, "Host:").as_deref(), Some(""));
        assert_eq!(apply(&host, "Hostess: x").as_deref(), None);
        assert_eq!(apply(&host, "Host").as_deref(), None);
        assert_eq!(apply(&Select::Field(2), " a  b c").as_deref(), Some("b"));
        assert_eq!(apply(&Select::Field(4), "a b c").as_deref(), None);
        assert_eq!(apply(&Select::Field(0), "a").as_deref(), None);
        assert_eq!(apply(&Select::HeaderField(b"Start"[..].into(), 1), "Start: 1.5 0.0 0.0").as_deref(), Some("1.5"));
        assert_eq!(apply(&Select::Key(b"k"[..].into()), "k: v").as_deref(), Some("v"));
        assert_eq!(apply(&Select::Key(b"k"[..].into()), "K: v").as_deref(), None);
    }

    #[test]
    fn the_first_or_the_last_record_wins() {
        let of = |tags, pick| Capture::of(tags, &Select::Line, pick);
        let url = of([Tag::REQ_URL, Tag::BEREQ_URL], Pick::First);
        let status = of([Tag::RESP_STATUS, Tag::BERESP_STATUS], Pick::Last);
        let records: [(Tag, &[u8]); 4] =
            [(Tag::REQ_URL, b"/a"), (Tag::RESP_STATUS, b"200"), (Tag::REQ_URL, b"/b"), (Tag::RESP_STATUS, b"304")];
        assert_eq!(take(std::slice::from_ref(&url), &[]).0.value(CaptureId(0), b""), None);
        let (mut values, log) = take(&[url, status], &records);
        for log in [&log[..], b""] {
            assert_eq!(values.value(CaptureId(0), log), Some(&b"/a"[..]));
            assert_eq!(values.value(CaptureId(1), log), Some(&b"304"[..]));
            values.keep(log);
        }
    }

    #[test]
    fn records_tell_how_a_request_was_handled() {
        for (tag, payload, handling, left_out) in [
            (Tag::VCL_CALL, &b"HIT"[..], Handling::Hit, false),
            (Tag::VCL_CALL, b"HITMISS", Handling::Unknown, false),
            (Tag::VCL_CALL, b"SYNTH", Handling::Synth, false),
            (Tag::VCL_CALL, b"DELIVER", Handling::Unknown, false),
            (Tag::VCL_RETURN, b"pipe", Handling::Pipe, false),
            (Tag::VCL_RETURN, b"restart", Handling::Unknown, true),
            (Tag::HTTP_GARBAGE, b"\x16\x03", Handling::Unknown, true),
        ] {
            let (values, _) = take(&[], &[(tag, payload)]);
            assert_eq!((values.handling, values.left_out), (handling, left_out), "{}", payload.escape_ascii());
        }
    }

    #[test]
    fn a_transaction_goes_up_to_its_end_or_to_another() {
        let url = Capture::of([Tag::REQ_URL, Tag::BEREQ_URL], &Select::Line, Pick::Last);
        let matchers = matchers(&[url]);
        let records: [(Tag, u32, &[u8]); 5] = [
            (Tag::REQ_URL, 1, b"/a"),
            (Tag::REQ_URL, 2, b"/b"),
            (Tag::REQ_URL, 1, b"/c"),
            (Tag::END, 1, b""),
            (Tag::REQ_URL, 1, b"/d"),
        ];
        let mut run = Run::of_records(1, records);
        let mut records = run.records(Layout::One);
        for (vxid, stop, url) in
            [(1, Stop::Left, b"/a"), (2, Stop::Left, b"/b"), (1, Stop::Ended, b"/c"), (1, Stop::Left, b"/d")]
        {
            let mut values = Values::new();
            values.begin(vxid, 1);
            assert_eq!(matchers.take(&mut records, &mut values), stop);
            assert_eq!(values.value(CaptureId(0), records.log()), Some(&url[..]));
        }
        assert!(records.next().is_none());
    }
}
