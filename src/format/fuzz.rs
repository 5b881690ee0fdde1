//! What the fuzz target `format_parser` and a property test run: outside bytes as a format, and what it compiles to over a
//! request that is made of them too. Nothing here may panic, whatever the bytes.

use std::str::from_utf8;
use std::time::{Duration, Instant};

use super::{Context, Program, Settings, Timestamp};
use crate::anonymize::{Anonymizer, SALT_BYTES, Salt};
use crate::config::IpFunction;
use crate::counters::Counters;
use crate::log::{Layout, Run, Tag};
use crate::query::TestTable;
use crate::transaction::{Assembler, CaptureTable, Interest, Limits};

/// The client's.
const ADDRESS: &str = "192.0.2.44";

/// Records that formats look at, and what they hold up to the bytes.
const RECORDS: [(Tag, &str); 12] = [
    (Tag::BEGIN, "req 1 rxreq"),
    (Tag::TIMESTAMP, "Start: 1700000000.123456 0.000000 0.000000"),
    (Tag::REQ_START, "192.0.2.44 51234 a0"),
    (Tag::REQ_METHOD, ""),
    (Tag::REQ_URL, "/"),
    (Tag::REQ_HEADER, "X-Forwarded-For: "),
    (Tag::REQ_HEADER, "Authorization: Basic "),
    (Tag::REQ_HEADER, ""),
    (Tag::VCL_LOG, "key: "),
    (Tag::RESP_STATUS, ""),
    (Tag::TIMESTAMP, "Resp: "),
    (Tag::REQ_ACCT, "1 2 3 "),
];

/// Compiles the bytes up to a NUL as a format in either notation, and renders a request whose records have pieces of the rest.
pub fn format_parser(bytes: &[u8]) {
    let mut pieces = bytes.split(|byte| *byte == 0);
    let notation = String::from_utf8_lossy(pieces.next().unwrap_or_default());
    let pieces: Vec<_> = pieces.collect();
    for json in [true, false] {
        let mut table = CaptureTable::default();
        let settings =
            Settings { host: "h", address_headers: &["X-Forwarded-For".into()], searched: &["Cookie".into()] };
        let compile = if json { Program::json } else { Program::line };
        match compile(&notation, settings, &mut table) {
            Ok(mut program) => {
                let line = render(&mut program, &table, &pieces);
                if json {
                    check_json(&line);
                }
                let shows = |text: &[u8]| text.windows(ADDRESS.len()).any(|window| window == ADDRESS.as_bytes());
                assert!(!shows(&line) || shows(bytes), "{}", line.escape_ascii());
            }
            Err(error) => assert!(notation.is_char_boundary(error.offset), "{error:?}"),
        }
        let mut table = CaptureTable::default();
        if let Ok(mut program) = Program::varnishncsa(&notation, json, &mut table) {
            render(&mut program, &table, &pieces);
        }
    }
}

fn render(program: &mut Program, table: &CaptureTable, pieces: &[&[u8]]) -> Vec<u8> {
    let records = RECORDS.iter().enumerate().map(|(index, (tag, text))| {
        // A request begins in one way only.
        let piece = pieces.get(index).copied().filter(|_| *tag != Tag::BEGIN).unwrap_or_default();
        (*tag, 7, [text.as_bytes(), &piece[..piece.len().min(1000)]].concat())
    });
    let records: Vec<_> = records.chain([(Tag::END, 7, Vec::new())]).collect();
    let mut run = Run::of_records(1, records.iter().map(|(tag, vxid, payload)| (*tag, *vxid, payload.as_slice())));
    let limits = Limits { transactions: 1, timeout: Duration::MAX };
    let interest = Interest { client: true, ..Interest::default() };
    let mut assembler = Assembler::new(table, &TestTable::default(), interest, limits);
    let salt = Salt::from_bytes(0, [7; SALT_BYTES]);
    let mut line = Vec::new();
    assembler.run(run.records(Layout::One), Instant::now(), None, &Counters::new(0), |set| {
        let transaction = &set.transactions().next().expect("a set has a transaction");
        let start = Some(Timestamp::from_epoch(Duration::from_secs(1_700_000_000)));
        let anonymizer = Anonymizer::new(IpFunction::Hash, Some(&salt), 64);
        program.render(&Context { transaction, sequence: 5, start, anonymizer }, &mut line);
    });
    line
}

fn check_json(line: &[u8]) {
    let text = from_utf8(line).expect("JSON is UTF-8");
    assert!(text.starts_with('{') && text.ends_with('}') && text.bytes().all(|byte| byte >= 0x20), "{text}");
    #[cfg(test)]
    assert!(serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| value.is_object()), "{text}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_format_panics(
            notation in "([%{}@?!a-zA-Z:0-9\\[\\] ]{0,30}|(%(\\{(VSL:|VCL_Log:|Varnish:)?[a-zA-Z:\\[0-9\\]-]{1,12}\\})?[a-zA-Z]@[a-z]{1,4} ?){1,4})",
            pieces in proptest::collection::vec(proptest::collection::vec(1_u8..=255, 0..40), 0..12),
        ) {
            let pieces: Vec<_> = std::iter::once(notation.into_bytes()).chain(pieces).collect();
            super::format_parser(&pieces.join(&0));
        }
    }
}
