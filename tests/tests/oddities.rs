//! The recordings of oddities hold what they are meant to, as varnishlog shows them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use kafkalog_tests::oddities;

/// Records of which there must be some: the tag, and what is in the text.
const EVERYDAY: [(&str, &str); 142] = [
    // How transactions begin, and on which listener.
    ("Begin", "sess 0 HTTP/1"),
    ("Begin", "sess 0 PROXY"),
    ("Begin", " rxreq"),
    ("Begin", " esi"),
    ("Begin", " restart"),
    ("Begin", " fetch"),
    ("Begin", " pass"),
    ("Begin", " pipe"),
    ("Begin", " bgfetch"),
    ("Begin", " retry"),
    ("ReqStart", " tcp"),
    ("ReqStart", "0.0.0.0 0 unix"),
    ("ReqStart", "192.0.2.1 1234 proxy"),
    ("ReqStart", "2001:db8::1 65535 proxy"),
    ("ReqStart", "127.0.0.1 "),
    ("Proxy", "1 192.0.2.1 1234"),
    ("Proxy", "1 2001:db8::1 65535"),
    ("Proxy", "2 192.0.2.1 1234"),
    ("Proxy", "2 2001:db8::1 65535"),
    ("Proxy", "2 local"),
    ("ProxyGarbage", "PROXY1"),
    ("ProxyGarbage", "PROXY2"),
    // What VCL does.
    ("VCL_call", "HIT"),
    ("VCL_call", "MISS"),
    ("VCL_call", "PASS"),
    ("VCL_call", "PIPE"),
    ("VCL_call", "PURGE"),
    ("VCL_call", "SYNTH"),
    ("VCL_call", "BACKEND_ERROR"),
    ("VCL_return", "restart"),
    ("VCL_return", "retry"),
    ("VCL_return", "fail"),
    ("VCL_return", "abandon"),
    ("VCL_acl", "NO_MATCH nobody"),
    ("VCL_acl", "NEG_MATCH nobody"),
    ("VCL_Error", "Too many restarts"),
    ("VCL_Error", "Too many retries"),
    ("VCL_Error", "ESI depth limit"),
    ("VCL_Error", "As the URL says"),
    ("VCL_Error", "ban()"),
    ("Hit", " "),
    ("HitMiss", " "),
    ("HitPass", " "),
    ("ExpBan", "banned lookup"),
    ("VCL_Log", "key:value"),
    ("VCL_Log", "key: second "),
    ("VCL_Log", "empty:"),
    ("VCL_Log", "quoted:a \"b\" \\c"),
    ("VCL_Log", "key:backend"),
    ("Timestamp", "Received: "),
    ("Timestamp", "Two words: "),
    ("Timestamp", "Restart: "),
    ("Timestamp", "Retry: "),
    ("Timestamp", "Waitinglist: "),
    ("Timestamp", "Pipe: "),
    ("Timestamp", "PipeSess: "),
    ("Timestamp", "Error: "),
    // Requests.
    ("ReqMethod", "HEAD"),
    ("ReqMethod", "POST"),
    ("ReqMethod", "PURGE"),
    ("ReqMethod", "BREW"),
    ("ReqURL", "*"),
    ("ReqURL", "/u?a?b??c"),
    ("ReqURL", "/u??"),
    ("ReqURL", "/u?y"),
    ("ReqURL", "/quote\"d\\n\\\""),
    ("ReqURL", "/uü€"),
    ("ReqURL", "/u\u{fffd}\u{fffd}"),
    ("ReqProtocol", "HTTP/1.0"),
    ("ReqProtocol", "http/1.1"),
    ("ReqProtocol", "HTTP/2.0"),
    ("ReqHeader", "Host: absolute.example"),
    ("ReqHeader", "X-Empty:"),
    ("ReqHeader", "X-MULTI:   three"),
    ("ReqHeader", "X-Odd: \"quoted\" \\ back\\n\ttab"),
    ("ReqHeader", "Cookie: a=b; c=\"d\"; \u{fffd}=1"),
    ("ReqHeader", "Authorization: Basic dXNlcjpwYXNzd29yZA=="),
    ("ReqHeader", "Authorization: basic dXNlcjpwYXNzd29yZA=="),
    ("ReqHeader", "Authorization: Basic !!!"),
    ("ReqHeader", "Authorization: Basic OnBhc3N3b3Jk"),
    ("ReqHeader", "Authorization: Bearer "),
    ("ReqHeader", "X-Fold: a"),
    ("ReqHeader", "x-h2: yes"),
    ("ReqUnset", "X-Once: "),
    ("ReqUnset", "X-Gone: 1"),
    ("BereqHeader", "X-Set: by VCL again"),
    ("BereqHeader", "If-None-Match: "),
    ("BereqUnset", "X-Set: by VCL"),
    ("BogoHeader", "Header too long"),
    ("BogoHeader", "Too many headers"),
    ("BogoHeader", "ctrl char"),
    ("BogoHeader", "Multiple Host"),
    ("BogoHeader", "upper-case"),
    ("LostHeader", "X-"),
    ("HttpGarbage", "GET%00"),
    ("HttpGarbage", "%16%03%01"),
    ("HttpGarbage", "%ff%fe"),
    ("HttpGarbage", "hello"),
    // Answers.
    ("RespStatus", "100"),
    ("RespStatus", "204"),
    ("RespStatus", "206"),
    ("RespStatus", "299"),
    ("RespStatus", "304"),
    ("RespStatus", "400"),
    ("RespStatus", "416"),
    ("RespStatus", "417"),
    ("RespStatus", "503"),
    ("RespStatus", "750"),
    ("BerespStatus", "304"),
    ("RespReason", "Not \u{fffd} found"),
    ("RespReason", "Odd \"reason\""),
    ("RespHeader", "X-Bytes: \"\u{fffd}\\ü\t\u{fffd}\""),
    ("RespHeader", "X-Multi: 1, 2"),
    ("RespUnset", "Via: "),
    ("BerespHeader", "x-double: b"),
    ("BerespUnset", "X-Beresp: 1"),
    ("Gzip", "G F"),
    ("Gzip", "G F E"),
    ("Gzip", "U D"),
    ("Gzip", "u F"),
    ("ESI_xmlerror", "ERR "),
    ("ESI_xmlerror", "WARN "),
    ("PipeAcct", " 28 72"),
    // What fails.
    ("FetchError", "Connection refused"),
    ("FetchError", "No backend"),
    ("FetchError", "HTC eof"),
    ("FetchError", "first byte timeout"),
    ("FetchError", "http format error"),
    ("FetchError", "straight insufficient bytes"),
    ("FetchError", "chunked"),
    ("FetchError", "Invalid Gzip"),
    ("Error", "workspace"),
    ("SessClose", "RX_TIMEOUT"),
    ("SessClose", "RX_CLOSE_IDLE"),
    ("SessClose", "RX_JUNK"),
    ("SessClose", "RX_OVERFLOW"),
    ("SessClose", "RX_BODY"),
    ("SessClose", "TX_ERROR"),
    ("SessClose", "TX_PIPE"),
    // Tags that are masked by default, and records of no transaction.
    ("H2RxHdr", "["),
    ("H2RxBody", "["),
    ("Backend_health", "healthy"),
];

