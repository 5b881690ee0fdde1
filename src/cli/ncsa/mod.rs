//! `kafkalog ncsa`, and the program by the name `varnishncsa`: its command line, and its output byte for byte.
//!
//! Unlike the streams it hashes no address: what it writes stays where the administrator puts it, as before.

mod options;
mod output;
mod pid_file;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kafkalog::counters::Counters;
use kafkalog::engine::raise_priority;
use kafkalog::format::{Context, Program, Timestamp, request_start};
use kafkalog::log::{self, Event, LogError, LogSource, Pace, Read, Recording, Side, Start};
use kafkalog::query::{Query, QueryError, TestTable};
use kafkalog::transaction::{Assembler, CaptureId, CaptureTable, Interest, Set, Sets};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use options::{Exit, Options, RateLimit, strerror};
use output::Output;
use pid_file::PidFile;

/// At the end, how long what is still in the log is read.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// How often varnishd is looked for that is not there.
const LOOK: Duration = Duration::from_millis(100);

/// Runs as `program` with the arguments behind its name. Exit status 0, or 1 with the reason on standard error.
pub(super) fn main(program: &str, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let text = match Options::parse(program, arguments).and_then(|options| run(&options)) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Exit::Answer(text)) => {
            // Whoever closed standard output does not want it.
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(Exit::Help(text)) => {
            let _ = io::stderr().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(Exit::Wrong(text)) => text,
    };
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::FAILURE
}

/// Tells the user, on standard error; nothing can be done if that is closed.
fn say(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}

fn wrong(message: impl std::fmt::Display) -> Exit {
    Exit::Wrong(format!("{message}\n"))
}

fn run(options: &Options) -> Result<(), Exit> {
    let mut table = CaptureTable::default();
    let mut tests = TestTable::default();
    let start = table.intern(request_start());
    let program =
        Program::varnishncsa(&options.format, options.json, &mut table).map_err(|error| wrong(error.varnishncsa))?;
    let signals = Signals::catch().map_err(|error| wrong(format_args!("Signals: {}", strerror(&error))))?;
    let output = Output::open(options.output.as_deref(), options.append)
        .map_err(|error| wrong(format_args!("Can't open output file ({})", strerror(&error))))?;
    let query = options.query.as_deref().map(|query| Query::compile(query, options.any_case, &mut tests));
    let query = query.transpose().map_err(|error| wrong(complaint(&error)))?;
    let interest = Interest {
        client: options.client,
        backend: options.backend,
        esi: options.esi,
        // varnishncsa sees such records only with -j.
        garbage: !options.json,
        sets: Sets::default().with(options.grouping),
    };
    let assembler = Assembler::new(&table, &tests, interest, options.limits);
    let assembler = match &query {
        Some(query) => assembler.deferring(&tests, vec![query.clone()]),
        None => assembler,
    };
    let lines = Lines { program, start, query, rate: options.rate.map(Rate::new), left: options.count, output };
    let logger = Logger { assembler, lines, counters: Counters::new(0), is_daemon: options.daemon, signals };
    match &options.recording {
        Some(path) => {
            let mut recording = Recording::open(path).map_err(|error| wrong(describe(&error)))?;
            let _pid_file = go_to_background(options)?;
            logger.read_recording(&mut recording)
        }
        None => {
            let directory = super::instance_directory(options.instance.as_deref());
            let source = logger.await_varnishd(&directory, options)?;
            let _pid_file = go_to_background(options)?;
            logger.read_live(source, options)
        }
    }
}

/// Writes the pid file, and goes to the background first if asked.
fn go_to_background(options: &Options) -> Result<Option<PidFile>, Exit> {
    let mut pid_file = match &options.pid_file {
        Some(path) => {
            Some(PidFile::open(path).map_err(|error| wrong(format_args!("{}: {}", path.display(), strerror(&error))))?)
        }
        None => None,
    };
    if options.daemon {
        kafkalog_ffi::process::daemon().map_err(|error| wrong(format_args!("Daemon mode: {}", strerror(&error))))?;
    }
    if let Some(pid_file) = &mut pid_file {
        pid_file.write().map_err(|error| wrong(format_args!("PID file: {}", strerror(&error))))?;
    }
    Ok(pid_file)
}

