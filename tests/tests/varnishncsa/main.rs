//! `kafkalog ncsa` beside the installed varnishncsa, over one recording of everything that a log program may stumble over
//! ([`oddities`]): the same bytes on standard output and standard error, and the same exit status. Where the stock
//! program falls over, the tests say what ours does instead.

mod queries;

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use kafkalog_tests::oddities::{self, Recordings};
use kafkalog_tests::programs::Programs;
use tempfile::TempDir;

/// The recordings, made once; their directory goes with the target directory.
static RECORDINGS: LazyLock<Recordings> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oddities");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the target directory can be written to");
    oddities::record(&directory).unwrap_or_else(|error| panic!("recording: {error:#}"))
});

static KAFKALOG: LazyLock<PathBuf> = LazyLock::new(|| Programs::build().expect("the programs can be built").kafkalog());

fn stock(arguments: &[&str]) -> Output {
    run(Command::new("varnishncsa"), arguments)
}

fn ours(arguments: &[&str]) -> Output {
    let mut command = Command::new(&*KAFKALOG);
    command.arg("ncsa");
    run(command, arguments)
}

fn run(mut command: Command, arguments: &[&str]) -> Output {
    command.arg("-r").arg(&RECORDINGS.everyday).args(arguments).stdin(Stdio::null());
    // Times are shown in this zone, which has half hours.
    command.env("TZ", "Asia/Kolkata").output().expect("it is installed")
}

/// The first difference between what two programs print, if there is one.
fn difference(stock: &Output, ours: &Output) -> Option<String> {
    if stock.status != ours.status {
        return Some(format!("varnishncsa ended with {}, kafkalog with {}", stock.status, ours.status));
    }
    let message = |output: &Output| String::from_utf8_lossy(&output.stderr).replace("kafkalog ncsa", "varnishncsa");
    if message(stock) != message(ours) {
        return Some(format!("varnishncsa says:\n{}kafkalog says:\n{}", message(stock), message(ours)));
    }
    let lines = |output: &Output| output.stdout.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (stock, ours) = (lines(stock), lines(ours));
    if stock == ours {
        return None;
    }
    let same = stock.iter().zip(&ours).take_while(|(stock, ours)| stock == ours).count();
    let show = |lines: &[Vec<u8>]| lines.get(same).map_or("nothing".into(), |line| line.escape_ascii().to_string());
    Some(format!(
        "line {} of {} and {}:\n  varnishncsa: {}\n  kafkalog:    {}",
        same + 1,
        stock.len(),
        ours.len(),
        show(&stock),
        show(&ours)
    ))
}

/// Runs both with each of these argument lists, and tells all differences at once.
fn compare<'a>(cases: impl IntoIterator<Item = Vec<&'a str>>) -> Vec<Output> {
    let mut differences = String::new();
    let mut outputs = Vec::new();
    for arguments in cases {
        let (stock, ours) = (stock(&arguments), ours(&arguments));
        if let Some(difference) = difference(&stock, &ours) {
            let _ = writeln!(differences, "{arguments:?}: {difference}");
        }
        outputs.push(stock);
    }
    assert!(differences.is_empty(), "{differences}");
    outputs
}

