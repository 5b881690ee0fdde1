//! Names: what a payload begins with that is looked for.

use crate::log::Beginning;

/// What a payload begins with, compared sixteen bytes at a time.
#[derive(Debug, Clone)]
pub(super) struct Name {
    /// With the colon that ends it.
    pub(super) length: usize,
    /// `None` if it is too short to tell.
    pub(super) beginning: Option<Beginning>,
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
    pub(super) fn any() -> Self {
        Self::new(b"", false)
    }

    /// A header's name or a key.
    pub(super) fn before_colon(name: &[u8], any_case: bool) -> Self {
        Self::new(&[name, b":"].concat(), any_case)
    }

    /// A name that is all of a payload but the NUL at its end.
    pub(super) fn of_whole(text: &[u8]) -> Self {
        Self { beginning: Beginning::of_text(&[text, &[0]].concat()), ..Self::new(text, false) }
    }

    /// Whether the log has this name at `start`, where its next sixteen bytes are `head`. The payload that begins there may be
    /// shorter than the name.
    #[inline]
    pub(super) fn is_in(&self, log: &[u8], start: usize, head: u128) -> bool {
        self.head.is_in(head) && (self.rest.is_empty() || self.rest_is_in(log, start))
    }

    #[cold]
    fn rest_is_in(&self, log: &[u8], start: usize) -> bool {
        (1..).zip(&self.rest).all(|(index, chunk)| chunk.is_in(bytes_at(log, start + index * size_of::<u128>())))
    }
}

/// The sixteen bytes at a place in the log; those beyond its end are NUL.
#[inline]
pub(super) fn bytes_at(log: &[u8], at: usize) -> u128 {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
                        let begins = known.is_in(&log, before, bytes_at(&log, before));
                        let value = payload.get(known.length..).filter(|_| begins);
                        prop_assert_eq!(value, expected.map(|(_, value)| value));
                    }
                }
            }
        }
    }
}
