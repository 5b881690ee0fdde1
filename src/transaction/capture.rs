//! Captures: which values of which records the formats need.

use crate::log::{Record, Side, Tag, TagSet};

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
#[derive(Debug)]
struct Matcher {
    select: Select,
    pick: Pick,
    capture: CaptureId,
}

/// The matchers of one tag. Most headers are of no interest, and their first letter tells.
#[derive(Debug, Default)]
struct TagMatchers {
    /// Those that look at every record.
    every: Vec<Matcher>,
    /// Those that look at records which begin with a name, by its first letter: an index into `groups`, plus 1.
    by_letter: Option<Box<[u8; 256]>>,
    groups: Vec<Vec<Matcher>>,
}

/// All captures of all streams, by tag.
#[derive(Debug)]
pub struct CaptureTable {
    captures: Vec<Capture>,
    by_tag: Vec<TagMatchers>,
}

impl Default for CaptureTable {
    fn default() -> Self {
        Self { captures: Vec::new(), by_tag: (0..=u8::MAX).map(|_| TagMatchers::default()).collect() }
    }
}

impl TagMatchers {
    fn add(&mut self, matcher: Matcher) {
        let Some(letter) = matcher.select.first_letter() else { return self.every.push(matcher) };
        let by_letter = self.by_letter.get_or_insert_with(|| Box::new([0; 256]));
        let group = &mut by_letter[usize::from(letter.to_ascii_lowercase())];
        if *group == 0 {
            self.groups.push(Vec::new());
            // There are fewer letters than fit.
            *group = self.groups.len() as u8;
            by_letter[usize::from(letter.to_ascii_uppercase())] = self.groups.len() as u8;
        }
        let group = usize::from(by_letter[usize::from(letter.to_ascii_lowercase())]) - 1;
        self.groups[group].push(matcher);
    }

    /// The matchers that this payload may interest, beside those in `every`.
    #[inline]
    fn group(&self, payload: &[u8]) -> &[Matcher] {
        match (&self.by_letter, payload.first()) {
            (Some(by_letter), Some(letter)) => match by_letter[usize::from(*letter)] {
                0 => &[],
                group => &self.groups[usize::from(group) - 1],
            },
            _ => &[],
        }
    }

    fn is_empty(&self) -> bool {
        self.every.is_empty() && self.groups.is_empty()
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
            let matcher = Matcher { select: source.select.clone(), pick: source.pick, capture: id };
            self.by_tag[usize::from(source.tag.number())].add(matcher);
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

    /// The tags that captures need of the transactions that are wanted, with those that transactions are put together by.
    #[must_use]
    pub fn tags(&self, interest: Interest) -> TagSet {
        let captured =
            (0..=u8::MAX).filter(|number| !self.by_tag[usize::from(*number)].is_empty()).map(Tag::from_number);
        let wanted = captured.filter(|tag| match tag.side() {
            Side::Client => interest.client,
            Side::Backend => interest.backend,
            Side::None => true,
        });
        wanted.chain([Tag::BEGIN, Tag::END, Tag::VCL_CALL, Tag::VCL_RETURN, Tag::HTTP_GARBAGE]).collect()
    }

    /// Takes what the captures need of a record.
    #[inline]
    pub(super) fn take(&self, record: &Record<'_>, transaction: &mut Transaction) {
        let matchers = &self.by_tag[usize::from(record.tag.number())];
        let group = matchers.group(record.payload);
        if !group.is_empty() || !matchers.every.is_empty() {
            let payload = without_nul(record.payload);
            for matcher in group.iter().chain(&matchers.every) {
                if let Some(value) = matcher.select.apply(payload) {
                    transaction.keep(matcher.capture, matcher.pick, value);
                }
            }
        }
        match record.tag {
            Tag::VCL_CALL => vcl_call(without_nul(record.payload), transaction),
            Tag::VCL_RETURN => vcl_return(without_nul(record.payload), transaction),
            Tag::HTTP_GARBAGE => transaction.left_out = true,
            _ => {}
        }
    }
}

impl Select {
    /// What a record must begin with, in either case; `None` when it can begin with anything.
    fn first_letter(&self) -> Option<u8> {
        match self {
            Self::Line | Self::Field(_) => None,
            Self::Header(name) | Self::HeaderField(name, _) | Self::Key(name) => name.first().copied(),
        }
    }

    #[inline]
    fn apply<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Line => Some(payload.trim_ascii()),
            Self::Field(number) => field(payload, *number),
            Self::Header(name) => Some(after_name(payload, name)?.trim_ascii()),
            Self::HeaderField(name, number) => field(after_name(payload, name)?, *number),
            Self::Key(key) => {
                let rest = payload.strip_prefix(&key[..])?.strip_prefix(b":")?;
                Some(rest.trim_ascii())
            }
        }
    }
}

/// What follows `name:`.
#[inline]
fn after_name<'a>(payload: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    // The colon's place tells most names apart before a letter of them is compared.
    if payload.get(name.len()) != Some(&b':') || !payload[..name.len()].eq_ignore_ascii_case(name) {
        return None;
    }
    Some(&payload[name.len() + 1..])
}

/// Field `number`, from 1.
#[inline]
fn field(payload: &[u8], number: u8) -> Option<&[u8]> {
    payload.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).nth(usize::from(number.checked_sub(1)?))
}

fn without_nul(mut payload: &[u8]) -> &[u8] {
    while let [rest @ .., 0] = payload {
        payload = rest;
    }
    payload
}

/// varnishd writes methods in upper case and actions in lower case (`cache_vcl_vrt.c`).
fn vcl_call(method: &[u8], transaction: &mut Transaction) {
    transaction.handling = match method {
        b"RECV" => Handling::Unknown,
        b"HIT" => Handling::Hit,
        b"MISS" => Handling::Miss,
        b"PASS" => Handling::Pass,
        b"SYNTH" => Handling::Synth,
        _ => return,
    };
}

fn vcl_return(action: &[u8], transaction: &mut Transaction) {
    match action {
        b"pipe" => transaction.handling = Handling::Pipe,
        b"restart" => transaction.left_out = true,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Side;

    fn apply<'a>(select: &Select, payload: &'a str) -> Option<&'a str> {
        select.apply(payload.as_bytes()).map(|value| std::str::from_utf8(value).unwrap())
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
