//! Which records are wanted, told by a look at a record's first words.

use std::fmt;

use super::{Side, Tag};

/// The records to hand out: by tag, by how their payload begins, and by side.
///
/// Most of a request's records are headers that nobody asked for. The first four bytes tell most of them apart, and deciding
/// here means that they are neither copied out of the log nor looked at again. A filter lets through all that is wanted and,
/// as different beginnings can have the same number, a little of what is not.
#[derive(Clone, PartialEq, Eq)]
pub struct Filter {
    /// By tag: a bit for each [`Beginning`].
    beginnings: [u64; 256],
    /// A bit for each value of a vxid's two marker bits.
    sides: u32,
}

/// What a payload begins with, as a number below [`Beginning::COUNT`] in which upper and lower case are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beginning(u8);

impl Beginning {
    pub(crate) const COUNT: usize = 64;

    /// That of a payload's first word. Letters differ from each other in their lower five bits.
    #[inline]
    fn of_word(word: u32) -> Self {
        Self(((word & 0x1f1f_1f1f).wrapping_mul(0x9e37_79b1) >> 26) as u8)
    }

    /// That of a payload. One of less than four bytes begins with no text that has a number.
    #[inline]
    pub(crate) fn of_payload(payload: &[u8]) -> Self {
        payload.first_chunk().map_or(Self(0), |word| Self::of_word(u32::from_ne_bytes(*word)))
    }

    /// That of the payloads that begin with this text; `None` if it is too short to tell.
    pub(crate) fn of_text(text: &[u8]) -> Option<Self> {
        text.first_chunk().map(|word| Self::of_word(u32::from_ne_bytes(*word)))
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Filter {
    /// No record.
    pub const NONE: Self = Self { beginnings: [0; 256], sides: 0 };
    /// Every record.
    pub const ALL: Self = Self { beginnings: [u64::MAX; 256], sides: u32::MAX };

    /// Every record of these tags, on every side.
    #[must_use]
    pub fn of_tags(tags: &[Tag]) -> Self {
        let mut filter = Self { sides: u32::MAX, ..Self::NONE };
        tags.iter().for_each(|tag| filter.add(*tag));
        filter
    }

    /// Adds a tag's records.
    pub fn add(&mut self, tag: Tag) {
        self.beginnings[usize::from(tag.number())] = u64::MAX;
    }

    /// Adds those of a tag's records that begin with this, letters in either case. Only the first four bytes count; with less
    /// than that, all are added.
    pub fn add_beginning_with(&mut self, tag: Tag, text: &[u8]) {
        match Beginning::of_text(text) {
            Some(beginning) => self.add_beginning(tag, beginning),
            None => self.add(tag),
        }
    }

    /// Adds those of a tag's records that begin like this.
    pub(crate) fn add_beginning(&mut self, tag: Tag, beginning: Beginning) {
        self.beginnings[usize::from(tag.number())] |= 1 << beginning.0;
    }

    /// Adds a side. Records of other sides are left out, whatever their tag.
    pub fn add_side(&mut self, side: Side) {
        self.sides |= match side {
            // Both bits set has no meaning; such a record belongs to nothing.
            Side::None => 1 | 1 << 3,
            Side::Client => 1 << 1,
            Side::Backend => 1 << 2,
        };
    }

    /// Whether a record of this tag and with this last word of its header may be wanted, whose payload begins with the word
    /// `payload` (anything, if it is empty).
    #[inline]
    pub(super) fn wants(&self, tag: Tag, marker: u32, payload: u32) -> bool {
        let beginnings = self.beginnings[usize::from(tag.number())];
        beginnings >> Beginning::of_word(payload).0 & 1 != 0 && self.sides >> (marker >> 30) & 1 != 0
    }

    /// Whether any record of the tag is wanted.
    #[inline]
    pub(super) fn wants_some(&self, tag: Tag) -> bool {
        self.beginnings[usize::from(tag.number())] != 0
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tags = (0..=u8::MAX).map(Tag::from_number).filter(|tag| self.wants_some(*tag));
        f.debug_struct("Filter").field("tags", &tags.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(filter: &Filter, tag: Tag, side: u32, payload: [u8; 4]) -> bool {
        filter.wants(tag, side << 30 | 77, u32::from_ne_bytes(payload))
    }

    #[test]
    fn tags_beginnings_and_sides_are_told_apart() {
        let mut filter = Filter::NONE;
        filter.add(Tag::REQ_URL);
        filter.add_beginning_with(Tag::REQ_HEADER, b"Host:");
        filter.add_beginning_with(Tag::RESP_HEADER, b"TE:");
        assert!(!wants(&filter, Tag::REQ_URL, 1, *b"/abc"), "there is no side yet");
        filter.add_side(Side::Client);
        assert!(wants(&filter, Tag::REQ_URL, 1, *b"/abc"));
        assert!(!wants(&filter, Tag::REQ_URL, 2, *b"/abc"));
        assert!(wants(&filter, Tag::REQ_HEADER, 1, *b"Host") && wants(&filter, Tag::REQ_HEADER, 1, *b"host"));
        assert!(!wants(&filter, Tag::REQ_HEADER, 1, *b"Via:") && !wants(&filter, Tag::REQ_HEADER, 1, *b"Home"));
        assert!(wants(&filter, Tag::RESP_HEADER, 1, *b"Via:"), "a short name lets all through");
        assert!(!wants(&filter, Tag::END, 1, *b"\0\0\0\0"));
        filter.add_side(Side::None);
        assert!(wants(&filter, Tag::REQ_URL, 0, *b"/abc") && wants(&filter, Tag::REQ_URL, 3, *b"/abc"));
        assert!(wants(&Filter::ALL, Tag::END, 3, *b"\xff\0\0\0"));
        assert!(!wants(&Filter::NONE, Tag::END, 1, *b"\0\0\0\0"));
    }
}
