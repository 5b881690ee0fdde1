//! Fields of a record's text, separated by white space.

/// Field `number`, from 1.
#[inline]
pub(super) fn field(payload: &[u8], number: u8) -> Option<&[u8]> {
    let mut rest = payload.trim_ascii_start();
    for _ in 1..number {
        rest = rest[end_of_field(rest)..].trim_ascii_start();
    }
    (number > 0 && !rest.is_empty()).then(|| &rest[..end_of_field(rest)])
}

/// Where the white space begins that ends a field, found eight bytes at a time.
#[inline]
fn end_of_field(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let mut at = 0;
    while let Some(word) = text[at..].first_chunk() {
        let word = u64::from_le_bytes(*word);
        // A byte's high bit is set where it is at most a space; a borrow can set those of bytes above the first such one.
        let low = word.wrapping_sub(ONES * 0x21) & !word & HIGH;
        if low == 0 {
            at += 8;
            continue;
        }
        at += low.trailing_zeros() as usize / 8;
        if text[at].is_ascii_whitespace() {
            return at;
        }
        at += 1;
    }
    text[at..].iter().position(u8::is_ascii_whitespace).map_or(text.len(), |index| at + index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_field_is_found_as_byte_by_byte(text in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'\t'), 0_u8..=255], 0..40), number in 1_u8..5) {
            let mut fields = text.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            prop_assert_eq!(field(&text, number), fields.nth(usize::from(number) - 1));
        }
    }
}
