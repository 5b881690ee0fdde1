//! Words and the bytes that they are made of. The log is an array of 32-bit words; payloads are bytes in memory order, as
//! varnishd wrote them.

#![allow(unsafe_code)]

/// The bytes of words.
pub(super) fn bytes_of(words: &[u32]) -> &[u8] {
    // SAFETY: any initialised u32s are initialised bytes, u8 has no alignment, and the length is that of the slice.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// The bytes of words, to read into.
pub(super) fn bytes_of_mut(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: as above; every pattern of bytes is a valid u32, and the mutable borrow is handed on whole.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

/// The first bytes of words, and the words behind all that they are in; `None` if there are fewer.
#[inline]
pub(super) fn split_bytes(words: &[u32], bytes: usize) -> Option<(&[u8], &[u32])> {
    let (inside, behind) = words.split_at_checked(bytes.div_ceil(size_of::<u32>()))?;
    // SAFETY: as above, for the first `bytes` of the bytes of `inside`, which has at least as many.
    Some((unsafe { std::slice::from_raw_parts(inside.as_ptr().cast(), bytes) }, behind))
}

/// How far ahead memory is asked for, words. Some twenty records: as long as it takes to come.
const AHEAD: usize = 384;

/// Asks for the memory that will be looked at soon. A recording in memory is read once, so that it is in no cache.
#[inline]
pub(super) fn expect_ahead(words: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: this is a hint, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_add(AHEAD).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (words, AHEAD);
}
