//! Matchers: captures as they are applied to each record, found by its tag and by how its payload begins.

use crate::log::{Beginning, Filter, Offer, Records, Tag};

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
    matchers: Vec<Matcher>,
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

/// What a record does that matches.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Its value, or a part of it, is the capture's.
    Keep(CaptureId, Pick, Part),
    /// It tells how the request was handled, if nothing follows the name.
    Handle(Handling),
    /// The transaction gets no line; only if nothing follows the name, where that must be all.
    LeaveOut { whole: bool },
}

/// Which part of what follows the name.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// All of it, without white space around it.
    Whole,
    /// A field, separated by white space, counted from 1.
    Field(u8),
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

impl Matchers {
    /// Matchers for these captures, and for what is asked of every transaction.
    pub(super) fn new(captures: &[Capture]) -> Self {
        let mut by_tag = vec![Vec::new(); 256];
        let mut add = |tag: Tag, name, then| by_tag[usize::from(tag.number())].push((name, then));
        for (index, Capture(sources)) in captures.iter().enumerate() {
            for Source { tag, select, pick } in sources {
                let (name, part) = match select {
                    Select::Line => (Name::any(), Part::Whole),
                    Select::Field(number) => (Name::any(), Part::Field(*number)),
                    Select::Header(name) => (Name::before_colon(name, true), Part::Whole),
                    Select::HeaderField(name, number) => (Name::before_colon(name, true), Part::Field(*number)),
                    Select::Key(key) => (Name::before_colon(key, false), Part::Whole),
                };
                add(*tag, name, Then::Keep(CaptureId(index), *pick, part));
            }
        }
        for (tag, text, then) in TELLING {
            add(tag, Name::of_whole(text), then);
        }
        add(Tag::HTTP_GARBAGE, Name::any(), Then::LeaveOut { whole: false });

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
        first[usize::from(Tag::END.number())] = [ENDED; Beginning::COUNT];
        Self { first, matchers }
    }

    /// Adds the records that are looked at.
    pub(super) fn add_to(&self, wanted: &mut Filter) {
        for (tag, first) in (0..=u8::MAX).map(Tag::from_number).zip(self.first.iter()) {
            for first in first {
                let mut next = *first;
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

    /// Takes what is looked for from the next records that are of the same transaction as `values`. Returns whether it ended.
    pub(super) fn take(&self, records: &mut Records<'_>, values: &mut Values) -> bool {
        let log = records.log();
        let vxid = values.vxid;
        loop {
            // The first loop does nothing but look for a record of interest, in as few instructions as there can be.
            let (mut next, mut payload) = (NONE, &log[..0]);
            records.offer(|record| {
                if record.vxid != vxid {
                    return Offer::Left;
                }
                let beginning = Beginning::of_payload(record.payload).index();
                next = self.first[usize::from(record.tag.number())][beginning];
                payload = record.payload;
                if next == NONE { Offer::Taken } else { Offer::Last }
            });
            match next {
                NONE => return false,
                ENDED => return true,
                _ => self.try_each(next, payload, values, log),
            }
        }
    }

    /// Tries this matcher and those behind it on a record of `log`.
    #[inline(never)]
    fn try_each(&self, mut next: u32, payload: &[u8], values: &mut Values, log: &[u8]) {
        let start = payload.as_ptr().addr().wrapping_sub(log.as_ptr().addr());
        let head = bytes_at(log, start);
        while let Some(matcher) = self.matchers.get(next as usize) {
            if matcher.name.is_in(log, start, head) {
                matcher.take(payload, values, log);
            }
            next = matcher.next;
        }
    }
}

impl Matcher {
    /// Takes the value of a record of `log` that begins with the name, if it is long enough.
    #[inline(always)]
    fn take(&self, payload: &[u8], values: &mut Values, log: &[u8]) {
        let end = payload.len() - usize::from(payload.last() == Some(&0));
        // Where the payload is shorter than the name, what follows it in the log is no part of it.
        let Some(value) = payload.get(self.name.length..end) else { return };
        match self.then {
            Then::Keep(capture, Pick::First, _) if values.has(capture) => {}
            Then::Keep(capture, _, Part::Whole) => take_whole(capture, value, values, log),
            Then::Keep(capture, _, Part::Field(number)) => take_field(capture, number, value, values, log),
            Then::Handle(handling) if value.is_empty() => values.handling = handling,
            Then::Handle(_) => {}
            Then::LeaveOut { whole } => values.left_out |= value.is_empty() || !whole,
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
    values.set(capture, value.trim_ascii(), log);
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
    use crate::log::{Layout, Run, Side};

    /// What is taken of a transaction's records, and their log.
    fn take(captures: &[Capture], records: &[(Tag, &[u8])]) -> (Values, Vec<u8>) {
        let mut run = Run::of_records(1, records.iter().map(|(tag, payload)| (*tag, 1, *payload)));
        let mut values = Values::new();
        values.begin(1, Side::Client, captures.len());
        let mut records = run.records(Layout::One);
        let log = records.log().to_vec();
        assert!(!Matchers::new(captures).take(&mut records, &mut values), "there is no end");
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
        let matchers = Matchers::new(&[url]);
        let records: [(Tag, u32, &[u8]); 5] = [
            (Tag::REQ_URL, 1, b"/a"),
            (Tag::REQ_URL, 2, b"/b"),
            (Tag::REQ_URL, 1, b"/c"),
            (Tag::END, 1, b""),
            (Tag::REQ_URL, 1, b"/d"),
        ];
        let mut run = Run::of_records(1, records);
        let mut records = run.records(Layout::One);
        for (vxid, ended, url) in [(1, false, b"/a"), (2, false, b"/b"), (1, true, b"/c"), (1, false, b"/d")] {
            let mut values = Values::new();
            values.begin(vxid, Side::Client, 1);
            assert_eq!(matchers.take(&mut records, &mut values), ended);
            assert_eq!(values.value(CaptureId(0), records.log()), Some(&url[..]));
        }
        assert!(records.next().is_none());
    }
}