/// An error of the log, in varnishncsa's words where it has some.
fn describe(error: &LogError) -> String {
    match error {
        LogError::Io { doing: "opening", path, source } => {
            format!("Cannot open {}: {}", path.display(), strerror(source))
        }
        LogError::UnknownLayout { path, .. } => format!("Not a VSL file: {}", path.display()),
        other => other.to_string(),
    }
}

/// What varnishncsa says of a query that it does not understand.
fn complaint(error: &QueryError) -> String {
    let end = if error.place.is_some() { "\n" } else { "" };
    format!("Query expression error:\n{error}{end}")
}

/// Signals that have come.
struct Signals {
    stop: Arc<AtomicBool>,
    rotate: Arc<AtomicBool>,
    flush: Arc<AtomicBool>,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let flag = |signals: &[i32]| {
            let flag = Arc::new(AtomicBool::new(false));
            for signal in signals {
                signal_hook::flag::register(*signal, Arc::clone(&flag))?;
            }
            io::Result::Ok(flag)
        };
        Ok(Self { stop: flag(&[SIGINT, SIGTERM])?, rotate: flag(&[SIGHUP])?, flush: flag(&[SIGUSR1])? })
    }
}

/// The rate limit: credit for transactions that grows with time.
struct Rate {
    limit: RateLimit,
    credit: f64,
    last: Instant,
}

impl Rate {
    fn new(limit: RateLimit) -> Self {
        Self { limit, credit: 1.0, last: Instant::now() }
    }

    fn allows(&mut self) -> bool {
        let now = Instant::now();
        let passed = now.duration_since(self.last).as_secs_f64();
        let RateLimit { transactions, seconds } = self.limit;
        self.credit = (self.credit + passed / seconds * transactions).min(transactions);
        self.last = now;
        let allows = self.credit >= 1.0;
        if allows {
            self.credit -= 1.0;
        }
        allows
    }
}

/// From sets of transactions to lines.
struct Lines {
    program: Program,
    start: CaptureId,
    query: Option<Query>,
    rate: Option<Rate>,
    /// Sets that may still be written; none for all.
    left: Option<u64>,
    output: Output,
}

impl Lines {
    fn set(&mut self, set: &Set<'_>) {
        if self.left == Some(0)
            || self.query.as_ref().is_some_and(|query| !query.holds(set.members()))
            || self.rate.as_mut().is_some_and(|rate| !rate.allows())
        {
            return;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        for transaction in set.transactions() {
            let start = transaction.value(self.start).and_then(Timestamp::parse);
            if transaction.side == Side::None || transaction.left_out || (start.is_none() && self.program.needs_start())
            {
                continue;
            }
            let context = Context { transaction: &transaction, sequence: 0, start, anonymizer: None };
            let program = &mut self.program;
            // What fails has been said and counted, and shows again at the end.
            let _ = self.output.line(|line| {
                program.render(&context, line);
            });
        }
    }
}

struct Logger {
    assembler: Assembler,
    lines: Lines,
    counters: Counters,
    is_daemon: bool,
    signals: Signals,
}

impl Logger {
    fn is_done(&self) -> bool {
        self.signals.stop.load(Ordering::Relaxed) || self.lines.left == Some(0)
    }

    fn feed(&mut self, records: log::Records<'_>) {
        let Self { assembler, lines, counters, .. } = self;
        assembler.run(records, Instant::now(), None, counters, |set| lines.set(set));
    }

    /// Does what signals ask for. `false` to end.
    fn obey(&mut self) -> bool {
        let Self { assembler, lines, counters, signals, is_daemon } = self;
        if signals.rotate.swap(false, Ordering::Relaxed) {
            if !*is_daemon {
                return false;
            }
            if let Err(error) = lines.output.rotate() {
                say(&format!("Can't open output file ({}); going on with the old one", strerror(&error)));
            }
        }
        if signals.flush.swap(false, Ordering::Relaxed) {
            assembler.give_up_all(counters, |set| lines.set(set));
        }
        !self.is_done()
    }

