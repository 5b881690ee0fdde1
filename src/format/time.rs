//! Times: as the log writes them, and as formats show them.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::FormatError;

/// A time of the log: microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Reads `seconds.fraction` as in `Timestamp` records; digits beyond microseconds are dropped.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
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

/// Shows times in a strftime(3) format. Requests come in the order of time, so the text of the last second serves nearly
/// all of them.
#[derive(Debug)]
pub(super) struct Clock {
    format: String,
    zone: TimeZone,
    second: Option<u64>,
    text: String,
}

impl Clock {
    /// A clock for this format, which stands at `offset` in the notation.
    pub(super) fn new(format: &str, zone: TimeZone, offset: usize) -> Result<Self, FormatError> {
        // Showing a time is lenient; this is the strict form of the same.
        match jiff::fmt::strtime::format(format, &jiff::Timestamp::UNIX_EPOCH.to_zoned(zone.clone())) {
            Ok(_) => Ok(Self { format: format.to_owned(), zone, second: None, text: String::new() }),
            Err(error) => Err(FormatError::new(
                offset,
                format!("`{format}` is no time format ({error}): see strftime(3), as in \"%Y-%m-%dT%H:%M:%SZ\""),
            )),
        }
    }

    /// The time's text; `None` for times that no calendar reaches.
    #[inline]
    pub(super) fn text(&mut self, time: Timestamp) -> Option<&[u8]> {
        let second = time.seconds();
        if self.second != Some(second) {
            self.render(second)?;
        }
        Some(self.text.as_bytes())
    }

    #[cold]
    fn render(&mut self, second: u64) -> Option<()> {
        self.second = None;
        self.text.clear();
        let time = jiff::Timestamp::from_second(i64::try_from(second).ok()?).ok()?.to_zoned(self.zone.clone());
        write!(self.text, "{}", time.strftime(&self.format)).ok()?;
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
        let mut clock = Clock::new("%Y-%m-%dT%H:%M:%SZ", TimeZone::UTC, 0).unwrap();
        assert_eq!(clock.text(Timestamp(1_700_000_000_999_999)), Some(&b"2023-11-14T22:13:20Z"[..]));
        assert_eq!(clock.text(Timestamp(1_700_000_001_000_000)), Some(&b"2023-11-14T22:13:21Z"[..]));
        assert_eq!(clock.text(Timestamp(u64::MAX)), None);
        assert_eq!(clock.text(Timestamp(1_700_000_001_000_000)), Some(&b"2023-11-14T22:13:21Z"[..]));
        assert_eq!(Clock::new("%", TimeZone::UTC, 7).map(drop).map_err(|error| error.offset), Err(7));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_time_or_none(text: Vec<u8>) {
            let _ = Timestamp::parse(&text);
        }
    }
}