/// Every specifier, in pieces that stay readable when they differ.
const FORMATS: [&str; 13] = [
    r#"%h %l %u %t "%r" %s %b "%{Referer}i" "%{User-agent}i""#,
    "%b|%D|%h|%H|%I|%l|%m|%O|%q|%s|%T|%U",
    "%{sec}t %{msec}t %{usec}t %{msec_frac}t %{usec_frac}t %{%s %F %T %z %Z}t %{s}T %{ms}T %{us}T",
    "%{%a %A %b %B %C %d %D %e %g %G}t %{%h %H %I %j %k %l %m %M %p %P %r %R}t",
    "%{%S %u %U %V %w %W %y %Y %%}t %{%c}t %{%x %X}t",
    "%{%Ey %OH %-d %_d %0e %^a %Q}t",
    "%{X-Multi}i|%{x-multi}i|%{X-Empty}i|%{Host2}i|%{X-Gone}i|%{X-Set}i|%{Host}i|%{}i|%{No}i",
    "%{Multi}o|%{X-R}o|%{Empty}o|%{Via}o|%{Content-Type}o",
    "%{Varnish:time_firstbyte}x %{Varnish:hitmiss}x %{Varnish:handling}x %{Varnish:side}x %{Varnish:vxid}x",
    "%{VCL_Log:key}x|%{VCL_Log:KEY}x|%{VCL_Log:empty}x|%{VCL_Log:no}x",
    "%{VSL:Begin}x|%{VSL:End}x|%{VSL:Link}x|%{VSL:Timestamp:Mine[1]}x|%{VSL:TTL[3]}x|%{VSL:VCL_call}x|%{VSL:RespRea}x",
    "%{VSL:ReqAcct[6]}x|%{VSL:ReqHeader:X-Multi}x|%{VSL:ReqHeader}x|%{VSL:BereqHeader:X-Backend[1]}x|%{VSL:VSL}x|%{VSL:Hit}x",
    r"a\tb\nc\\d\q%s\",
];

#[test]
fn every_format_gives_the_same_lines() {
    let options: [&[&str]; 9] = [
        &[],
        &["-b"],
        &["-b", "-c"],
        &["-E"],
        &["-bE"],
        &["-j"],
        &["-jbE"],
        &["-g", "request"],
        &["-g", "request", "-jb"],
    ];
    let cases = options.iter().flat_map(|options| FORMATS.map(|format| [options, &["-F", format][..]].concat()));
    for output in compare(cases) {
        let message = String::from_utf8_lossy(&output.stderr);
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        assert!(lines > 100, "there are {lines} lines to compare: {message}");
    }
    compare([vec![], vec!["-j", "-F", "%{VSL:Debug}x %{VSL:Hash}x %{VSL:H2RxHdr}x"]]);
}

#[test]
fn wrong_formats_and_options_are_refused_in_the_same_words() {
    let formats = [
        "%Z",
        "%{x",
        "%{x}Z",
        "%",
        "%{ns}T",
        "%{Foo}x",
        "%{VSL:}x",
        "%{VSL:Nope}x",
        "%{VSL:Req}x",
        "%{VSL:ReqURL[0]}x",
        "%{VSL:ReqURL[x]}x",
        "%{VSL:ReqURL[]}x",
        "%{VSL:ReqURL[1}x",
        "%{VSL:Debug}x",
        "%{VSL:ReqURL]}x",
        "%{X}b",
        "%n",
        "%{Kafkalog:salt_id}x",
        "%s %",
        "%{a{b}i",
    ];
    compare(formats.map(|format| vec!["-F", format]));
    let options: [&[&str]; 24] = [
        &["-F", "a", "-F", "b"],
        &["-F", "a", "-f", "b"],
        &["-f", "/nonexistent"],
        &["-f", "/dev/null"],
        &["-n", "x"],
        &["-D"],
        &["-D", "-w", "-"],
        &["-D", "-w", "/dev/null", "-r", "-"],
        &["-g", "raw"],
        &["-g", "s"],
        &["-g", "x"],
        &["-L", "0"],
        &["-L", "x"],
        &["-R", "0"],
        &["-R", "x"],
        &["-R", "5/q"],
        &["-R", "5x"],
        &["-R", "5/"],
        &["-Q", "/nonexistent"],
        &["-w", "/nonexistent/x"],
        &["-P", "/nonexistent/x"],
        &["-r", "/nonexistent"],
        &["-r", "/etc/passwd"],
        &["-q", ""],
    ];
    compare(options.map(<[&str]>::to_vec));
    // The usage names options that varnishncsa of this version has not.
    for arguments in [&["-z"][..], &["-q"], &["word"]] {
        let (stock, ours) = (stock(arguments), ours(arguments));
        let first = |output: &Output| {
            let text = String::from_utf8_lossy(&output.stderr).replace("kafkalog ncsa", "varnishncsa");
            text.lines().next().map(str::to_owned)
        };
        assert_eq!((stock.status, first(&stock)), (ours.status, first(&ours)), "{arguments:?}");
    }
}