    fn read_recording(mut self, recording: &mut Recording) -> Result<(), Exit> {
        recording.select(self.assembler.wanted());
        let result = loop {
            if !self.obey() {
                break Ok(());
            }
            match recording.read() {
                Ok(Read::Records(records)) => self.feed(records),
                Ok(Read::Idle | Read::Event(_)) => {}
                // Transactions that have not ended are not shown.
                Ok(Read::End) => break Ok(()),
                Err(error) => break Err(wrong(describe(&error))),
            }
            if self.lines.output.lost() > 0 {
                break Ok(());
            }
        };
        self.finish().and(result)
    }

    /// Writes what is left.
    fn finish(mut self) -> Result<(), Exit> {
        let overruns = self.counters.overruns.get();
        if overruns > 0 {
            let segments = self.counters.overrun_segments.get();
            say(&format!(
                "Log overruns: {overruns}, segments skipped: {segments} (the log has 8; varnishd -l makes it larger)"
            ));
        }
        match self.lines.output.flush() {
            // Whoever reads has had enough: `… | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(wrong(strerror(&error))),
            Ok(()) if self.lines.output.lost() > 0 => {
                Err(wrong(format_args!("lines lost: {}", self.lines.output.lost())))
            }
            Ok(()) => Ok(()),
        }
    }

    /// The log of the varnishd in this directory, once it is there; `None` when told to stop before.
    fn await_varnishd(&self, directory: &Path, options: &Options) -> Result<Option<Box<dyn LogSource>>, Exit> {
        let deadline = options.wait.map(|wait| Instant::now() + wait);
        let mut start = if options.head { Start::Head } else { Start::Tail };
        while !self.is_done() {
            match log::open_live(directory, start) {
                Ok(source) => return Ok(Some(source)),
                Err(LogError::NotRunning { .. }) => {}
                Err(error) => return Err(wrong(describe(&error))),
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(wrong("VSM: Could not get hold of varnishd, is it running?"));
            }
            // What it logs first is wanted, too.
            start = Start::Head;
            thread::sleep(LOOK);
        }
        Ok(None)
    }

    fn read_live(mut self, source: Option<Box<dyn LogSource>>, options: &Options) -> Result<(), Exit> {
        let Some(mut source) = source else { return self.finish() };
        raise_priority();
        source.select(self.assembler.wanted());
        let mut pace = Pace::default();
        while self.obey() {
            match source.read() {
                Ok(Read::Records(records)) => self.feed(records),
                Ok(Read::Idle) if options.head => return self.finish(),
                Ok(Read::Idle) => {
                    let Self { assembler, lines, counters, .. } = &mut self;
                    assembler.expire(Instant::now(), counters, |set| lines.set(set));
                    match lines.output.flush() {
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return self.finish(),
                        _ => pace.sleep(source.position()),
                    }
                }
                Ok(Read::Event(event)) => self.event(event),
                Ok(Read::End) => return self.finish(),
                Err(error) => {
                    say(&describe(&error));
                    self.give_up_all();
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
        // What was served before the signal came.
        let deadline = Instant::now() + LAST_LOOK;
        while self.lines.left != Some(0)
            && Instant::now() < deadline
            && let Ok(Read::Records(records)) = source.read()
        {
            self.feed(records);
        }
        self.finish()
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Overrun { segments } => {
                self.counters.overruns.add(1);
                self.counters.overrun_segments.add(u64::from(segments));
                say("Log overrun\nLog reacquired");
            }
            Event::Abandoned => say("Log abandoned (vsm)"),
            Event::Reacquired => say("Log reacquired"),
        }
        self.give_up_all();
    }

    fn give_up_all(&mut self) {
        let Self { assembler, lines, counters, .. } = self;
        assembler.give_up_all(counters, |set| lines.set(set));
    }
}
