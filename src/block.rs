//! Sixteen bytes at a time: which of them are special, as a bit for each, the first one lowest.

#![allow(unsafe_code)]

/// What is looked at at once.
pub(crate) type Block = [u8; WIDTH];

/// Bytes in a block.
pub(crate) const WIDTH: usize = 16;

/// The bytes that are at most `limit`.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn at_most(block: &Block, limit: u8) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_set1_epi8};
    // SAFETY: every x86-64 processor has SSE2, and none of these touches memory.
    let marks = unsafe {
        let bytes = vector(block);
        _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(limit.cast_signed())), bytes))
    };
    marks.cast_unsigned()
}

/// The bytes that JSON does not take as they are: control characters, `"`, `\`, and those beyond ASCII.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn special_in_json(block: &Block) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8};
    // SAFETY: as above.
    let marks = unsafe {
        let bytes = vector(block);
        // As signed numbers, those beyond ASCII are below the control characters.
        let control = _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20));
        let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"'.cast_signed()));
        let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\'.cast_signed()));
        _mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(quote, backslash)))
    };
    marks.cast_unsigned()
}

/// The bytes that varnishncsa does not print as they are: control characters, `"`, `\`, and those beyond `~`.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn special_in_text(block: &Block) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set1_epi8};
    // SAFETY: as above.
    let delete = unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(vector(block), _mm_set1_epi8(0x7f))) };
    special_in_json(block) | delete.cast_unsigned()
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn vector(block: &Block) -> std::arch::x86_64::__m128i {
    // SAFETY: the block has the vector's sixteen bytes, which need not be aligned for this.
    unsafe { std::arch::x86_64::_mm_loadu_si128(block.as_ptr().cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use portable::{at_most, special_in_json, special_in_text};

/// The same for any processor, and to test against.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    use super::Block;

    fn marks(block: &Block, is_special: impl Fn(u8) -> bool) -> u32 {
        block.iter().rev().fold(0, |marks, byte| marks << 1 | u32::from(is_special(*byte)))
    }

    pub(crate) fn at_most(block: &Block, limit: u8) -> u32 {
        marks(block, |byte| byte <= limit)
    }

    pub(crate) fn special_in_json(block: &Block) -> u32 {
        marks(block, |byte| matches!(byte, ..0x20 | b'"' | b'\\' | 0x80..))
    }

    pub(crate) fn special_in_text(block: &Block) -> u32 {
        marks(block, |byte| matches!(byte, ..0x20 | b'"' | b'\\' | 0x7f..))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_same_bytes_are_marked_on_every_processor(block: Block, text in "[ -~]{16}", limit: u8) {
            for block in [&block, text.as_bytes().first_chunk().unwrap()] {
                prop_assert_eq!(at_most(block, limit), portable::at_most(block, limit));
                prop_assert_eq!(special_in_json(block), portable::special_in_json(block));
                prop_assert_eq!(special_in_text(block), portable::special_in_text(block));
            }
        }
    }
}
