//! Queries, made by chance but the same every time, are true of the same transactions.

use std::process::{Command, Output, Stdio};

use kafkalog_tests::load::mix;

use crate::{RECORDINGS, compare, ours};

/// How many.
const QUERIES: u64 = 300;

const TAGS: [&str; 30] = [
    "ReqURL",
    "RespStatus",
    "ReqHeader",
    "BereqHeader",
    "RespHeader",
    "BerespHeader",
    "Timestamp",
    "VCL_call",
    "VCL_return",
    "VCL_Log",
    "*URL",
    "Req*",
    "Beresp*",
    "*Header",
    "Begin",
    "End",
    "Link",
    "ReqAcct",
    "TTL",
    "Hit",
    "Debug",
    "FetchError",
    "ReqStart",
    "*",
    "Hash",
    "HttpGarbage",
    "SessOpen",
    "BogoHeader",
    "ReqURL,BereqURL",
    "VSL",
];
/// Comparisons that tell these transactions apart; those made of the lists below seldom do.
const TELLING: [&str; 20] = [
    "ReqURL ~ '^/esi'",
    "RespStatus == 404",
    "RespStatus >= 400.5",
    "ReqHeader:x-multi",
    "Timestamp:Resp[2] > 0.0005",
    "VCL_call eq HIT",
    "BerespHeader:X-Double",
    "Begin[3] eq rxreq",
    "ReqAcct[5] > 5",
    "VCL_Log:key eq value",
    "TTL[2] > 0",
    "BogoHeader",
    "Link[1] eq bereq",
    "ReqProtocol eq 'HTTP/1.0'",
    "ReqHeader:referer ~ tab",
    "{2+}RespStatus == 200",
    "{1}Link[3] eq esi",
    "BereqURL ne '/esi'",
    "*Header:Content-Length < 5",
    "vxid > 100",
];
const PREFIXES: [&str; 11] =
    ["Host", "x-multi", "Start", "Resp", "key", "Referer", "User-agent", "X-R", "empty", "Process", "Content-Length"];
const TEXTS: [&str; 21] = [
    "GET",
    "/",
    "a",
    "hello",
    "200",
    "404",
    "x",
    "esi",
    "[0-9]+",
    "^$",
    "^/a",
    "a.example",
    "pass",
    "HIT",
    "fetch",
    "rxreq",
    "restart",
    "\\\\x80",
    "[^ -~]",
    "(",
    "",
];
const NUMBERS: [&str; 12] = ["0", "1", "200", "404", "0.001", "1.5", "-1", "0x10", "5", "1700000000", "3.", "010"];

/// Numbers that look like chance.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 += 1;
        (mix(self.0) % limit as u64) as usize
    }

    /// True so many times out of a hundred.
    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn comparison(&mut self) -> String {
        if self.percent(50) {
            return self.one_of(&TELLING).to_owned();
        }
        if self.percent(5) {
            return format!("vxid {} {}", self.one_of(&["==", "<", ">", "!=", "<=", ">="]), self.below(400));
        }
        let mut text = String::new();
        if self.percent(15) {
            text += &format!("{{{}{}}}", self.below(4), self.one_of(&["", "+", "-"]));
        }
        text += self.one_of(&TAGS);
        if self.percent(35) {
            text += &format!(":{}", self.one_of(&PREFIXES));
        }
        if self.percent(30) {
            text += &format!("[{}]", 1 + self.below(6));
        }
        let operator = self.one_of(&["", "==", "!=", "<", "<=", ">", ">=", "eq", "ne", "~", "!~", "~"]);
        match operator {
            "" => {}
            "eq" | "ne" => text += &format!(" {operator} '{}'", self.one_of(&TEXTS)),
            "~" | "!~" => text += &format!(" {operator} \"{}\"", self.one_of(&TEXTS)),
            _ => text += &format!(" {operator} {}", self.one_of(&NUMBERS)),
        }
        text
    }

    fn query(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.comparison();
        }
        match self.below(6) {
            0 | 1 => self.comparison(),
            2 => format!("not ({})", self.query(depth - 1)),
            3 => format!("{} and {}", self.query(depth - 1), self.query(depth - 1)),
            4 => format!("({}) or not {}", self.query(depth - 1), self.comparison()),
            _ => format!("{}\n{} # comment", self.query(depth - 1), self.query(depth - 1)),
        }
    }
}

