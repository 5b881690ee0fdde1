//! Queries: vsl-query(7), which transactions are wanted.
//!
//! ```text
//!  text ──lex──▶ tokens ──parse──▶ expression over record tests ──holds──▶ yes or no
//! ```
//!
//! A query is true or false of a set of transactions. What it asks of single records are [`RecordTest`]s in a [`TestTable`],
//! which all queries share: records are tried as they are read, and only the ones whose tag a test names and whose test has
//! not been met yet. When the set is whole, what is left is to put the answers together.

mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod lex;
mod number;
mod parse;
mod record_test;

pub use error::QueryError;
pub use number::{duration, varnish_number};
pub use record_test::{Met, RecordTest, TestId, TestTable};

use std::cmp::Ordering;

/// How numbers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn holds<T: PartialOrd>(self, left: T, right: T) -> bool {
        let ordering = left.partial_cmp(&right);
        match self {
            Self::Equal => ordering == Some(Ordering::Equal),
            Self::NotEqual => ordering != Some(Ordering::Equal),
            Self::Less => ordering == Some(Ordering::Less),
            Self::LessOrEqual => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => ordering == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

/// Which levels of a set a record may be in, from 1 for its top: `{2}`, `{2-}`, `{2+}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Levels {
    All,
    Only(i32),
    UpTo(i32),
    From(i32),
}

impl Levels {
    fn include(self, level: i32) -> bool {
        match self {
            Self::All => true,
            Self::Only(only) => level == only,
            Self::UpTo(last) => level <= last,
            Self::From(first) => level >= first,
        }
    }
}

/// What a query asks of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    Any(Vec<Self>),
    All(Vec<Self>),
    Not(Box<Self>),
    /// Some record in these levels meets the test.
    Record(TestId, Levels),
    /// Some transaction's id compares so.
    Vxid(Comparison, i64),
}

/// A transaction as one of a set.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// 1 for the set's top.
    pub level: i32,
    /// The transaction's id.
    pub vxid: u64,
    /// Which tests its records have met.
    pub met: &'a Met,
}

/// A compiled query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    expression: Expression,
}

impl Query {
    /// Compiles a query; several are separated by line feeds, and one of them is enough. `any_case` makes regular
    /// expressions and the strings of `eq` and `ne` match in upper and lower case (`-C`).
    ///
    /// # Errors
    ///
    /// [`QueryError`] with the place, in the words of varnishlog.
    pub fn compile(text: &str, any_case: bool, table: &mut TestTable) -> Result<Self, QueryError> {
        parse::parse(text, any_case, table).map(|expression| Self { expression })
    }

    /// Whether the query is true of a set.
    #[must_use]
    pub fn holds<'a>(&self, set: impl Iterator<Item = Member<'a>> + Clone) -> bool {
        self.expression.holds(&set)
    }
}

