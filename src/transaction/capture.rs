//! Captures: which values of which records the formats need.

use crate::log::Tag;

/// The number of a capture in its table: the same for all streams that name the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureId(pub(super) u32);

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
    /// The whole payload, with the NUL at its end, without white space around it.
    Payload,
    /// A field, separated by white space, counted from 1.
    Field(u8),
    /// What follows `Name:`, without white space around it. Upper and lower case are the same.
    Header(Box<[u8]>),
    /// A field of what follows a prefix such as `Start:`, counted from 1. Upper and lower case are the same.
    HeaderField(Box<[u8]>, u8),
    /// What follows `Name: scheme ` (RFC 9110, section 11.4), without white space around it. Upper and lower case are the same.
    Scheme(Box<[u8]>, Box<[u8]>),
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

/// All captures of all streams.
#[derive(Debug, Default)]
pub struct CaptureTable(Vec<Capture>);

impl CaptureTable {
    /// The capture's number; the one that it has already if another format named it.
    pub fn intern(&mut self, capture: Capture) -> CaptureId {
        let known = self.0.iter().position(|known| *known == capture);
        CaptureId(known.unwrap_or_else(|| {
            self.0.push(capture);
            self.0.len() - 1
        }) as u32)
    }

    /// The captures, each at its number.
    pub(super) fn captures(&self) -> &[Capture] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_shared() {
        let mut table = CaptureTable::default();
        let of = |pick| Capture::of([Tag::REQ_URL, Tag::BEREQ_URL], &Select::Line, pick);
        let numbers = [Pick::First, Pick::Last, Pick::First].map(|pick| table.intern(of(pick)));
        assert_eq!((numbers[0], table.captures().len()), (numbers[2], 2));
        assert_ne!(numbers[0], numbers[1]);
    }
}
