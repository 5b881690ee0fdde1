//! The record layout of the installed Varnish, from its `vapi/vsl_int.h`.

/// Words (32 bit) before a record's payload: 2 up to Varnish 7.2 (30-bit vxid), 3 from 7.3 on (51-bit vxid).
pub const HEADER_WORDS: usize = crate::tag::number::HEADER_WORDS;

/// Segments that the log in shared memory is divided into.
pub const SEGMENTS: usize = crate::tag::number::SEGMENTS;

// Records are laid out in one of these two ways; any other is unknown to the readers.
const _: () = assert!(HEADER_WORDS == 2 || HEADER_WORDS == 3);
