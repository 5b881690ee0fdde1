//! Tests of single records.

use pcre2::bytes::Regex;

use super::Comparison;
use super::number::{decimal, is_decimal};
use crate::log::{Tag, is_space};

/// The number of a test in its table: the same for all queries that ask the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestId(u32);

impl TestId {
    /// Where the table has it.
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is asked of one record: a presence, or a comparison of it or a part of it.
#[derive(Debug, Clone)]
pub struct RecordTest {
    /// Of records with one of these tags.
    pub(crate) tags: Vec<Tag>,
    /// Of what follows `prefix:`, upper and lower case being the same.
    pub(crate) prefix: Option<Box<[u8]>>,
    /// Of a field, counted from 1; 0 for all.
    pub(super) field: u32,
    pub(super) condition: Condition,
}

/// What is asked of a text.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    Present,
    Integer(Comparison, i64),
    Decimal(Comparison, f64),
    Same { text: Box<[u8]>, any_case: bool, wanted: bool },
    Matches { pattern: Pattern, wanted: bool },
}

impl PartialEq for RecordTest {
    fn eq(&self, other: &Self) -> bool {
        (&self.tags, &self.prefix, self.field) == (&other.tags, &other.prefix, other.field)
            && self.condition == other.condition
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, Self::Present) => true,
            (Self::Integer(one, number), Self::Integer(other, other_number)) => (one, number) == (other, other_number),
            (Self::Decimal(one, number), Self::Decimal(other, other_number)) => (one, number) == (other, other_number),
            (Self::Same { text, any_case, wanted }, Self::Same { text: text2, any_case: case2, wanted: wanted2 }) => {
                (text, any_case, wanted) == (text2, case2, wanted2)
            }
            (Self::Matches { pattern, wanted }, Self::Matches { pattern: pattern2, wanted: wanted2 }) => {
                (&pattern.text, pattern.any_case, wanted) == (&pattern2.text, pattern2.any_case, wanted2)
            }
            _ => false,
        }
    }
}

/// A regular expression.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    text: String,
    any_case: bool,
    regex: Regex,
}

/// A pattern that PCRE2 does not understand.
pub(super) struct PatternError {
    pub(super) message: String,
    pub(super) offset: usize,
}

impl Pattern {
    /// What a pattern may cost: PCRE2 counts steps back and forth. Varnish's own limit is 10,000,000, a good second in which
    /// the log would go unread.
    const LIMIT: &'static str = "(*LIMIT_MATCH=1000000)";

    pub(super) fn new(text: &str, any_case: bool) -> Result<Self, PatternError> {
        let mut builder = pcre2::bytes::RegexBuilder::new();
        builder.caseless(any_case).jit_if_available(true);
        match builder.build(&format!("{}{text}", Self::LIMIT)) {
            Ok(regex) => Ok(Self { text: text.to_owned(), any_case, regex }),
            Err(error) => {
                // The library's own text stands behind the place.
                let full = error.to_string();
                let message =
                    full.split_once(": ").and_then(|(_, rest)| Some(rest.split_once(": ")?.1)).unwrap_or(&full);
                let offset = error.offset().unwrap_or(0).saturating_sub(Self::LIMIT.len());
                Err(PatternError { message: message.to_owned(), offset })
            }
        }
    }

    /// Whether it matches. A text that costs more than the limit is taken for one that does, as Varnish has it.
    fn matches(&self, text: &[u8]) -> bool {
        self.regex.is_match(text).unwrap_or(true)
    }
}

impl RecordTest {
    /// Whether a record meets it: `text` is what its payload holds behind the prefix, with the NUL at its end.
    pub(crate) fn is_met(&self, text: &[u8]) -> bool {
        let mut value = match text {
            [value @ .., _] => value,
            [] => return false,
        };
        if self.prefix.is_some() {
            value = &value[value.iter().take_while(|byte| is_space(**byte)).count()..];
        }
        if self.field > 0 {
            match field(value, self.field) {
                Some(field) => value = field,
                None => return false,
            }
        }
        match &self.condition {
            Condition::Present => true,
            Condition::Integer(comparison, number) => {
                decimal(value).0.is_some_and(|value| comparison.holds(value as i64, *number))
            }
            Condition::Decimal(comparison, number) => {
                decimal(value).0.is_some_and(|value| is_decimal(value) && comparison.holds(value, *number))
            }
            Condition::Same { text, any_case: true, wanted } => value.eq_ignore_ascii_case(text) == *wanted,
            Condition::Same { text, any_case: false, wanted } => (value == &**text) == *wanted,
            Condition::Matches { pattern, wanted } => pattern.matches(value) == *wanted,
        }
    }
}

/// Field `number`, from 1, of a text that a NUL may end. What stands in double quotes is one field, without them; white
/// space must follow it if another field is wanted.
fn field(text: &[u8], number: u32) -> Option<&[u8]> {
    let mut rest = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut field = &rest[..0];
    let mut quoted = false;
    for _ in 0..number {
        let start = rest.iter().take_while(|byte| is_space(**byte)).count();
        if quoted && start == 0 {
            return None;
        }
        rest = &rest[start..];
        quoted = rest.first() == Some(&b'"');
        if quoted {
            let end = rest[1..].iter().position(|byte| *byte == b'"')?;
            (field, rest) = (&rest[1..=end], &rest[end + 2..]);
        } else {
            (field, rest) = rest.split_at(rest.iter().take_while(|byte| !is_space(**byte)).count());
            if field.is_empty() {
                return None;
            }
        }
    }
    Some(field)
}

/// All tests of all queries.
#[derive(Debug, Default)]
pub struct TestTable(Vec<RecordTest>);

impl TestTable {
    /// The test's number; the one that it has already if another query asked it.
    pub(super) fn intern(&mut self, test: RecordTest) -> TestId {
        let known = self.0.iter().position(|known| *known == test);
        TestId(known.unwrap_or_else(|| {
            self.0.push(test);
            self.0.len() - 1
        }) as u32)
    }

    /// The tests with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TestId, &RecordTest)> {
        self.0.iter().enumerate().map(|(index, test)| (TestId(index as u32), test))
    }
}

/// The tests that the records of a transaction have met.
#[derive(Debug, Clone, Default)]
pub struct Met(Vec<u64>);

impl Met {
    /// Forgets all; keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a test.
    pub(crate) fn insert(&mut self, test: TestId) {
        let word = test.index() / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (test.0 % 64);
    }

    /// Whether a test has been met.
    #[inline]
    #[must_use]
    pub fn contains(&self, test: TestId) -> bool {
        self.0.get(test.index() / 64).is_some_and(|word| word >> (test.0 % 64) & 1 == 1)
    }
}