/// The words of a record, and whose they are.
struct Record<'a> {
    id: &'a str,
    tag: &'a str,
    text: &'a str,
}

impl<'a> Record<'a> {
    /// Between id, tag and text is a letter for the side.
    fn parse(line: &'a str) -> Option<Self> {
        let (id, rest) = line.trim_start().split_once(' ')?;
        let (tag, rest) = rest.split_once(' ')?;
        let (_, text) = rest.trim_start().split_once(' ')?;
        Some(Self { id, tag, text })
    }

    fn credentials(&self) -> Option<&'a str> {
        self.text.strip_prefix("Authorization: Basic ").filter(|_| self.tag == "ReqHeader")
    }
}

fn records(text: &str) -> Vec<Record<'_>> {
    text.lines().filter_map(Record::parse).collect()
}

#[test]
fn everything_odd_is_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let recordings = oddities::record(directory.path()).unwrap();
    let everyday = oddities::text(&recordings.everyday).unwrap();
    let hostile = oddities::text(&recordings.hostile).unwrap();
    every_kind_is_there(&records(&everyday));
    sizes_vary(&records(&everyday));
    long_credentials_are_apart(&records(&everyday), &records(&hostile));
    varnishncsa_survives(&recordings.everyday);
}

fn every_kind_is_there(records: &[Record<'_>]) {
    let mut missing = String::new();
    for (tag, part) in EVERYDAY {
        if !records.iter().any(|record| record.tag == tag && record.text.contains(part)) {
            let _ = writeln!(missing, "{tag}: {part}");
        }
    }
    assert!(missing.is_empty(), "there is no\n{missing}");
}

/// Some texts are about as long as a record may be, and some transactions came in parts, with others between them.
fn sizes_vary(records: &[Record<'_>]) {
    let longest = records.iter().filter(|record| record.tag == "ReqHeader").map(|record| record.text.len()).max();
    assert!(longest.is_some_and(|longest| longest > 3900), "the longest header has {longest:?} bytes");
    let mut last_line = HashMap::new();
    let continued = records.iter().enumerate().filter(|(line, record)| {
        last_line.insert(record.id, *line).is_some_and(|last| record.id != "0" && last + 1 < *line)
    });
    assert!(continued.count() > 1, "every transaction is in one piece");
}

/// Those that varnishncsa has no room for: more than 120 bytes, which are 160 in base64.
fn long_credentials_are_apart(everyday: &[Record<'_>], hostile: &[Record<'_>]) {
    let [everyday, hostile] =
        [everyday, hostile].map(|records| records.iter().filter_map(Record::credentials).map(str::len).max());
    assert!(everyday.is_some_and(|longest| longest <= 160), "{everyday:?}");
    assert!(hostile.is_some_and(|longest| longest > 400), "{hostile:?}");
}

fn varnishncsa_survives(recording: &Path) {
    for arguments in [&["-c"][..], &["-b"], &["-E", "-b", "-j"], &["-g", "request"]] {
        let output =
            Command::new("varnishncsa").arg("-r").arg(recording).args(arguments).output().expect("it is installed");
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        assert!(output.status.success() && lines > 300, "varnishncsa {arguments:?}: {}, {lines} lines", output.status);
    }
}
