//! varnishncsa's command line: options in the order in which they stand, with its messages for what is wrong.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use kafkalog::query::{duration, varnish_number};
use kafkalog::transaction::{Grouping, Limits};
use lexopt::Arg;

/// varnishncsa's own default.
const FORMAT: &str = "%h %l %u %t \"%r\" %s %b \"%{Referer}i\" \"%{User-agent}i\"";

/// Options with an argument have a colon behind them (getopt(3)).
const OPTIONS: &str = "abcCdDEF:f:g:hjk:L:n:N:P:Q:q:r:R:t:T:vVw:";

/// What `-h` shows.
const USAGE: [(&str, &str); 26] = [
    ("[-a]", "Append to file"),
    ("[-b]", "Backend mode"),
    ("[-c]", "Client mode"),
    ("[-C]", "Caseless regular expressions"),
    ("[-d]", "Process old log entries and exit"),
    ("[-D]", "Daemonize"),
    ("[-E]", "Show ESI requests"),
    ("[-F <format>]", "Set output format"),
    ("[-f <formatfile>]", "Read output format from file"),
    ("[-g <request|vxid>]", "Grouping mode (default: vxid)"),
    ("[-h]", "Usage help"),
    ("[-j]", "Make output JSON-compatible"),
    ("[-k <num>]", "Limit transactions"),
    ("[-L <limit>]", "Incomplete transaction limit"),
    ("[-n <dir>]", "varnishd working directory"),
    ("[-N <file>]", "No effect: once the VSM file"),
    ("[-P <file>]", "PID file"),
    ("[-Q <file>]", "VSL query file"),
    ("[-q <query>]", "VSL query"),
    ("[-r <filename>]", "Binary file input"),
    ("[-R <limit[/duration]>]", "Output rate limit"),
    ("[-t <seconds|off>]", "VSM connection timeout"),
    ("[-T <seconds>]", "Transaction end timeout"),
    ("[-v]", "No effect: for varnishlog"),
    ("[-V]", "Version"),
    ("[-w <filename>]", "Output filename"),
];

/// Why there is nothing to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Something was asked that is answered on standard output.
    Answer(String),
    /// `-h`: the usage on standard error, and status 0.
    Help(String),
    /// Something is wrong: the message for standard error, and status 1.
    Wrong(String),
}

/// How many transactions at the most, in what time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RateLimit {
    pub(super) transactions: f64,
    pub(super) seconds: f64,
}

#[derive(Debug)]
pub(super) struct Options {
    pub(super) append: bool,
    pub(super) backend: bool,
    pub(super) client: bool,
    pub(super) any_case: bool,
    pub(super) head: bool,
    pub(super) daemon: bool,
    pub(super) esi: bool,
    pub(super) format: String,
    pub(super) grouping: Grouping,
    pub(super) json: bool,
    /// Sets to write before the end; none for all.
    pub(super) count: Option<u64>,
    pub(super) limits: Limits,
    pub(super) instance: Option<PathBuf>,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) query: Option<String>,
    pub(super) recording: Option<PathBuf>,
    pub(super) rate: Option<RateLimit>,
    /// How long to wait for varnishd; none for ever.
    pub(super) wait: Option<Duration>,
    /// None for standard output.
    pub(super) output: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments behind the program's name.
    pub(super) fn parse(program: &str, arguments: impl Iterator<Item = OsString>) -> Result<Self, Exit> {
        let arguments: Vec<OsString> = arguments.collect();
        if let [only] = arguments.as_slice()
            && let Some(text) = only.to_str().and_then(about)
        {
            return Err(Exit::Answer(text));
        }
        let mut reader = Reader { program, options: Self::default(), format: None, sides: false };
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) =
            parser.next().map_err(|error| reader.wrong_usage(&format!("{program}: {error}\n")))?
        {
            let Arg::Short(letter) = argument else { return Err(reader.wrong_usage("")) };
            let place = OPTIONS
                .find(letter)
                .filter(|_| letter != ':')
                .ok_or_else(|| reader.wrong_usage(&format!("{program}: invalid option -- '{letter}'\n")))?;
            if OPTIONS.as_bytes().get(place + 1) == Some(&b':') {
                let value = parser.value().map_err(|_| {
                    reader.wrong_usage(&format!("{program}: option requires an argument -- '{letter}'\n"))
                })?;
                reader.option(letter, &value)?;
            } else {
                reader.flag(letter)?;
            }
        }
        reader.finish()
    }
}