#[test]
fn limits_give_up_the_same_transactions() {
    let format = "%{Varnish:vxid}x %{VSL:VSL}x %{VSL:End}x";
    let limits = ["1", "2", "3", "5", "10"].map(|limit| vec!["-L", limit, "-bE", "-F", format]);
    compare(limits);
    // With larger sets, varnishncsa counts a transaction when its first batch is there, kafkalog when it begins: only a limit
    // that is seldom met is met alike.
    compare([vec!["-g", "request", "-L", "60", "-F", format]]);
}

#[test]
fn output_goes_to_files_as_it_does() {
    let directory = TempDir::new().unwrap();
    let texts = [stock, ours].map(|program| {
        let file = directory.path().join("log");
        let pid_file = directory.path().join("pid");
        std::fs::write(&file, "before\n").unwrap();
        let arguments = ["-a", "-w", file.to_str().unwrap(), "-P", pid_file.to_str().unwrap()];
        assert!(program(&arguments).stdout.is_empty());
        assert!(!pid_file.exists(), "the pid file is removed at the end");
        let appended = std::fs::read(&file).unwrap();
        program(&arguments[1..3]);
        assert!(appended.starts_with(b"before\n") && appended.len() == std::fs::read(&file).unwrap().len() + 7);
        appended
    });
    assert!(texts[0] == texts[1]);
    let format = directory.path().join("format");
    std::fs::write(&format, "%s %U\nignored\n").unwrap();
    compare([vec!["-f", format.to_str().unwrap()]]);
}

/// What varnishncsa 7.1 aborts on, or gets wrong, and what is right instead.
#[test]
fn what_the_stock_program_falls_over_is_done_right() {
    let long = format!("%{{{}}}i|%s", "X".repeat(300));
    let long_time = format!("%{{{}}}t", "%Y".repeat(40));
    for (format, begin) in [(long.as_str(), "-|"), ("%{}t|%s", "["), (&long_time, "2"), ("%{%n}t|", "\\n|")] {
        let (stock, ours) = (stock(&["-F", format]), ours(&["-F", format]));
        let begins = ours.stdout.starts_with(begin.as_bytes());
        assert!(ours.status.success() && begins, "{format}: {}", ours.stdout.escape_ascii());
        if format != "%{%n}t|" {
            assert!(stock.status.signal().is_some(), "varnishncsa has learned to do {format}: {}", stock.status);
        }
    }
    // Credentials that decode to more than 127 bytes: it shows no user.
    let shown =
        |output: Output| -> Vec<usize> { String::from_utf8_lossy(&output.stdout).lines().map(str::len).collect() };
    let recording = RECORDINGS.hostile.to_str().unwrap();
    let arguments = ["-r", recording, "-F", "%u", "-q", "ReqHeader:Authorization"];
    let (stock, ours) = (shown(stock(&arguments)), shown(ours(&arguments)));
    assert_eq!(stock.len(), ours.len());
    let alike = stock.iter().zip(&ours).filter(|(stock, ours)| stock == ours).count();
    assert!(alike > 5, "{stock:?} {ours:?}");
    assert!(ours.iter().filter(|length| (128..=256).contains(*length)).count() >= 2, "{ours:?}");
}

#[test]
fn a_damaged_recording_is_told_of() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("cut");
    let recording = std::fs::read(&RECORDINGS.everyday).unwrap();
    std::fs::write(&path, &recording[..recording.len() / 2 / 4 * 4 + 2]).unwrap();
    let cut = ["-r", path.to_str().unwrap()];
    let (stock, ours) = (stock(&cut), ours(&cut));
    assert_eq!(stock.stdout, ours.stdout, "the lines up to there are the same");
    assert!(stock.status.success() && stock.stderr.is_empty(), "varnishncsa does not tell");
    let message = String::from_utf8_lossy(&ours.stderr).into_owned();
    assert!(ours.status.code() == Some(1) && message.contains("is damaged at byte"), "{message}");
}