impl Expression {
    fn holds<'a>(&self, set: &(impl Iterator<Item = Member<'a>> + Clone)) -> bool {
        match self {
            Self::Any(parts) => parts.iter().any(|part| part.holds(set)),
            Self::All(parts) => parts.iter().all(|part| part.holds(set)),
            Self::Not(part) => !part.holds(set),
            Self::Record(test, levels) => {
                set.clone().any(|member| levels.include(member.level) && member.met.contains(*test))
            }
            Self::Vxid(comparison, number) => {
                set.clone().any(|member| comparison.holds(i64::try_from(member.vxid).unwrap_or(i64::MAX), *number))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Tag;

    /// Whether a query is true of one transaction that has these records.
    fn holds(query: &str, any_case: bool, records: &[(Tag, &str)]) -> bool {
        let mut table = TestTable::default();
        let query = Query::compile(query, any_case, &mut table).unwrap_or_else(|error| panic!("{query}: {error}"));
        let met = met(&table, records);
        query.holds([Member { level: 1, vxid: 7, met: &met }].into_iter())
    }

    /// The tests that records meet.
    fn met(table: &TestTable, records: &[(Tag, &str)]) -> Met {
        let mut met = Met::default();
        for (tag, payload) in records {
            let payload = format!("{payload}\0");
            for (id, test) in table.iter().filter(|(_, test)| test.tags.contains(tag)) {
                let text = match &test.prefix {
                    None => payload.as_str(),
                    Some(prefix) => match payload.split_once(':') {
                        Some((name, text)) if name.as_bytes().eq_ignore_ascii_case(prefix) => text,
                        _ => continue,
                    },
                };
                if test.is_met(text.as_bytes()) {
                    met.insert(id);
                }
            }
        }
        met
    }

    const RECORDS: &[(Tag, &str)] = &[
        (Tag::REQ_URL, "/wiki/Main?a=1"),
        (Tag::REQ_HEADER, "Host: en.m.example.org"),
        (Tag::REQ_HEADER, "Empty:"),
        (Tag::RESP_STATUS, "404"),
        (Tag::TIMESTAMP, "Resp: 1700000000.1 0.25 0.100"),
        (Tag::VCL_LOG, "two \"quoted words\" \"\" end"),
    ];

    #[test]
    fn records_are_tested_in_every_way() {
        for (query, truth) in [
            ("ReqURL", true),
            ("BereqURL", false),
            ("ReqURL eq '/wiki/Main?a=1'", true),
            ("ReqURL eq wiki", false),
            ("ReqURL ne wiki", true),
            ("ReqURL ~ '^/wiki'", true),
            ("ReqURL !~ '^/wiki'", false),
            ("reqheader:HOST ~ '\\\\.m\\\\.'", true),
            ("ReqHeader:Hos ~ m", false),
            ("ReqHeader:Empty eq ''", true),
            ("ReqHeader:Empty == 0", false),
            ("*Header:Host", true),
            ("RespStatus >= 400 and RespStatus < 500", true),
            ("RespStatus == 0x194", true),
            ("RespStatus == 404.0", true),
            ("RespStatus != 404", false),
            ("ReqURL != 1", false),
            ("Timestamp:Resp[2] > 0.2", true),
            ("Timestamp:Resp[2] <= 0.2", false),
            ("Timestamp:Resp[4]", false),
            ("VCL_Log[2] eq 'quoted words'", true),
            ("VCL_Log[3] eq ''", true),
            ("VCL_Log[4] eq end", true),
            ("not BereqURL", true),
            ("not ReqURL or RespStatus == 404", true),
            ("not (ReqURL or RespStatus)", false),
            ("(ReqURL and (BereqURL or RespStatus))", true),
            ("BereqURL\n\n# nothing\nReqURL # a comment", true),
            ("BereqURL or \\\nReqURL", true),
            ("vxid == 7", true),
            ("vxid > 7", false),
            ("{1}ReqURL", true),
            ("{2+}ReqURL", false),
            ("{2-}ReqURL", true),
            ("ReqURL,BereqURL ~ wiki", true),
        ] {
            assert_eq!(holds(query, false, RECORDS), truth, "{query}");
        }
        assert!(!holds("ReqHeader:Host ~ EXAMPLE or ReqHeader:Host eq 'EN.M.EXAMPLE.ORG'", false, RECORDS));
        assert!(holds("ReqHeader:Host ~ EXAMPLE and ReqHeader:Host eq 'EN.M.EXAMPLE.ORG'", true, RECORDS));
    }

    #[test]
    fn a_set_is_tested_level_by_level() {
        let mut table = TestTable::default();
        let mut compile = |text| Query::compile(text, false, &mut table).unwrap();
        let queries =
            ["{1}ReqURL", "{2}ReqURL", "{2+}ReqURL", "{1-}ReqURL", "vxid == 9", "not {3}ReqURL"].map(&mut compile);
        let (none, url) = (Met::default(), met(&table, RECORDS));
        let set = [Member { level: 1, vxid: 8, met: &none }, Member { level: 2, vxid: 9, met: &url }];
        let truths = queries.map(|query| query.holds(set.into_iter()));
        assert_eq!(truths, [false, true, true, false, true, true]);
    }

    #[test]
    fn the_same_test_is_made_once() {
        let mut table = TestTable::default();
        for text in ["ReqURL ~ a or ReqURL ~ a", "ReqURL ~ a and ReqURL ~ b"] {
            Query::compile(text, false, &mut table).unwrap();
        }
        assert_eq!(table.iter().count(), 2);
    }

    #[test]
    fn errors_mark_the_place() {
        for (query, text) in [
            ("", ""),
            ("ReqURL foo", "Expected operator got 'foo' (Pos 8)\nReqURL foo\n-------###\n"),
            ("Nope", "Tag name matches zero tags (Pos 1)\nNope\n####\n"),
            ("Req", "Tag name is ambiguous (Pos 1)\nReq\n###\n"),
            ("ReqURL ~ 'a", "Unterminated string (Pos 12)\nReqURL ~ 'a\n---------##\n"),
            (
                "ReqURL ~ 'a('",
                "Regular expression error: missing closing parenthesis (Pos 12)\nReqURL ~ 'a('\n---------##^#\n",
            ),
            ("ReqURL\t==\tx", "Integer parse error (Pos 11)\nReqURL == x\n----------#\n"),
            ("(ReqURL", "Expected ')' got end of input (Pos 8)\n(ReqURL\n-------\n"),
            ("vxid == 1.5", "Expected integer got '1.5' (Pos 9)\nvxid == 1.5\n--------^##\n"),
            ("{1ReqURL", "Syntax error in level limit (Pos 2)\n{1ReqURL\n-#######\n"),
        ] {
            let error = Query::compile(query, false, &mut TestTable::default()).expect_err(query);
            assert_eq!(error.to_string(), text, "{query}");
        }
    }
}
