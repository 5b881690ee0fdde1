//! Appending to a line. Most of its pieces have a few bytes, for which a call of memcpy costs more than the copying.

#![allow(unsafe_code)]

use crate::block::{Block, WIDTH};

/// Text that goes into every line.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// Its first bytes, with anything behind them, to be copied as a whole.
    head: [u8; 32],
    /// How many of these are text.
    length: usize,
    rest: Box<[u8]>,
}

impl Text {
    pub(super) fn new(text: &[u8]) -> Self {
        let mut head = [0; 32];
        let length = text.len().min(head.len());
        head[..length].copy_from_slice(&text[..length]);
        Self { head, length, rest: text[length..].into() }
    }

    #[inline]
    pub(super) fn append(&self, out: &mut Vec<u8>) {
        out.reserve(self.head.len());
        out.spare_capacity_mut()[..self.head.len()].write_copy_of_slice(&self.head);
        // SAFETY: the whole head was written, and `length` is not more than that.
        unsafe { out.set_len(out.len() + self.length) };
        if !self.rest.is_empty() {
            out.extend_from_slice(&self.rest);
        }
    }
}

/// Appends the bytes of a value up to the first special one, and tells how many they are. `special` marks special bytes; a
/// space is none.
#[inline]
pub(super) fn append_until(value: &[u8], special: impl Fn(&Block) -> u32, out: &mut Vec<u8>) -> usize {
    // Where nothing is marked, that many.
    let plain = |block: &Block| (special(block) | 1 << WIDTH).trailing_zeros() as usize;
    out.reserve(value.len());
    let spare = &mut out.spare_capacity_mut()[..value.len()];
    let count = match (value.last_chunk(), spare.last_chunk_mut::<WIDTH>()) {
        (Some(last), Some(place)) => {
            // The last bytes overlap those before, among which there is nothing special.
            place.write_copy_of_slice(last);
            let mut blocks = value.as_chunks().0.iter().zip(spare.as_chunks_mut::<WIDTH>().0).enumerate();
            let found = blocks.find_map(|(index, (block, place))| {
                place.write_copy_of_slice(block);
                let count = plain(block);
                (count < WIDTH).then_some(index * WIDTH + count)
            });
            found.unwrap_or_else(|| value.len() - WIDTH + plain(last))
        }
        _ => {
            let mut block = [b' '; WIDTH];
            for ((byte, known), place) in block.iter_mut().zip(value).zip(spare) {
                *byte = *known;
                place.write(*known);
            }
            plain(&block).min(value.len())
        }
    };
    // SAFETY: at least `count` bytes were written from the start of the spare capacity on: block by block, up to the one with
    // something special or to the end, or byte by byte.
    unsafe { out.set_len(out.len() + count) };
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::at_most;

    proptest! {
        #[test]
        fn all_of_a_text_is_appended(text: Vec<u8>, before: Vec<u8>) {
            let mut out = before.clone();
            Text::new(&text).append(&mut out);
            prop_assert_eq!(out, [before, text].concat());
        }

        #[test]
        fn a_value_is_appended_up_to_the_first_special_byte(value in "[ -~\u{0}-\u{ff}]{0,40}", at in 0_usize..60, before: Vec<u8>) {
            let mut value = value.into_bytes();
            value.iter_mut().filter(|byte| **byte < b' ').for_each(|byte| *byte = b'x');
            if let Some(byte) = value.get_mut(at) {
                *byte = b'\n';
            }
            let mut out = before.clone();
            let count = append_until(&value, |block| at_most(block, b' ' - 1), &mut out);
            prop_assert_eq!(count, at.min(value.len()));
            prop_assert_eq!(out, [&before, &value[..count]].concat());
        }
    }
}
