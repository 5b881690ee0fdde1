//! Matchers: captures as they are applied to each record, found by its tag and by how its payload begins.

use crate::log::{Beginning, Filter, Record, Tag};

use super::Handling;
use super::capture::{Capture, CaptureId, Pick, Select, Source};
use super::values::Values;

/// All that is looked for in records.
#[derive(Debug)]
pub(super) struct Matchers {
    tags: Box<[Groups; 256]>,
    groups: Vec<Vec<Matcher>>,
}

/// A tag's groups of matchers: one for each beginning of a payload, or one for all.
#[derive(Debug, Clone, Copy)]
struct Groups {
    first: u32,
    /// What counts of a beginning's number.
    mask: u32,
}

/// What one of a tag's records is tried against.
#[derive(Debug, Clone)]
struct Matcher {
    name: Option<Name>,
    then: Then,
}

/// What a record does that matches.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Its value, or a part of it, is the capture's.
    Keep(CaptureId, Pick, Part),
    /// It tells how the request was handled, if nothing follows the name.
    Handle(Handling),
    /// The transaction gets no line, if nothing follows the name.
    LeaveOut,
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
    (Tag::VCL_RETURN, b"restart", Then::LeaveOut),
];

impl Matchers {
    /// Matchers for these captures, and for what is asked of every transaction.
    pub(super) fn new(captures: &[Capture]) -> Self {
        let mut by_tag = vec![Vec::new(); 256];
        let mut add = |tag: Tag, name, then| by_tag[usize::from(tag.number())].push(Matcher { name, then });
        for (index, Capture(sources)) in captures.iter().enumerate() {
            for Source { tag, select, pick } in sources {
                let (name, part) = match select {
                    Select::Line => (None, Part::Whole),
                    Select::Field(number) => (None, Part::Field(*number)),
                    Select::Header(name) => (Some(Name::before_colon(name, true)), Part::Whole),
                    Select::HeaderField(name, number) => (Some(Name::before_colon(name, true)), Part::Field(*number)),
                    Select::Key(key) => (Some(Name::before_colon(key, false)), Part::Whole),
                };
                add(*tag, name, Then::Keep(CaptureId(index), *pick, part));
            }
        }
        for (tag, text, then) in TELLING {
            add(tag, Some(Name::of_whole(text)), then);
        }
        add(Tag::HTTP_GARBAGE, None, Then::LeaveOut);

        // The first group is for tags with nothing to look for.
        let mut groups = vec![Vec::new()];
        let mut tags = Box::new([Groups { first: 0, mask: 0 }; 256]);
        for (entry, matchers) in tags.iter_mut().zip(by_tag) {
            if matchers.is_empty() {
                continue;
            }
            let count = if matchers.iter().all(|matcher| matcher.name.is_none()) { 1 } else { Beginning::COUNT };
            *entry = Groups { first: groups.len() as u32, mask: count as u32 - 1 };
            groups.extend((0..count).map(|index| {
                let in_group = |matcher: &&Matcher| matcher.beginning().is_none_or(|known| known.index() == index);
                matchers.iter().filter(in_group).cloned().collect::<Vec<_>>()
            }));
        }
        Self { tags, groups }
    }

    /// Adds the records that are looked at.
    pub(super) fn add_to(&self, wanted: &mut Filter) {
        for (tag, groups) in (0..=u8::MAX).map(Tag::from_number).zip(self.tags.iter()) {
            let first = groups.first as usize;
            for matcher in self.groups[first..=first + groups.mask as usize].iter().flatten() {
                match matcher.beginning() {
                    Some(beginning) => wanted.add_beginning(tag, beginning),
                    None => wanted.add(tag),
                }
            }
        }
    }

    /// Takes what is looked for from a record of `log`.
    #[inline]
    pub(super) fn take(&self, record: &Record<'_>, values: &mut Values, log: &[u8]) {
        let groups = self.tags[usize::from(record.tag.number())];
        let index = groups.first + (Beginning::of_payload(record.payload).index() as u32 & groups.mask);
        let Some(group) = self.groups.get(index as usize) else { return };
        let payload = record.payload.strip_suffix(&[0]).unwrap_or(record.payload);
        for matcher in group {
            matcher.take(payload, values, log);
        }
    }
}

