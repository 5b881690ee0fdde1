//! Times: as the log writes them, and as formats show them.

use std::ffi::CString;
use std::time::Duration;

pub(super) use kafkalog_ffi::time::Zone;
use kafkalog_ffi::time::show_time;

use super::FormatError;

/// A time of the log: microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Reads `seconds.fraction` as in `Timestamp` records; digits beyond microseconds are dropped.
    #[must_use]
    #[inline]
    pub fn parse(text: &[u8]) -> Option<Self> {
        // As varnishd writes them until the year 2286.
        if let Ok(text) = <&[u8; 17]>::try_from(text)
            && text[10] == b'.'
            && let [seconds @ .., _, _, _, _, _, _, _, _, _] = text
            && let [.., b, c, _, d, e, f, g, h, i] = text
            && let (Some(high), Some(low)) = (eight_digits(*seconds), eight_digits([*b, *c, *d, *e, *f, *g, *h, *i]))
        {
            return Some(Self(high * 100_000_000 + low));
        }
        Self::parse_any(text)
    }

    fn parse_any(text: &[u8]) -> Option<Self> {
        let (seconds, fraction) = match text.iter().position(|byte| *byte == b'.') {
            Some(point) => (&text[..point], &text[point + 1..]),
            None => (text, &b""[..]),
        };
        // Twelve digits reach beyond the year 30000.
        if seconds.is_empty() || seconds.len() > 12 {
            return None;
        }
        let fraction = &fraction[..fraction.len().min(6)];
        let missing = [100_000, 10_000, 1_000, 100, 10, 1].get(fraction.len().wrapping_sub(1)).unwrap_or(&1_000_000);
        Some(Self(decimal(seconds)? * 1_000_000 + decimal(fraction)? * missing))
    }

    /// The time that has passed since 1970.
    #[must_use]
    pub fn since_epoch(self) -> Duration {
        Duration::from_micros(self.0)
    }

    /// A time by what has passed since 1970.
    #[must_use]
    pub fn from_epoch(duration: Duration) -> Self {
        Self(duration.as_micros().try_into().unwrap_or(u64::MAX))
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Whole milliseconds since 1970: a Kafka message's timestamp.
    #[must_use]
    pub fn milliseconds(self) -> i64 {
        (self.0 / 1000).try_into().unwrap_or(i64::MAX)
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn microseconds(self) -> u64 {
        self.0
    }
}

/// The number that eight digits write: the digits next to each other are put together, then the pairs, then the fours.
#[inline]
fn eight_digits(digits: [u8; 8]) -> Option<u64> {
    let digits = u64::from_le_bytes(digits);
    let is_beyond = digits.wrapping_add(0x4646_4646_4646_4646) | digits.wrapping_sub(0x3030_3030_3030_3030);
    if is_beyond & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    let digits = digits & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (digits * 10 + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    Some((fours * 10_000 + (fours >> 32)) & 0xffff_ffff)
}

/// The number that up to twelve digits write; 0 for none.
fn decimal(digits: &[u8]) -> Option<u64> {
    let mut number = 0;
    for digit in digits {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return None;
        }
        number = number * 10 + u64::from(value);
    }
    Some(number)
}

/// Checks a strftime(3) format, whose C form shows what it does not know as it is.
pub(super) fn check_time_format(format: &str, offset: usize) -> Result<(), FormatError> {
    let fail = |what: String| {
        let message = format!("`{format}` is no time format ({what}): see strftime(3), as in \"%Y-%m-%dT%H:%M:%SZ\"");
        Err(FormatError::new(offset, message))
    };
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        match character {
            '%' => match characters.by_ref().find(|character| !"_-0^#EO".contains(*character)) {
                Some(conversion) if "aAbBcCdDeFgGhHIjklmMnNpPrRsStTuUVwWxXyYzZ%+".contains(conversion) => {}
                Some(other) => return fail(format!("there is no `%{other}`")),
                None => return fail("it ends inside a conversion".to_owned()),
            },
            '\0' => return fail("a NUL is in it".to_owned()),
            _ => {}
        }
    }
    Ok(())
}

