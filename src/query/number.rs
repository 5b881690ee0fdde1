//! Numbers as Varnish reads them.

use crate::log::is_space;

/// A number at a text's start, as RFC 8941 has integers and decimals but with any digits behind the third decimal dropped,
/// and white space around it; and what follows it. `None` where there is none, or its digits are too many.
pub(super) fn decimal(text: &[u8]) -> (Option<f64>, &[u8]) {
    let text = skip_blanks(text);
    let (sign, text) = text.strip_prefix(b"-").map_or((1.0, text), |text| (-1.0, text));
    let (digits, rest) = split_digits(text);
    if digits.len() > 15 {
        return (None, rest);
    }
    let whole = digits.iter().fold(0_i64, |number, digit| number * 10 + i64::from(digit - b'0'));
    let rest = if digits.is_empty() { rest } else { skip_blanks(rest) };
    let Some(fraction) = rest.strip_prefix(b".") else {
        return ((!digits.is_empty()).then_some(whole as f64 * sign), rest);
    };
    let (fraction, rest) = split_digits(fraction);
    if digits.len() > 12 && whole > MOST || (digits.is_empty() && fraction.is_empty()) {
        return (None, rest);
    }
    let mut number = whole as f64;
    let mut scale = 1.0;
    for digit in fraction.iter().take(3) {
        scale *= 0.1;
        number += scale * f64::from(digit - b'0');
    }
    (Some(number * sign), skip_blanks(rest))
}

/// The greatest whole part of a decimal (RFC 8941, section 3.3.2).
const MOST: i64 = 999_999_999_999;

/// Whether a number is none that a decimal may be.
pub(super) fn is_decimal(number: f64) -> bool {
    number.abs() <= MOST as f64 + 0.999
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| matches!(**byte, b' ' | b'\t')).count();
    &text[blanks..]
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count())
}

/// A text that is a number from its start to its end; `None` if it is not.
#[must_use]
pub fn varnish_number(text: &[u8]) -> Option<f64> {
    decimal(text).0.filter(|_| decimal(text).1.is_empty())
}

/// A time in seconds, written with its unit: `2m`, `1.5 h`. The units are ms, s, m, h, d, w and y.
#[must_use]
pub fn duration(text: &[u8]) -> Option<f64> {
    let (number, unit) = decimal(text);
    let scale = match unit.trim_ascii() {
        b"ms" => 1e-3,
        b"s" => 1.0,
        b"m" => 60.0,
        b"h" => 3600.0,
        b"d" => 86_400.0,
        b"w" => 604_800.0,
        b"y" => 31_536_000.0,
        _ => return None,
    };
    Some(number? * scale)
}

/// The integer at a text's start as strtol(3) reads it with base 0, and what follows it: `0x` and `0` make it hexadecimal and
/// octal, what is too great becomes the greatest; 0 with all of the text behind it where there is none.
pub(super) fn integer(text: &[u8]) -> (i64, &[u8]) {
    let start = text.iter().take_while(|byte| is_space(**byte)).count();
    let (sign, digits) = match &text[start..] {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    let (base, digits) = match digits {
        [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => (16, &digits[2..]),
        [b'0', ..] => (8, digits),
        _ => (10, digits),
    };
    let mut number = 0_i64;
    let mut length = 0;
    while let Some(digit) = digits.get(length).and_then(|byte| char::from(*byte).to_digit(base)) {
        let digit = i64::from(digit) * sign;
        number = number.saturating_mul(i64::from(base)).saturating_add(digit);
        length += 1;
    }
    if length == 0 { (0, text) } else { (number, &digits[length..]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_as_varnish_reads_them() {
        for (text, number, rest) in [
            ("200", Some(200.0), ""),
            (" -12 x", Some(-12.0), "x"),
            ("1.5", Some(1.5), ""),
            (".5", Some(0.5), ""),
            ("12.", Some(12.0), ""),
            ("1.0009", Some(1.0), ""),
            ("123456789012345", Some(123_456_789_012_345.0), ""),
            ("1234567890123456", None, ""),
            ("x", None, "x"),
            (".", None, ""),
            ("-", None, ""),
        ] {
            assert_eq!(decimal(text.as_bytes()), (number, rest.as_bytes()), "{text}");
        }
    }

    #[test]
    fn integers_are_read_as_strtol_reads_them() {
        for (text, number, rest) in [
            ("12", 12, ""),
            (" -0x1F-", -31, "-"),
            ("0x", 0, "x"),
            ("017", 15, ""),
            ("08", 0, "8"),
            ("2+", 2, "+"),
            ("", 0, ""),
            ("-", 0, "-"),
            ("99999999999999999999", i64::MAX, ""),
            ("-99999999999999999999", i64::MIN, ""),
        ] {
            assert_eq!(integer(text.as_bytes()), (number, rest.as_bytes()), "{text}");
        }
    }
}
