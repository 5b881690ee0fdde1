//! What the fuzz target `query_parser` and a property test run: outside bytes as a query, and as a record that it tests.
//! Nothing here may panic, whatever the bytes.

use super::{Member, Met, Query, TestTable};

/// Compiles the bytes up to a NUL as a query, and tests the rest as a record of every tag that it names.
pub fn query_parser(bytes: &[u8]) {
    let (query, record) = bytes.split_at(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    let Ok(query) = std::str::from_utf8(query) else { return };
    let mut table = TestTable::default();
    match Query::compile(query, false, &mut table) {
        Ok(query) => {
            let mut met = Met::default();
            for (id, test) in table.iter() {
                if test.is_met(record) {
                    met.insert(id);
                }
                assert_eq!(met.contains(id), test.is_met(record));
            }
            let _ = query.holds([Member { level: 1, vxid: 7, met: &met }].into_iter());
        }
        Err(error) => assert!(error.offset() <= query.len() && !error.to_string().contains('\0'), "{error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::query_parser;

    proptest! {
        #[test]
        fn no_query_panics(bytes: Vec<u8>) {
            query_parser(&bytes);
        }

        #[test]
        fn no_query_of_the_language_panics(
            words in proptest::collection::vec(
                prop_oneof![
                    "ReqURL|Req\\*|\\*|vxid|Nope|and|or|not|eq|ne|~|!~|==|!=|<|<=|>|>=|[(){}\\[\\]:,#\\\\\n]",
                    "'[a-z(\\\\\"]{0,5}'|\"[^\u{0}]{0,3}\"|[0-9.+-]{1,6}|0x[0-9a-f]{1,20}",
                ],
                0..12,
            ),
            spaces: bool,
            record: Vec<u8>,
        ) {
            let mut bytes = words.join(if spaces { " " } else { "" }).into_bytes();
            bytes.push(0);
            bytes.extend(record);
            query_parser(&bytes);
        }

        #[test]
        fn parentheses_do_not_exhaust_the_stack(count in 0_usize..100_000) {
            query_parser("(".repeat(count).as_bytes());
        }
    }
}