impl Matcher {
    /// What every payload begins with that matches, if there is such a thing.
    fn beginning(&self) -> Option<Beginning> {
        self.name.as_ref().and_then(|name| name.beginning)
    }

    #[inline]
    fn take(&self, payload: &[u8], values: &mut Values, log: &[u8]) {
        if let Then::Keep(capture, Pick::First, _) = self.then
            && values.has(capture)
        {
            return;
        }
        let value = match &self.name {
            Some(name) => match name.strip(payload) {
                Some(value) => value,
                None => return,
            },
            None => payload,
        };
        match self.then {
            Then::Keep(capture, _, Part::Whole) => values.set(capture, trim(value), log),
            Then::Keep(capture, _, Part::Field(number)) => {
                if let Some(value) = field(value, number) {
                    values.set(capture, value, log);
                }
            }
            Then::Handle(handling) if value.is_empty() => values.handling = handling,
            Then::LeaveOut if value.is_empty() || self.name.is_none() => values.left_out = true,
            Then::Handle(_) | Then::LeaveOut => {}
        }
    }
}

/// What a payload begins with, compared eight bytes at a time.
#[derive(Debug, Clone)]
struct Name {
    /// With the colon that ends it.
    text: Box<[u8]>,
    any_case: bool,
    /// `None` if it is too short to tell.
    beginning: Option<Beginning>,
    /// All of the text; the last one overlaps the one before. A text of less than eight bytes has one with a mask.
    chunks: Box<[Chunk]>,
}

#[derive(Debug, Clone)]
struct Chunk {
    offset: usize,
    /// The text's bytes, letters in lower case where the case does not matter.
    text: u64,
    /// The bit that makes a letter lower case, where the text has a letter.
    fold: u64,
    /// The bytes that count.
    mask: u64,
}

impl Name {
    fn new(text: &[u8], any_case: bool) -> Self {
        let chunk = |offset: usize| {
            let mut bytes = [[0_u8; 8]; 3];
            for (index, byte) in text[offset..].iter().take(8).enumerate() {
                let fold = if any_case && byte.is_ascii_alphabetic() { 0x20 } else { 0 };
                (bytes[0][index], bytes[1][index], bytes[2][index]) = (byte | fold, fold, 0xff);
            }
            let [text, fold, mask] = bytes.map(u64::from_ne_bytes);
            Chunk { offset, text, fold, mask }
        };
        let last = text.len().saturating_sub(8);
        let chunks = (0..last).step_by(8).chain([last]).map(chunk).collect();
        Self { text: text.into(), any_case, beginning: Beginning::of_text(text), chunks }
    }

    /// A header's name or a key.
    fn before_colon(name: &[u8], any_case: bool) -> Self {
        Self::new(&[name, b":"].concat(), any_case)
    }

    /// A name that is all of a payload but the NUL at its end.
    fn of_whole(text: &[u8]) -> Self {
        Self { beginning: Beginning::of_text(&[text, &[0]].concat()), ..Self::new(text, false) }
    }

    /// What follows the name in a payload that begins with it.
    #[inline]
    fn strip<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        for chunk in &self.chunks {
            let Some(bytes) = payload.get(chunk.offset..).and_then(<[u8]>::first_chunk) else {
                // Less than eight bytes are there.
                return self.strip_short(payload);
            };
            if (u64::from_ne_bytes(*bytes) | chunk.fold) & chunk.mask != chunk.text {
                return None;
            }
        }
        payload.get(self.text.len()..)
    }

    fn strip_short<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        let (name, rest) = payload.split_at_checked(self.text.len())?;
        (*name == *self.text || self.any_case && name.eq_ignore_ascii_case(&self.text)).then_some(rest)
    }
}