/// What manual pages are made of and shells complete by: hidden options that must stand alone.
fn about(option: &str) -> Option<String> {
    match option {
        "--optstring" => Some(format!("{OPTIONS}\n")),
        "--synopsis" => {
            let options: Vec<_> = USAGE.iter().map(|(option, _)| *option).collect();
            Some(format!(".. |synopsis| replace::  {}\n", options.join(" ")))
        }
        "--options" => {
            let bare = |option: &'static str| option.trim_start_matches('[').strip_suffix(']').unwrap_or(option);
            Some(USAGE.iter().map(|(option, meaning)| format!("{}\n\n\t{meaning}\n\n", bare(option))).collect())
        }
        _ => None,
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            append: false,
            backend: false,
            client: false,
            any_case: false,
            head: false,
            daemon: false,
            esi: false,
            format: String::new(),
            grouping: Grouping::Vxid,
            json: false,
            count: None,
            limits: Limits { transactions: 1000, timeout: Duration::from_secs(120) },
            instance: None,
            pid_file: None,
            query: None,
            recording: None,
            rate: None,
            wait: Some(Duration::from_secs(5)),
            output: None,
        }
    }
}

/// What has been read of the arguments.
struct Reader<'a> {
    program: &'a str,
    options: Options,
    format: Option<String>,
    /// One of `-b`, `-c` and `-E` was there.
    sides: bool,
}

impl Reader<'_> {
    fn usage(&self) -> String {
        let mut text = format!("Usage: {} <options>\n\nOptions:\n", self.program);
        for (option, meaning) in USAGE {
            text.push_str(&format!(" {option:<25} {meaning}\n"));
        }
        text
    }

    fn wrong_usage(&self, why: &str) -> Exit {
        Exit::Wrong(format!("{why}{}", self.usage()))
    }

    fn flag(&mut self, letter: char) -> Result<(), Exit> {
        let Self { options, sides, .. } = self;
        match letter {
            'a' => options.append = true,
            'b' => (options.backend, *sides) = (true, true),
            'c' => (options.client, *sides) = (true, true),
            'E' => (options.client, options.esi, *sides) = (true, true, true),
            'C' => options.any_case = true,
            'd' => options.head = true,
            'D' => options.daemon = true,
            'h' => return Err(Exit::Help(self.usage())),
            'j' => options.json = true,
            'V' => return Err(Exit::Answer(version(self.program))),
            // Hidden in varnishncsa, where it has no effect.
            _ => {}
        }
        Ok(())
    }

    fn option(&mut self, letter: char, value: &OsStr) -> Result<(), Exit> {
        let options = &mut self.options;
        match letter {
            'F' | 'f' if self.format.is_some() => return wrong("Format already set"),
            'F' => self.format = Some(utf8("-F", value)?),
            'f' => self.format = Some(read_format(value)?),
            'g' => options.grouping = grouping(&utf8("-g", value)?)?,
            'k' => match value.to_str().map(str::parse) {
                Some(Ok(count @ 1..=0x7fff_ffff)) => options.count = Some(count),
                _ => return wrong(format!("-k: Invalid number '{}'", value.display())),
            },
            'L' => options.limits.transactions = limit(&utf8("-L", value)?)?,
            'n' => options.instance = Some(value.into()),
            'P' => options.pid_file = Some(value.into()),
            'Q' => {
                let text = fs::read_to_string(value)
                    .map_err(|error| Exit::Wrong(format!("-Q {}: {}\n", value.display(), strerror(&error))))?;
                add_query(&mut options.query, &text);
            }
            'q' => add_query(&mut options.query, &utf8("-q", value)?),
            'r' => options.recording = Some(value.into()),
            'R' => options.rate = Some(rate(&utf8("-R", value)?)?),
            't' => options.wait = wait(&utf8("-t", value)?)?,
            'T' => match varnish_number(utf8("-T", value)?.as_bytes()) {
                Some(seconds) if seconds >= 0.0 => options.limits.timeout = Duration::from_secs_f64(seconds),
                Some(_) => return wrong("-T: Range error"),
                None => return wrong("-T: Syntax error"),
            },
            'w' => options.output = Some(value.into()),
            // -N
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Options, Exit> {
        let Self { mut options, format, sides, .. } = self;
        options.client |= !sides;
        let is_dash = |path: &Option<PathBuf>| path.as_deref().is_some_and(|path| path == "-");
        if options.daemon && options.output.is_none() {
            return wrong("Missing -w option");
        }
        if options.daemon && is_dash(&options.output) {
            return wrong("Daemon cannot write to stdout");
        }
        if options.grouping == Grouping::Session {
            return wrong("Invalid grouping mode: session");
        }
        if is_dash(&options.output) {
            options.output = None;
        }
        options.format = format.unwrap_or_else(|| FORMAT.to_owned());
        if options.instance.is_some() && options.recording.is_some() {
            return wrong("Only one of -n and -r options may be used");
        }
        if options.daemon && is_dash(&options.recording) {
            return wrong("Daemon cannot read from stdin");
        }
        Ok(options)
    }
}

fn wrong<T>(message: impl Into<String>) -> Result<T, Exit> {
    Err(Exit::Wrong(message.into() + "\n"))
}

/// The system's words for an error.
pub(super) fn strerror(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn version(program: &str) -> String {
    format!("{program} (kafkalog {}, for varnish-{})\n", env!("CARGO_PKG_VERSION"), kafkalog::log::VARNISH_VERSION)
}

fn utf8(option: &str, value: &OsStr) -> Result<String, Exit> {
    match value.to_str() {
        Some(value) => Ok(value.to_owned()),
        None => wrong(format!("{option}: not UTF-8: {}", value.display())),
    }
}

fn read_format(path: &OsStr) -> Result<String, Exit> {
    let fail = |what: &str, error: io::Error| Exit::Wrong(format!("{what} ({})\n", strerror(&error)));
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::IsADirectory => fail("Can't read format from file", error),
        _ => fail("Can't open format file", error),
    })?;
    match text.split_inclusive('\n').next() {
        Some(line) => Ok(line.strip_suffix('\n').unwrap_or(line).to_owned()),
        None => wrong("Empty format file"),
    }
}

