//! Names of directories and files. They are a contract with whoever reads the tables and with the jobs that wait for them.
//!
//! ```text
//! <table>/year=2013/month=03/day=01/hour=14/<topic>+<partition>+<first offset>+<last offset>.json.gz    data
//! <table>/_tmp/<topic>+<partition>+<first offset>+<hour>+<session>.open                                 being written
//! <table>/_tmp/<topic>+<partition>+<first offset>+<next offset>.chunk                                   see `chunk`
//! ```
//!
//! All are relative to the store's base. `+` cannot occur in a topic's name, so that names can be taken apart again.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// An hour of UTC, as a number of hours since 1970-01-01T00:00:00Z. Years have four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(u32);

impl Hour {
    const MILLISECONDS: i64 = 3_600_000;
    /// 9999-12-30T22, the last that jiff can tell the date of.
    const LAST: i64 = 70_389_502;

    /// 1970-01-01T00.
    pub const EPOCH: Self = Self(0);

    /// The hour that holds a time, in milliseconds since 1970; `None` before that and from the last day of the year 9999 on.
    #[must_use]
    pub fn of_milliseconds(time: i64) -> Option<Self> {
        match time.div_euclid(Self::MILLISECONDS) {
            hour @ 0..=Self::LAST => Some(Self(hour as u32)),
            _ => None,
        }
    }

    /// The hour's directory inside its table's: `year=2013/month=03/day=01/hour=14`.
    #[must_use]
    pub fn directory(self) -> String {
        let (year, month, day, hour) = self.parts();
        format!("year={year:04}/month={month:02}/day={day:02}/hour={hour:02}")
    }

    fn parts(self) -> (i16, i8, i8, i8) {
        let start = Timestamp::from_second(i64::from(self.0) * 3600).expect("LAST is the last that there is");
        let civil = TimeZone::UTC.to_datetime(start);
        (civil.year(), civil.month(), civil.day(), civil.hour())
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour) = self.parts();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}")
    }
}

/// What a data file's name says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile<'a> {
    /// The Kafka topic.
    pub topic: &'a str,
    /// The topic's partition.
    pub partition: i32,
    /// The offset of the file's first record.
    pub first: i64,
    /// The offset of the file's last record.
    pub last: i64,
    /// Format and compression: `json.gz`.
    pub extension: &'a str,
}

impl<'a> DataFile<'a> {
    /// Takes a name apart; `None` when it is not a data file's.
    #[must_use]
    pub fn parse(name: &'a str) -> Option<Self> {
        let (topic, rest) = name.split_once('+')?;
        let (partition, rest) = rest.split_once('+')?;
        let (first, rest) = rest.split_once('+')?;
        let (last, extension) = rest.split_once('.')?;
        if topic.is_empty() || topic.starts_with(['_', '.']) || extension.is_empty() {
            return None;
        }
        Some(Self { topic, partition: number(partition)?, first: offset(first)?, last: offset(last)?, extension })
    }
}

impl fmt::Display for DataFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, first, last, extension } = self;
        write!(f, "{topic}+{partition}+{first:020}+{last:020}.{extension}")
    }
}

fn number<T: std::str::FromStr>(digits: &str) -> Option<T> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn offset(digits: &str) -> Option<i64> {
    if digits.len() == 20 { number(digits) } else { None }
}

/// The directory of a table's open and temporary files.
#[must_use]
pub fn temporary_directory(table: &str) -> String {
    format!("{table}/_tmp")
}

/// The file that records of `hour` are written to, in a chunk that begins at `first`.
///
/// `session` names the process that writes it, so that two that both believe to own a partition don't share a file.
#[must_use]
pub fn open_file(table: &str, topic: &str, partition: i32, first: i64, hour: Hour, session: &str) -> String {
    format!("{table}/_tmp/{topic}+{partition}+{first:020}+{hour}+{session}.open")
}

/// The record of a chunk that is being published.
#[must_use]
pub fn chunk_record(table: &str, topic: &str, partition: i32, first: i64, next: i64) -> String {
    format!("{table}/_tmp/{topic}+{partition}+{first:020}+{next:020}.chunk")
}