/// Shows times in a strftime(3) format, the C library's own, as varnishncsa does. Requests come in the order of time, so the
/// text of the last second serves nearly all of them.
#[derive(Debug)]
pub(super) struct Clock {
    /// With a character before it, which tells an empty text from one that is too long.
    format: CString,
    zone: Zone,
    second: Option<u64>,
    text: Vec<u8>,
}

impl Clock {
    /// A clock for this format, up to the first NUL in it.
    pub(super) fn new(format: &str, zone: Zone) -> Self {
        let format = format.split('\0').next().unwrap_or_default();
        let format = CString::new(format!(".{format}")).unwrap_or_default();
        Self { format, zone, second: None, text: Vec::new() }
    }

    /// The time's text; `None` for times that no calendar reaches.
    #[inline]
    pub(super) fn text(&mut self, time: Timestamp) -> Option<&[u8]> {
        let second = time.seconds();
        if self.second != Some(second) {
            self.render(second)?;
        }
        self.text.get(1..)
    }

    #[cold]
    fn render(&mut self, second: u64) -> Option<()> {
        self.second = None;
        show_time(&self.format, i64::try_from(second).ok()?, self.zone, &mut self.text).then_some(())?;
        self.second = Some(second);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn log_times_are_read_to_the_microsecond() {
        for (text, micros) in [
            ("1700000000.123456", 1_700_000_000_123_456),
            ("1700000000.5", 1_700_000_000_500_000),
            ("1700000000", 1_700_000_000_000_000),
            ("0.0000019", 1),
        ] {
            assert_eq!(Timestamp::parse(text.as_bytes()), Some(Timestamp(micros)), "{text}");
        }
        for text in ["", ".5", "-1.0", "nan", "1e9", "1.2.3", "1234567890123"] {
            assert_eq!(Timestamp::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_clock_shows_each_second() {
        let mut clock = Clock::new("%Y-%m-%dT%H:%M:%SZ", Zone::Utc);
        assert_eq!(clock.text(Timestamp(1_700_000_000_999_999)), Some(&b"2023-11-14T22:13:20Z"[..]));
        assert_eq!(clock.text(Timestamp(1_700_000_001_000_000)), Some(&b"2023-11-14T22:13:21Z"[..]));
        assert_eq!(clock.text(Timestamp(1_700_000_001_000_000)), Some(&b"2023-11-14T22:13:21Z"[..]));
        let time = Timestamp(1_700_000_000_000_000);
        assert_eq!(Clock::new("", Zone::Local).text(time), Some(&b""[..]));
        assert_eq!(Clock::new(&"%c".repeat(9), Zone::Utc).text(time).map(<[u8]>::len), Some(24 * 9));
        assert_eq!(Clock::new(&"%c".repeat(999), Zone::Utc).text(time), None, "too long");
    }

    #[test]
    fn time_formats_are_checked() {
        for (format, right) in [("%", false), ("%Q", false), ("%E", false), ("%-d %Ey %% %T", true), ("", true)] {
            let result = check_time_format(format, 7);
            assert_eq!(result.map_err(|error| error.offset), if right { Ok(()) } else { Err(7) }, "{format}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_time_or_none(text: Vec<u8>) {
            let _ = Timestamp::parse(&text);
        }

        #[test]
        fn usual_times_are_read_as_any(text in "[0-9]{10}\\.[0-9]{6}", place in 0_usize..17, other: u8) {
            prop_assert_eq!(Timestamp::parse(text.as_bytes()), Timestamp::parse_any(text.as_bytes()));
            let mut text = text.into_bytes();
            text[place] = other;
            prop_assert_eq!(Timestamp::parse(&text), Timestamp::parse_any(&text));
        }
    }
}
