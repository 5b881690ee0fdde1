//! Captures: which values of which records the formats need.

use crate::log::{Beginning, Filter, Record, Side, Tag};

use super::assembler::{BACKEND_REQUEST, REQUEST};
use super::{Handling, Interest, Transaction};

/// The number of a capture in its table: the same for all streams that name the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureId(pub(super) usize);

/// Which record wins when several match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The first one.
    First,
    /// The last one.
    Last,
}

/// Which part of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// The whole line, without white space around it.
    Line,
    /// A field, separated by white space, counted from 1.
    Field(u8),
    /// What follows `Name:`, without white space around it. Upper and lower case are the same.
    Header(Box<[u8]>),
    /// A field of what follows a prefix such as `Start:`, counted from 1. Upper and lower case are the same.
    HeaderField(Box<[u8]>, u8),
    /// What follows `key:`, to the letter, without white space around it.
    Key(Box<[u8]>),
}

/// One place that a capture's value can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Records of this tag.
    pub tag: Tag,
    /// This part of them.
    pub select: Select,
    /// The first or the last.
    pub pick: Pick,
}

/// A value that a format needs, with the places it can come from: those of the client side and those of the backend side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture(pub Vec<Source>);

impl Capture {
    /// The same part of either of two tags: the client side's and the backend side's.
    #[must_use]
    pub fn of(tags: [Tag; 2], select: &Select, pick: Pick) -> Self {
        Self(tags.map(|tag| Source { tag, select: select.clone(), pick }).into())
    }
}

/// One source in the table, with the capture that it fills.
#[derive(Debug, Clone)]
struct Matcher {
    /// What the record must begin with.
    name: Option<Name>,
    /// The field of what follows, counted from 1; all of it without white space around it otherwise.
    field: Option<u8>,
    pick: Pick,
    capture: CaptureId,
}

/// The matchers of one tag, grouped by how a payload begins; one group where all of them look at every record, or none is there.
#[derive(Debug)]
struct TagMatchers(Vec<Vec<Matcher>>);

/// All captures of all streams, by tag.
#[derive(Debug)]
pub struct CaptureTable {
    captures: Vec<Capture>,
    by_tag: Vec<TagMatchers>,
}

impl Default for CaptureTable {
    fn default() -> Self {
        Self { captures: Vec::new(), by_tag: (0..=u8::MAX).map(|_| TagMatchers(vec![Vec::new()])).collect() }
    }
}

impl TagMatchers {
    /// Adds the matcher to the group of its name's beginning, or to all if it has none.
    fn add(&mut self, matcher: &Matcher) {
        match matcher.name.as_ref().and_then(|name| Beginning::of(&name.text)) {
            Some(beginning) => {
                if self.0.len() == 1 {
                    self.0 = vec![self.0.remove(0); Beginning::COUNT];
                }
                self.0[beginning.index()].push(matcher.clone());
            }
            None => self.0.iter_mut().for_each(|group| group.push(matcher.clone())),
        }
    }

    /// All that this payload may interest. One that is too short for a beginning may interest any that are in all groups.
    #[inline]
    fn of(&self, payload: &[u8]) -> &[Matcher] {
        let group = Beginning::of(payload).map_or(0, Beginning::index) & (self.0.len() - 1);
        self.0.get(group).map_or(&[], Vec::as_slice)
    }

    /// Adds what these look at to the records that are wanted.
    fn add_to(&self, wanted: &mut Filter, tag: Tag) {
        for matcher in self.0.iter().flatten() {
            match &matcher.name {
                Some(name) => wanted.add_beginning_with(tag, &name.text),
                None => wanted.add(tag),
            }
        }
    }
}

impl Matcher {
    fn new(source: &Source, capture: CaptureId) -> Self {
        let (name, field) = match &source.select {
            Select::Line => (None, None),
            Select::Field(number) => (None, Some(*number)),
            Select::Header(name) => (Some(Name::new(name, true)), None),
            Select::HeaderField(name, number) => (Some(Name::new(name, true)), Some(*number)),
            Select::Key(key) => (Some(Name::new(key, false)), None),
        };
        Self { name, field, pick: source.pick, capture }
    }

    #[inline]
    fn apply<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        let value = match &self.name {
            Some(name) => name.strip(payload)?,
            None => payload,
        };
        match self.field {
            Some(number) => field(value, number),
            None => Some(trim(value)),
        }
    }
}