/// The topic and partition that a name in a table's temporary directory belongs to; `None` for somebody else's file.
#[must_use]
pub fn temporary_owner(name: &str) -> Option<(&str, i32)> {
    let known = [".open", ".chunk"].iter().any(|ending| name.ends_with(ending));
    let (topic, rest) = name.split_once('+')?;
    let (partition, _) = rest.split_once('+')?;
    (known && !topic.is_empty()).then(|| number(partition).map(|partition| (topic, partition))).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_hour_has_its_directory() {
        // date -ud 2013-03-01T14:59:59 +%s
        let hour = Hour::of_milliseconds(1_362_149_999_999).expect("it is after 1970");
        assert_eq!(hour.directory(), "year=2013/month=03/day=01/hour=14");
        assert_eq!(hour.to_string(), "2013-03-01T14");
        let next = Hour::of_milliseconds(1_362_150_000_000).expect("it is after 1970");
        assert_eq!(next.directory(), "year=2013/month=03/day=01/hour=15");
    }

    #[test]
    fn years_have_four_digits() {
        assert_eq!(Hour::of_milliseconds(0).map(|hour| hour.to_string()), Some("1970-01-01T00".to_owned()));
        assert_eq!(Hour::of_milliseconds(-1), None);
        // date -ud 9999-12-30T22:59:59 +%s
        assert_eq!(
            Hour::of_milliseconds(253_402_210_799_999).map(|hour| hour.to_string()),
            Some("9999-12-30T22".to_owned())
        );
        assert_eq!(Hour::of_milliseconds(253_402_210_800_000), None);
    }

    #[test]
    fn a_data_file_is_named_by_its_offsets() {
        let file = DataFile { topic: "webrequest_text", partition: 3, first: 17, last: 4_711, extension: "json.gz" };
        let name = file.to_string();
        assert_eq!(name, "webrequest_text+3+00000000000000000017+00000000000000004711.json.gz");
        assert_eq!(DataFile::parse(&name), Some(file));
    }

    #[test]
    fn what_is_no_data_file_is_not_taken_for_one() {
        for name in [
            "_SUCCESS",
            "_STATS.json",
            "t+0+1+2.json",
            "t+0+00000000000000000001+00000000000000000002",
            "t+0+00000000000000000001+00000000000000000002.",
            "t+-1+00000000000000000001+00000000000000000002.json",
            "t+0+0000000000000000000x+00000000000000000002.json",
            "t+0+99999999999999999999+99999999999999999999.json",
            ".t+0+00000000000000000001+00000000000000000002.json.crc",
        ] {
            assert_eq!(DataFile::parse(name), None, "{name}");
        }
    }

    #[test]
    fn temporary_files_name_their_partition() {
        let hour = Hour::of_milliseconds(0).expect("it is 1970");
        let open = open_file("w", "a.b-c_d", 12, 5, hour, "session");
        let name = open.rsplit('/').next().expect("it has a last part");
        assert_eq!(temporary_owner(name), Some(("a.b-c_d", 12)));
        let record = chunk_record("w", "t", 0, 5, 9);
        assert_eq!(temporary_owner(record.rsplit('/').next().expect("it has a last part")), Some(("t", 0)));
        assert_eq!(temporary_owner("notes.txt"), None);
        assert_eq!(temporary_owner("t+0+notes.txt"), None);
    }

    proptest! {
        #[test]
        fn hours_are_where_their_milliseconds_are(time in 0..253_402_207_200_000_i64) {
            let hour = Hour::of_milliseconds(time).expect("it is in range");
            let civil = TimeZone::UTC.to_datetime(Timestamp::from_millisecond(time).expect("it is in range"));
            prop_assert_eq!(
                hour.directory(),
                format!("year={:04}/month={:02}/day={:02}/hour={:02}", civil.year(), civil.month(), civil.day(), civil.hour())
            );
        }

        #[test]
        fn any_time_is_an_hour_or_none(time: i64) {
            let _ = Hour::of_milliseconds(time).map(|hour| hour.to_string());
        }

        #[test]
        fn names_read_back(
            topic in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,40}",
            partition in 0..i32::MAX,
            first in 0..i64::MAX,
            last in 0..i64::MAX,
        ) {
            let file = DataFile { topic: &topic, partition, first, last, extension: "text" };
            let name = file.to_string();
            prop_assert_eq!(DataFile::parse(&name), Some(file));
        }

        #[test]
        fn names_sort_by_offset(first in 0..i64::MAX, second in 0..i64::MAX) {
            let name = |first| DataFile { topic: "t", partition: 0, first, last: first, extension: "text" }.to_string();
            prop_assert_eq!(first.cmp(&second), name(first).cmp(&name(second)));
        }

        #[test]
        fn any_name_is_read_or_refused(name: String) {
            let _ = DataFile::parse(&name);
            let _ = temporary_owner(&name);
        }
    }
}