fn grouping(name: &str) -> Result<Grouping, Exit> {
    let known = [
        ("raw", None),
        ("vxid", Some(Grouping::Vxid)),
        ("request", Some(Grouping::Request)),
        ("session", Some(Grouping::Session)),
    ];
    let begins = |full: &str| full.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let mut found = known.iter().filter(|(full, _)| begins(full));
    match (found.next(), found.next()) {
        (Some((_, Some(grouping))), None) => Ok(*grouping),
        (Some((full, None)), None) => wrong(format!("Invalid grouping mode: {full}")),
        (Some(_), Some(_)) => wrong(format!("Ambiguous grouping type: {name}")),
        (None, _) => wrong(format!("Unknown grouping type: {name}")),
    }
}

fn limit(text: &str) -> Result<usize, Exit> {
    match text.trim_ascii().parse::<i64>() {
        Ok(number @ 1..=0x7fff_ffff) => Ok(number as usize),
        Ok(_) => wrong("-L: Range error"),
        Err(_) => wrong("-L: Syntax error"),
    }
}

fn rate(text: &str) -> Result<RateLimit, Exit> {
    let digits = text.len() - text.trim_start_matches(|character: char| character.is_ascii_digit()).len();
    let (number, rest) = text.split_at(digits);
    let transactions = match number.parse::<u32>() {
        Ok(number @ 1..=0x7fff_ffff) => f64::from(number),
        _ => return wrong("-R: Range error"),
    };
    let seconds = match rest.strip_prefix('/') {
        None if rest.is_empty() => 1.0,
        None | Some("") => return wrong("-R: Syntax error"),
        Some(period) => {
            let one = if period.starts_with(|character: char| character.is_ascii_digit()) { "" } else { "1" };
            match duration(format!("{one}{period}").as_bytes()) {
                Some(seconds) if seconds > 0.0 => seconds,
                _ => return wrong("-R: Syntax error: Invalid duration"),
            }
        }
    };
    Ok(RateLimit { transactions, seconds })
}

