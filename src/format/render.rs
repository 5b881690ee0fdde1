//! Running a program over a transaction.

use std::net::IpAddr;
use std::ops::Range;

use memchr::memchr;

use super::compile::{Operation, Part, Program, Step, Unit};
use super::search::{Piece, for_each_piece};
use super::{Escape, Timestamp};
use crate::anonymize::{Anonymizer, Element, for_each_element, parse};
use crate::log::Side;
use crate::transaction::{CaptureId, Transaction};

/// What a line is made of.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The request.
    pub transaction: &'a Transaction<'a>,
    /// The line's number in its stream.
    pub sequence: u64,
    /// When the request started, if the log says so.
    pub start: Option<Timestamp>,
    /// What becomes of addresses. Without it, none is shown.
    pub anonymizer: Option<Anonymizer<'a>>,
}

impl Program {
    /// Appends the line, without a line feed, and tells whether an address was hashed into it. Cannot fail: whatever the
    /// log holds, the line is whole.
    pub fn render(&mut self, context: &Context<'_>, out: &mut Vec<u8>) -> bool {
        let escape = self.escape;
        let transaction = context.transaction;
        let mut addresses = context.anonymizer.as_ref().map(Addresses::new);
        for Step { text, operation } in &self.steps {
            text.append(out);
            match operation {
                Operation::Sequence => append_number(context.sequence, out),
                Operation::Vxid => append_number(transaction.vxid, out),
                Operation::Side => out.push(if transaction.side == Side::Backend { b'b' } else { b'c' }),
                Operation::Handling => out.extend_from_slice(transaction.handling.name().as_bytes()),
                Operation::HitMiss => out.extend_from_slice(transaction.handling.hit_or_miss().as_bytes()),
                Operation::SaltId { missing } => match context.anonymizer.as_ref().and_then(Anonymizer::salt_id) {
                    Some(id) => append_display(id, out),
                    None => out.extend_from_slice(missing),
                },
                Operation::Value { capture, missing } => match transaction.value(*capture) {
                    Some(value) => escape.append(value, out),
                    None => out.extend_from_slice(missing),
                },
                Operation::Number { capture, missing } => {
                    let number = transaction.value(*capture).filter(|value| is_json_number(value));
                    out.extend_from_slice(number.unwrap_or(missing));
                }
                Operation::Address { capture, missing } => {
                    match (transaction.value(*capture).and_then(parse), &mut addresses) {
                        (Some(address), Some(addresses)) => addresses.append(address, out),
                        // A Unix-domain socket's `0.0.0.0` is an address; what is none is not shown.
                        _ => out.extend_from_slice(missing),
                    }
                }
                Operation::AddressList { capture, missing } => match (transaction.value(*capture), &mut addresses) {
                    (Some(value), Some(addresses)) => append_list(value, addresses, escape, out),
                    _ => out.extend_from_slice(missing),
                },
                Operation::AddressWords { capture, missing } => match (transaction.value(*capture), &mut addresses) {
                    (Some(value), Some(addresses)) => append_words(value, addresses, escape, out),
                    _ => out.extend_from_slice(missing),
                },
                Operation::Searched { capture, part, missing } => match (transaction.value(*capture), &mut addresses) {
                    (Some(value), Some(addresses)) => {
                        let value = match part {
                            Part::Whole => value,
                            Part::Path => split_url(value).0,
                            Part::Query => split_url(value).1,
                        };
                        for_each_piece(value, |piece| match piece {
                            Piece::Address(address) => addresses.append(address, out),
                            Piece::Text(text) => escape.append(text, out),
                        });
                    }
                    _ => out.extend_from_slice(missing),
                },
                Operation::Path { capture, missing } => match transaction.value(*capture) {
                    Some(url) => escape.append(split_url(url).0, out),
                    None => out.extend_from_slice(missing),
                },
                Operation::Query { capture, missing } => match transaction.value(*capture) {
                    Some(url) => escape.append(split_url(url).1, out),
                    None => out.extend_from_slice(missing),
                },
                Operation::Origin { capture, missing } => match transaction.value(*capture) {
                    Some(host) => {
                        if !host.starts_with(b"http://") {
                            out.extend_from_slice(b"http://");
                        }
                        escape.append(host, out);
                    }
                    None => out.extend_from_slice(missing),
                },
                Operation::User { capture, missing } => {
                    if !transaction.value(*capture).is_some_and(|value| append_user(value, escape, out)) {
                        out.extend_from_slice(missing);
                    }
                }
                Operation::Time { clock, end, missing } => {
                    let time = match end {
                        Some(end) => time_of(transaction, *end),
                        None => context.start,
                    };
                    match time.and_then(|time| self.clocks[*clock].text(time)) {
                        Some(text) => escape.append(text, out),
                        None => out.extend_from_slice(missing),
                    }
                }
                Operation::Start { unit, missing } => match context.start {
                    Some(start) => append_time(start, *unit, out),
                    None => out.extend_from_slice(missing),
                },
                Operation::Duration { end, unit, missing } => match context.start {
                    Some(start) => append_duration(start, time_of(transaction, *end).unwrap_or(start), *unit, out),
                    None => out.extend_from_slice(missing),
                },
            }
        }
        self.end.append(out);
        addresses.is_some_and(|addresses| addresses.first.is_some() && addresses.anonymizer.salt_id().is_some())
    }
}