/// What is compared of each transaction.
const SHOWN: &str = "%{Varnish:vxid}x %U";

#[test]
fn queries_are_true_of_the_same_transactions() {
    let mut dice = Dice(0);
    let queries: Vec<String> =
        (0..QUERIES).map(|_| dice.below(4)).collect::<Vec<_>>().into_iter().map(|depth| dice.query(depth)).collect();
    let cases = queries.iter().enumerate().map(|(index, query)| {
        let mut arguments = vec!["-bE", "-F", SHOWN, "-q", query, "-g", ["vxid", "request"][index % 2]];
        if index % 5 == 0 {
            arguments.push("-C");
        }
        arguments
    });
    let outputs = compare(cases);
    let lines = |output: &Output| output.stdout.iter().filter(|byte| **byte == b'\n').count();
    let telling = outputs.iter().filter(|output| (1..1000).contains(&lines(output))).count();
    assert!(telling > outputs.len() / 4, "only {telling} of {} queries tell transactions apart", outputs.len());
}

/// varnishlog has more groupings than varnishncsa, and shows the ids that ours must.
#[test]
fn varnishlog_chooses_the_same_transactions() {
    let queries = [
        "ReqURL ~ '^/esi'",
        "RespStatus == 200 and not BereqURL",
        "{1}RespStatus >= 400",
        "VCL_call eq SYNTH",
        "Timestamp:Resp[2] > 0.0",
        "ReqHeader:X-Multi",
        "*Header:content-length > 5",
        "VCL_Log:key eq value",
        "RespStatus != 200 or Hit",
        "ReqMethod ne GET",
    ];
    for query in queries {
        let mut command = Command::new("varnishlog");
        command.arg("-r").arg(&RECORDINGS.everyday).args(["-g", "vxid", "-c", "-q", query, "-i", "Begin"]);
        let output = command.stdin(Stdio::null()).output().expect("it is installed");
        let stock: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| line.starts_with("*   << Request  >>"))
            .filter_map(|line| line.split_whitespace().last().map(str::to_owned))
            .collect();
        let output = ours(&["-q", query, "-F", "%{Varnish:vxid}x"]);
        let ours: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        assert!(!ours.is_empty(), "{query} is true of some");
        // What ended in a restart has no line.
        let missing: Vec<_> = ours.iter().filter(|vxid| !stock.contains(vxid)).collect();
        assert!(missing.is_empty(), "{query}: {missing:?} of {stock:?}");
    }
}

#[test]
fn wrong_queries_are_refused_in_the_same_words() {
    let queries = [
        "ReqURL foo",
        "Nope",
        "Req",
        "ReqURL ~ 'a",
        "ReqURL ~ 'a('",
        "ReqURL\t==\tx",
        "(ReqURL",
        "vxid == 1.5",
        "{1ReqURL",
        "ReqURL $",
        "ReqURL$",
        "ReqURL[x]",
        "ReqURL[1",
        "ReqURL:",
        "vxid",
        "vxid,vxid == 1",
        "{1}vxid == 1",
        "ReqURL == 1.x",
        "a,",
        "not not ReqURL",
        "ReqURL)",
        "ReqURL and",
        "ReqURL\n(",
        "{-1}ReqURL",
        "ReqURL eq",
        "ReqURL ~",
        "ReqURL 'a\\",
        "R*q*",
        "ReqURL ~ 'x\\\n'",
        "ReqURL ~ '(*FOO)a'",
        "\"\"",
        "# nothing",
        "ReqURL == ''",
        "ReqURL[0]",
        "{0x}ReqURL",
    ];
    compare(queries.map(|query| vec!["-q", query]));
}