fn wait(text: &str) -> Result<Option<Duration>, Exit> {
    if text == "off" {
        return Ok(None);
    }
    match varnish_number(text.as_bytes()) {
        Some(seconds) if seconds >= 0.0 => Ok(Some(Duration::from_secs_f64(seconds))),
        _ => wrong(format!("-t: Invalid argument: {text}")),
    }
}

fn add_query(query: &mut Option<String>, text: &str) {
    match query {
        None => *query = Some(text.to_owned()),
        Some(query) => {
            query.push('\n');
            query.push_str(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Options, Exit> {
        Options::parse("varnishncsa", arguments.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        let options = parse("-bc -Ejd -w- -q ReqURL -qBereqURL -R 10/2m -t off -L 7 -g req").expect("they are right");
        assert!(options.backend && options.client && options.esi && options.json && options.head);
        assert_eq!((options.output, options.wait, options.limits.transactions), (None, None, 7));
        assert_eq!(options.query.as_deref(), Some("ReqURL\nBereqURL"));
        assert_eq!(options.rate, Some(RateLimit { transactions: 10.0, seconds: 120.0 }));
        assert_eq!(options.grouping, Grouping::Request);
        let options = parse("").expect("all have defaults");
        assert!(options.client && !options.backend && !options.esi);
        assert!(parse("-b").is_ok_and(|options| options.backend && !options.client));
    }

    #[test]
    fn manual_pages_can_be_made_of_what_it_tells() {
        let answer = |option| match parse(option) {
            Err(Exit::Answer(text)) => text,
            other => panic!("{option}: {other:?}"),
        };
        assert!(answer("--optstring").starts_with("abcCdDEF:"));
        assert!(answer("--synopsis").starts_with(".. |synopsis| replace::  [-a] [-b] "));
        assert!(answer("--options").contains("\n-F <format>\n\n\tSet output format\n\n-f <formatfile>\n"));
        assert!(parse("-a --synopsis").is_err());
        for (option, _) in USAGE {
            let letter = option.chars().nth(2).expect("as in [-a]");
            let place = OPTIONS.find(letter).expect("getopt knows it");
            assert_eq!(option.contains('<'), OPTIONS[place + 1..].starts_with(':'), "{option}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_as_varnishncsa_says_it() {
        for (arguments, message) in [
            ("-n x -r y", "Only one of -n and -r options may be used\n"),
            ("-F a -F b", "Format already set\n"),
            ("-D", "Missing -w option\n"),
            ("-D -w -", "Daemon cannot write to stdout\n"),
            ("-D -w x -r -", "Daemon cannot read from stdin\n"),
            ("-g raw", "Invalid grouping mode: raw\n"),
            ("-g s", "Invalid grouping mode: session\n"),
            ("-g x", "Unknown grouping type: x\n"),
            ("-L 0", "-L: Range error\n"),
            ("-L x", "-L: Syntax error\n"),
            ("-R 0", "-R: Range error\n"),
            ("-R 5x", "-R: Syntax error\n"),
            ("-R 5/q", "-R: Syntax error: Invalid duration\n"),
            ("-t x", "-t: Invalid argument: x\n"),
            ("-k 0", "-k: Invalid number '0'\n"),
            ("-Q /nonexistent", "-Q /nonexistent: No such file or directory\n"),
            ("-f /nonexistent", "Can't open format file (No such file or directory)\n"),
        ] {
            assert_eq!(parse(arguments).map(drop), Err(Exit::Wrong(message.to_owned())), "{arguments}");
        }
        for (arguments, begin) in [
            ("-z", "varnishncsa: invalid option -- 'z'\nUsage: varnishncsa <options>\n\nOptions:\n [-a]  "),
            ("-q", "varnishncsa: option requires an argument -- 'q'\nUsage:"),
            ("x", "Usage: "),
        ] {
            let Err(Exit::Wrong(text)) = parse(arguments) else { panic!("{arguments}") };
            assert!(text.starts_with(begin), "{text}");
        }
        assert!(matches!(parse("-h"), Err(Exit::Help(_))));
        assert!(matches!(parse("-V"), Err(Exit::Answer(text)) if text.starts_with("varnishncsa (kafkalog ")));
    }
}
