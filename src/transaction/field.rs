//! Fields of a record's text, separated by white space.

use crate::block::{WIDTH, at_most};
use crate::log::is_space;

/// Field `number`, from 1, of a text that is part of `log`.
pub(super) fn field<'a>(text: &'a [u8], number: u8, log: &[u8]) -> Option<&'a [u8]> {
    // Nearly always it is in the first bytes. There is something behind the text in the log, which does not count.
    let start = text.as_ptr().addr().wrapping_sub(log.as_ptr().addr());
    let window: Option<&[u8; 2 * WIDTH]> = log.get(start..start.wrapping_add(2 * WIDTH)).and_then(<[u8]>::first_chunk);
    let Some(([first, second], [])) = window.map(|window| window.as_chunks()) else {
        return field_beyond(text, number);
    };
    let marks = |limit| at_most(first, limit) | at_most(second, limit) << WIDTH;
    let behind = u32::MAX.checked_shl(text.len() as u32).unwrap_or(0);
    let white = marks(b' ') | behind;
    let mut begins = !white & (white << 1 | 1);
    for _ in 1..number {
        begins &= begins.wrapping_sub(1);
    }
    let begin = begins.trailing_zeros();
    let ends = white & u32::MAX.checked_shl(begin).unwrap_or(0);
    // Few control characters are white space.
    if number == 0 || ends == 0 || marks(b' ' - 1) & !behind != 0 {
        return field_beyond(text, number);
    }
    text.get(begin as usize..ends.trailing_zeros() as usize)
}

/// The same for any text and any field.
#[cold]
fn field_beyond(text: &[u8], number: u8) -> Option<&[u8]> {
    let mut fields = text.split(|byte| is_space(*byte)).filter(|field| !field.is_empty());
    fields.nth(usize::from(number).checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_field_is_found_as_byte_by_byte(
            log in "[ 0-9.]{0,80}",
            other in proptest::collection::vec(any::<u8>(), 0..3),
            place in 0_usize..80,
            range in (0_usize..80, 0_usize..80),
            number in 0_u8..8,
        ) {
            let mut log = log.into_bytes();
            let place = place.min(log.len());
            log.splice(place..place, other);
            let (start, end) = (range.0.min(range.1).min(log.len()), range.0.max(range.1).min(log.len()));
            let text = &log[start..end];
            prop_assert_eq!(field(text, number, &log), field_beyond(text, number));
        }
    }

    #[test]
    fn fields_are_counted_from_one() {
        let log = b" 1795437632.123456 0.000000 0.000012 0.000000\0 and what follows it in the log";
        let text = &log[..45];
        for (number, expected) in [(0, None), (1, Some("1795437632.123456")), (3, Some("0.000012")), (5, None)] {
            assert_eq!(field(text, number, log).map(|field| std::str::from_utf8(field).unwrap()), expected, "{number}");
        }
        assert_eq!(field(b"", 1, b""), None);
    }
}