fn time_of(transaction: &Transaction<'_>, capture: CaptureId) -> Option<Timestamp> {
    transaction.value(capture).and_then(Timestamp::parse)
}

/// A URL up to its `?`, and from there on.
fn split_url(url: &[u8]) -> (&[u8], &[u8]) {
    url.split_at(memchr(b'?', url).unwrap_or(url.len()))
}

/// Whether a text is a number as JSON writes it (RFC 8259, section 6). `NaN` and numbers with leading zeros are not.
pub(super) fn is_json_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(text);
    if whole == 0 || (whole > 1 && text[0] == b'0') {
        return false;
    }
    let mut rest = &text[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let count = digits(exponent);
        if count == 0 {
            return false;
        }
        rest = &exponent[count..];
    }
    rest.is_empty()
}

fn append_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn append_padded(number: u64, width: usize, out: &mut Vec<u8>) {
    let mut divisor = 10_u64.pow(width as u32 - 1);
    while divisor > 0 {
        out.push(b'0' + (number / divisor % 10) as u8);
        divisor /= 10;
    }
}

fn append_display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    use std::io::Write as _;
    // A `Vec` takes whatever is written to it.
    let _ = write!(out, "{value}");
}

/// The time as varnishncsa has it: floating-point seconds, cut to whole units.
fn append_time(time: Timestamp, unit: Unit, out: &mut Vec<u8>) {
    let seconds = time.microseconds() as f64 / 1e6;
    match unit {
        Unit::Seconds => append_number(seconds as u64, out),
        Unit::Milliseconds => append_number((seconds * 1e3) as u64, out),
        Unit::Microseconds => append_number((seconds * 1e6) as u64, out),
        Unit::MillisecondsFraction => append_padded((seconds.fract() * 1e3) as u64, 3, out),
        Unit::MicrosecondsFraction => append_padded((seconds.fract() * 1e6) as u64, 6, out),
    }
}

/// The difference as varnishncsa has it, likewise.
fn append_duration(start: Timestamp, end: Timestamp, unit: Unit, out: &mut Vec<u8>) {
    let seconds = |time: Timestamp| time.microseconds() as f64 / 1e6;
    let factor = match unit {
        Unit::Milliseconds => 1e3,
        Unit::Microseconds => 1e6,
        _ => 1.0,
    };
    let difference = ((seconds(end) - seconds(start)) * factor) as i64;
    if difference < 0 {
        out.push(b'-');
    }
    append_number(difference.unsigned_abs(), out);
}

/// The addresses of one line. Each is hashed, but the first one only once: `X-Forwarded-For` ends with the client's, because
/// varnishd puts it there.
struct Addresses<'a> {
    anonymizer: &'a Anonymizer<'a>,
    /// The first address, and where in the line is what became of it.
    first: Option<(IpAddr, Range<usize>)>,
}

impl<'a> Addresses<'a> {
    fn new(anonymizer: &'a Anonymizer<'a>) -> Self {
        Self { anonymizer, first: None }
    }

    #[inline]
    fn append(&mut self, address: IpAddr, out: &mut Vec<u8>) {
        match &self.first {
            Some((first, place)) if *first == address => out.extend_from_within(place.clone()),
            Some(_) => self.anonymizer.append(address, out),
            None => {
                let start = out.len();
                self.anonymizer.append(address, out);
                self.first = Some((address, start..out.len()));
            }
        }
    }
}

fn append_list(value: &[u8], addresses: &mut Addresses<'_>, escape: Escape, out: &mut Vec<u8>) {
    for_each_element(value, |element| match element {
        Element::Address(address) => addresses.append(address, out),
        Element::Text(text) => escape.append(text, out),
        Element::Invalid => out.extend_from_slice(b"invalid"),
    });
}

fn append_words(value: &[u8], addresses: &mut Addresses<'_>, escape: Escape, out: &mut Vec<u8>) {
    for (index, word) in value.split(|byte| *byte == b' ').enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        match parse(word) {
            Some(address) => addresses.append(address, out),
            None => escape.append(word, out),
        }
    }
}

/// The user in `user:password`, written in base64; `false`, with nothing appended, if it is not that. The password is never
/// shown. Padding counts as zeros wherever it stands, and what follows a zero is not looked at, as varnishncsa has it.
fn append_user(encoded: &[u8], escape: Escape, out: &mut Vec<u8>) -> bool {
    let mut user = [0; 256];
    let mut length = None;
    let mut bits = 0_u32;
    for (group, digits) in encoded.chunks(4).enumerate() {
        for digit in digits {
            let Some(value) = base64_digit(*digit) else { return false };
            bits = bits << 6 | value;
        }
        for (index, byte) in bits.to_be_bytes()[1..].iter().enumerate() {
            let at = group * 3 + index;
            match user.get_mut(at) {
                Some(_) if matches!(byte, b':' | 0) => length = length.or(Some(at)),
                Some(place) => *place = *byte,
                // A name that is longer is cut.
                None => length = length.or(Some(at)),
            }
        }
        bits <<= 24;
    }
    let length = length.unwrap_or_else(|| encoded.len().div_ceil(4) * 3);
    escape.append(&user[..length.min(user.len())], out);
    true
}

fn base64_digit(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => 0,
        _ => return None,
    };
    Some(u32::from(value))
}