/// A name and its colon, to be compared with what a record begins with, eight bytes at a time.
#[derive(Debug, Clone)]
struct Name {
    /// As it was given, with the colon.
    text: Box<[u8]>,
    any_case: bool,
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
    fn new(name: &[u8], any_case: bool) -> Self {
        let text = [name, b":"].concat();
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
        Self { text: text.into(), any_case, chunks }
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

impl CaptureTable {
    /// The capture's number; the one that it has already if another format named it.
    pub fn intern(&mut self, capture: Capture) -> CaptureId {
        if let Some(index) = self.captures.iter().position(|known| *known == capture) {
            return CaptureId(index);
        }
        let id = CaptureId(self.captures.len());
        for source in &capture.0 {
            self.by_tag[usize::from(source.tag.number())].add(&Matcher::new(source, id));
        }
        self.captures.push(capture);
        id
    }

    /// Captures in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.captures.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.captures.is_empty()
    }

    /// The records that captures need of the transactions that are wanted, with those that transactions are put together by.
    #[must_use]
    pub fn wanted(&self, interest: Interest) -> Filter {
        let mut wanted = Filter::NONE;
        for (tag, matchers) in (0..=u8::MAX).map(Tag::from_number).zip(&self.by_tag) {
            matchers.add_to(&mut wanted, tag);
        }
        for (side, kind) in [(Side::Client, REQUEST), (Side::Backend, BACKEND_REQUEST)] {
            if interest.in_side(side) {
                wanted.add_side(side);
                wanted.add_beginning_with(Tag::BEGIN, kind);
            }
        }
        for (method, _) in METHODS {
            wanted.add_beginning_with(Tag::VCL_CALL, &[method, &[0]].concat());
        }
        for action in [PIPE, RESTART] {
            wanted.add_beginning_with(Tag::VCL_RETURN, action);
        }
        wanted.add(Tag::END);
        wanted.add(Tag::HTTP_GARBAGE);
        wanted
    }

    /// Takes what the captures need of a record.
    #[inline]
    pub(super) fn take(&self, record: &Record<'_>, transaction: &mut Transaction) {
        let payload = without_nul(record.payload);
        for matcher in self.by_tag[usize::from(record.tag.number())].of(payload) {
            if transaction.wants(matcher.capture, matcher.pick)
                && let Some(value) = matcher.apply(payload)
            {
                transaction.keep(matcher.capture, value);
            }
        }
        match record.tag {
            Tag::VCL_CALL => vcl_call(payload, transaction),
            Tag::VCL_RETURN => vcl_return(payload, transaction),
            Tag::HTTP_GARBAGE => transaction.left_out = true,
            _ => {}
        }
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

fn end_of_field(text: &[u8]) -> usize {
    // Nearly all bytes are known by the first comparison.
    text.iter().position(|byte| *byte <= b' ' && byte.is_ascii_whitespace()).unwrap_or(text.len())
}

fn without_nul(payload: &[u8]) -> &[u8] {
    payload.strip_suffix(&[0]).unwrap_or(payload)
}

/// The methods that tell how a request was handled. varnishd writes methods in upper case and actions in lower case
/// (`cache_vcl_vrt.c`).
const METHODS: [(&[u8], Handling); 5] = [
    (b"RECV", Handling::Unknown),
    (b"HIT", Handling::Hit),
    (b"MISS", Handling::Miss),
    (b"PASS", Handling::Pass),
    (b"SYNTH", Handling::Synth),
];
const PIPE: &[u8] = b"pipe";
const RESTART: &[u8] = b"restart";

fn vcl_call(method: &[u8], transaction: &mut Transaction) {
    if let Some((_, handling)) = METHODS.iter().find(|(name, _)| *name == method) {
        transaction.handling = *handling;
    }
}

fn vcl_return(action: &[u8], transaction: &mut Transaction) {
    if action == PIPE {
        transaction.handling = Handling::Pipe;
    } else if action == RESTART {
        transaction.left_out = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apply<'a>(select: &Select, payload: &'a str) -> Option<&'a str> {
        let source = Source { tag: Tag::REQ_HEADER, select: select.clone(), pick: Pick::First };
        let value = Matcher::new(&source, CaptureId(0)).apply(payload.as_bytes())?;
        Some(std::str::from_utf8(value).unwrap())
    }

    #[test]
    fn parts_of_a_record_are_found() {
        let host = Select::Header(b"Host"[..].into());
        assert_eq!(apply(&host, "host:  example.org "), Some("example.org"));
        assert_eq!(apply(&host, "Host:"), Some(""));
        assert_eq!(apply(&host, "Hostess: x"), None);
        assert_eq!(apply(&host, "Host"), None);
        assert_eq!(apply(&Select::Field(2), " a  b c"), Some("b"));
        assert_eq!(apply(&Select::Field(4), "a b c"), None);
        assert_eq!(apply(&Select::Field(0), "a"), None);
        assert_eq!(apply(&Select::HeaderField(b"Start"[..].into(), 1), "Start: 1.5 0.0 0.0"), Some("1.5"));
        assert_eq!(apply(&Select::Key(b"k"[..].into()), "k: v"), Some("v"));
        assert_eq!(apply(&Select::Key(b"k"[..].into()), "K: v"), None);
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
                    prop_assert_eq!(Name::new(name.as_bytes(), any_case).strip(payload.as_bytes()), expected);
                }
            }
        }
    }

    #[test]
    fn the_first_or_the_last_record_wins_and_captures_are_shared() {
        let mut table = CaptureTable::default();
        let url = Capture::of([Tag::REQ_URL, Tag::BEREQ_URL], &Select::Line, Pick::First);
        let status = Capture::of([Tag::RESP_STATUS, Tag::BERESP_STATUS], &Select::Line, Pick::Last);
        let (url, again, status) = (table.intern(url.clone()), table.intern(url), table.intern(status));
        assert_eq!((url, table.len()), (again, 2));

        let mut transaction = Transaction::new();
        transaction.begin(1, Side::Client, table.len());
        assert_eq!(transaction.value(url), None);
        for (tag, payload) in
            [(Tag::REQ_URL, "/a\0"), (Tag::RESP_STATUS, "200\0"), (Tag::REQ_URL, "/b\0"), (Tag::RESP_STATUS, "304\0")]
        {
            table.take(&Record { tag, vxid: 1, side: Side::Client, payload: payload.as_bytes() }, &mut transaction);
        }
        assert_eq!(transaction.value(url), Some(&b"/a"[..]));
        assert_eq!(transaction.value(status), Some(&b"304"[..]));
    }
}