/// Without white space around it. Most values have one space before them, or none.
#[inline]
fn trim(value: &[u8]) -> &[u8] {
    match value.strip_prefix(b" ").unwrap_or(value) {
        value @ ([b'!'..=u8::MAX, .., b'!'..=u8::MAX] | [b'!'..=u8::MAX]) => value,
        value => value.trim_ascii(),
    }
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
    use crate::log::Side;

    /// What a capture makes of one record.
    fn apply(select: &Select, payload: &str) -> Option<String> {
        let source = Source { tag: Tag::REQ_HEADER, select: select.clone(), pick: Pick::First };
        let mut values = Values::new();
        values.begin(1, Side::Client, 1);
        let record = Record { tag: Tag::REQ_HEADER, vxid: 1, side: Side::Client, payload: payload.as_bytes() };
        Matchers::new(&[Capture(vec![source])]).take(&record, &mut values, payload.as_bytes());
        let value = values.value(CaptureId(0), payload.as_bytes())?;
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
        fn a_name_is_found_as_byte_by_byte(name in "[A-Za-z@`0-9-]{0,20}", other in "[A-Za-z@`{:0-9-]{0,20}", rest in "[a-z:]{0,12}") {
            for payload in [&name, &other, &name.to_uppercase(), &name.to_lowercase()].map(|name| format!("{name}:{rest}")) {
                let begins = payload.len() > name.len() && payload.as_bytes()[name.len()] == b':';
                for any_case in [true, false] {
                    let head = payload.as_bytes().get(..name.len());
                    let same = head.is_some_and(|head| if any_case { head.eq_ignore_ascii_case(name.as_bytes()) } else { head == name.as_bytes() });
                    let expected = (begins && same).then(|| &payload.as_bytes()[name.len() + 1..]);
                    prop_assert_eq!(Name::before_colon(name.as_bytes(), any_case).strip(payload.as_bytes()), expected);
                }
            }
        }
    }

    #[test]
    fn the_first_or_the_last_record_wins() {
        let of = |tags, pick| Capture::of(tags, &Select::Line, pick);
        let url = of([Tag::REQ_URL, Tag::BEREQ_URL], Pick::First);
        let status = of([Tag::RESP_STATUS, Tag::BERESP_STATUS], Pick::Last);
        let matchers = Matchers::new(&[url, status]);
        let mut values = Values::new();
        values.begin(1, Side::Client, 2);
        assert_eq!(values.value(CaptureId(0), b""), None);
        let log = b"/a\x00200\x00/b\x00304\x00";
        for (tag, range) in
            [(Tag::REQ_URL, 0..3), (Tag::RESP_STATUS, 3..7), (Tag::REQ_URL, 7..10), (Tag::RESP_STATUS, 10..14)]
        {
            matchers.take(&Record { tag, vxid: 1, side: Side::Client, payload: &log[range] }, &mut values, log);
        }
        for log in [&log[..], b""] {
            assert_eq!(values.value(CaptureId(0), log), Some(&b"/a"[..]));
            assert_eq!(values.value(CaptureId(1), log), Some(&b"304"[..]));
            values.keep(log);
        }
    }

    #[test]
    fn records_tell_how_a_request_was_handled() {
        let matchers = Matchers::new(&[]);
        for (tag, payload, handling, left_out) in [
            (Tag::VCL_CALL, &b"HIT\0"[..], Handling::Hit, false),
            (Tag::VCL_CALL, b"HIT", Handling::Hit, false),
            (Tag::VCL_CALL, b"HITMISS\0", Handling::Unknown, false),
            (Tag::VCL_CALL, b"SYNTH\0", Handling::Synth, false),
            (Tag::VCL_CALL, b"DELIVER\0", Handling::Unknown, false),
            (Tag::VCL_RETURN, b"pipe\0", Handling::Pipe, false),
            (Tag::VCL_RETURN, b"restart\0", Handling::Unknown, true),
            (Tag::HTTP_GARBAGE, b"\x16\x03", Handling::Unknown, true),
        ] {
            let mut values = Values::new();
            values.begin(1, Side::Client, 0);
            matchers.take(&Record { tag, vxid: 1, side: Side::Client, payload }, &mut values, payload);
            assert_eq!((values.handling, values.left_out), (handling, left_out), "{}", payload.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_field_is_found_as_byte_by_byte(text in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'\t'), 0_u8..=255], 0..40), number in 1_u8..5) {
            let mut fields = text.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            prop_assert_eq!(field(&text, number), fields.nth(usize::from(number) - 1));
        }
    }
}
