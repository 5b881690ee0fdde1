//! A log without an end: a recording again and again, at some rate, into a kafkalog that runs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Before the records of a recording: its marker.
const MARKER: usize = 4;

/// How long kafkalog may take for the last lines.
const FINISH: Duration = Duration::from_secs(90);

/// A running `kafkalog replay` that reads what a thread writes.
pub(super) struct Feed {
    kafkalog: Child,
    writer: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    log: PathBuf,
}

impl Feed {
    /// Feeds `recording`, which has so many lines, at some lines a second.
    pub(super) fn start(program: &Path, configuration: &Path, recording: &Path, lines: usize, rate: f64) -> Self {
        let log = configuration.with_extension("log");
        let mut kafkalog = Command::new(program)
            .args(["replay", "-r", "-", "--config"])
            .arg(configuration)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut input = kafkalog.stdin.take().unwrap();
        let recording = fs::read(recording).unwrap();
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let feed = move || write(&mut input, &recording, lines as f64 / rate, &stopped, &counted);
        let writer = thread::Builder::new().name("feed".to_owned()).spawn(feed).unwrap();
        Self { kafkalog, writer: Some(writer), stop, rounds, log }
    }

    /// Stops kafkalog with SIGSTOP; it keeps all that it has.
    pub(super) fn pause(&self) {
        kill_process(Pid::from_child(&self.kafkalog), Signal::STOP).unwrap();
    }

    /// Lets it go on.
    pub(super) fn resume(&self) {
        kill_process(Pid::from_child(&self.kafkalog), Signal::CONT).unwrap();
    }

    /// What it has said so far.
    pub(super) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// The file with what it says.
    pub(super) fn log(&self) -> PathBuf {
        self.log.clone()
    }

    /// Ends the log, and waits for kafkalog: its status, and how many times it was given the recording.
    pub(super) fn finish(mut self) -> (ExitStatus, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.take().unwrap().join().unwrap();
        let until = Instant::now() + FINISH;
        loop {
            if let Some(status) = self.kafkalog.try_wait().unwrap() {
                return (status, self.rounds.load(Ordering::Relaxed));
            }
            assert!(Instant::now() < until, "kafkalog does not end:\n{}", self.said());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It has ended, unless the test has failed.
        let _ = self.kafkalog.kill();
        let _ = self.kafkalog.wait();
    }
}

/// The recording, every so many seconds. How late it came at the worst is told: a reader that waits for Kafka would make it late.
fn write(input: &mut ChildStdin, recording: &[u8], every: f64, stop: &AtomicBool, rounds: &AtomicU64) {
    let (marker, records) = recording.split_at(MARKER);
    if input.write_all(marker).is_err() {
        return;
    }
    let began = Instant::now();
    let mut latest = Duration::ZERO;
    for round in 1_u32.. {
        if stop.load(Ordering::Relaxed) || input.write_all(records).is_err() {
            break;
        }
        rounds.store(round.into(), Ordering::Relaxed);
        let next = began + Duration::from_secs_f64(every * f64::from(round));
        latest = latest.max(Instant::now().saturating_duration_since(next));
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let _ = writeln!(std::io::stderr(), "fed for {:.0?}, at the worst {latest:.1?} late", began.elapsed());
}
