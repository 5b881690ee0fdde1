//! Matchers: captures as they are applied to each record, found by its tag and by how its payload begins.

use crate::log::{Beginning, Filter, Offer, Records, Tag};

use super::Handling;
use super::capture::{Capture, CaptureId, Pick, Select, Source};
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
            if matcher.name.head.is_in(head) && (matcher.name.rest.is_empty() || matcher.name.rest_is_in(log, start)) {
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
    if let Some(value) = field(value, number) {
        values.set(capture, value, log);
    }
}

/// What a payload begins with, compared sixteen bytes at a time.
#[derive(Debug, Clone)]
struct Name {
    /// With the colon that ends it.
    length: usize,
    /// `None` if it is too short to tell.
    beginning: Option<Beginning>,
    /// The first sixteen bytes.
    head: Chunk,
    /// What is behind them.
    rest: Box<[Chunk]>,
}

/// Up to sixteen bytes of a name.
#[derive(Debug, Clone)]
struct Chunk {
    /// Letters in lower case where the case does not matter.
    text: u128,
    /// The bit that makes a letter lower case, where the text has a letter.
    fold: u128,
    /// The bytes that there are.
    mask: u128,
}

impl Chunk {
    fn new(text: &[u8], any_case: bool) -> Self {
        let mut bytes = [[0; size_of::<u128>()]; 3];
        for (index, byte) in text.iter().enumerate() {
            let fold = if any_case && byte.is_ascii_alphabetic() { 0x20 } else { 0 };
            (bytes[0][index], bytes[1][index], bytes[2][index]) = (byte | fold, fold, 0xff);
        }
        let [text, fold, mask] = bytes.map(u128::from_le_bytes);
        Self { text, fold, mask }
    }

    #[inline]
    fn is_in(&self, bytes: u128) -> bool {
        (bytes | self.fold) & self.mask == self.text
    }
}

impl Name {
    fn new(text: &[u8], any_case: bool) -> Self {
        let mut chunks = text.chunks(size_of::<u128>()).map(|text| Chunk::new(text, any_case));
        Self {
            length: text.len(),
            beginning: Beginning::of_text(text),
            head: chunks.next().unwrap_or_else(|| Chunk::new(b"", false)),
            rest: chunks.collect(),
        }
    }

    /// The beginning of every payload.
    fn any() -> Self {
        Self::new(b"", false)
    }

    /// A header's name or a key.
    fn before_colon(name: &[u8], any_case: bool) -> Self {
        Self::new(&[name, b":"].concat(), any_case)
    }

    /// A name that is all of a payload but the NUL at its end.
    fn of_whole(text: &[u8]) -> Self {
        Self { beginning: Beginning::of_text(&[text, &[0]].concat()), ..Self::new(text, false) }
    }

    /// Whether what follows the head is there as well.
    #[cold]
    fn rest_is_in(&self, log: &[u8], start: usize) -> bool {
        (1..).zip(&self.rest).all(|(index, chunk)| chunk.is_in(bytes_at(log, start + index * size_of::<u128>())))
    }
}

/// The sixteen bytes at a place in the log; those beyond its end are NUL.
#[inline]
fn bytes_at(log: &[u8], at: usize) -> u128 {
    match log.get(at..at.wrapping_add(size_of::<u128>())).and_then(<[u8]>::first_chunk) {
        Some(bytes) => u128::from_le_bytes(*bytes),
        None => last_bytes(log, at),
    }
}

#[cold]
fn last_bytes(log: &[u8], at: usize) -> u128 {
    let mut bytes = [0; size_of::<u128>()];
    bytes.iter_mut().zip(log.iter().skip(at)).for_each(|(byte, known)| *byte = *known);
    u128::from_le_bytes(bytes)
}

/// Field `number`, from 1.
#[inline]
fn field(payload: &[u8], number: u8) -> Option<&[u8]> {
    let mut rest = payload.trim_ascii_start();
    for _ in 1..number {
        rest = rest[end_of_field(rest)..].trim_ascii_start();
    }
    (number > 0 && !rest.is_empty()).then(|| &rest[..end_of_field(rest)])
}

/// Where the white space begins that ends a field, found eight bytes at a time.
#[inline]
fn end_of_field(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let mut at = 0;
    while let Some(word) = text[at..].first_chunk() {
        let word = u64::from_le_bytes(*word);
        // A byte's high bit is set where it is at most a space; a borrow can set those of bytes above the first such one.
        let low = word.wrapping_sub(ONES * 0x21) & !word & HIGH;
        if low == 0 {
            at += 8;
            continue;
        }
        at += low.trailing_zeros() as usize / 8;
        if text[at].is_ascii_whitespace() {
            return at;
        }
        at += 1;
    }
    text[at..].iter().position(u8::is_ascii_whitespace).map_or(text.len(), |index| at + index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn a_name_is_found_as_byte_by_byte(
            name in "[A-Za-z@`0-9-]{0,20}",
            other in "[A-Za-z@`{:0-9-]{0,20}",
            rest in "[a-z:]{0,12}",
            before in 0_usize..9,
            cut in 0_usize..20,
        ) {
            for text in [&name, &other, &name.to_uppercase(), &name.to_lowercase()].map(|name| format!("{name}:{rest}")) {
                let log = format!("{}{text}", "-".repeat(before)).into_bytes();
                // What follows a payload in the log is not its.
                for payload in [&log[before..], &log[before..log.len() - cut.min(text.len())]] {
                    for any_case in [true, false] {
                        let expected = payload.split_at_checked(name.len() + 1).filter(|(head, _)| {
                            let known = format!("{name}:");
                            if any_case { head.eq_ignore_ascii_case(known.as_bytes()) } else { *head == known.as_bytes() }
                        });
                        let known = Name::before_colon(name.as_bytes(), any_case);
                        let begins = known.head.is_in(bytes_at(&log, before)) && known.rest_is_in(&log, before);
                        let value = payload.get(known.length..).filter(|_| begins);
                        prop_assert_eq!(value, expected.map(|(_, value)| value));
                    }
                }
            }
        }
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

    proptest! {
        #[test]
        fn a_field_is_found_as_byte_by_byte(text in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'\t'), 0_u8..=255], 0..40), number in 1_u8..5) {
            let mut fields = text.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            prop_assert_eq!(field(&text, number), fields.nth(usize::from(number) - 1));
        }
    }
}
