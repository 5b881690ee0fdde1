//! A round of the benchmark of loggers: a varnishd under load, and a program that writes a line for each request to a file.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kafkalog_tests::backend::Backend;
use kafkalog_tests::process::Running;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::varnishd::Varnishd;
use kafkalog_tests::wait;
use memchr::memmem;

use crate::load::Load;
use crate::threads;
use crate::traffic;

/// Requests that are made beforehand and sent again and again, each time with another number.
const TEXTS: u64 = 1000;

/// All numbers have as many digits, so that one can take another's place.
const DIGITS: usize = 8;
const FIRST: u64 = 10_000_000;

/// Stands before the number, in a request and in its line.
const MARK: &[u8] = b"&id=";

/// Requests until the cache is filled, and each time until the logger has written something.
const WARM_UP: u64 = 2000;

/// For the logger to attach to the log.
const ATTACH: Duration = Duration::from_secs(30);

/// For the logger to write what it has.
const SETTLE: Duration = Duration::from_secs(60);

/// When it has written nothing for so long, that was all.
const QUIET: Duration = Duration::from_secs(2);

/// For programs to end.
const STOP: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct LiveLogger<'a> {
    /// The programs.
    pub programs: &'a Programs,
    /// Requests that are counted.
    pub requests: u64,
    /// Connections of the load.
    pub connections: u64,
    /// Requests in flight on each.
    pub in_flight: u64,
    /// Set from elsewhere, it ends everything early.
    pub stop: &'a AtomicBool,
}

/// What a round found.
#[derive(Debug, Default)]
pub struct Round {
    /// From the first request to the last answer.
    pub load: Duration,
    /// Requests that have a line.
    pub logged: u64,
    /// Lines that are there more than once.
    pub doubled: u64,
    /// How often the logger said that it was overrun.
    pub overruns: u64,
    /// CPU nanoseconds, unless the logger ended too early.
    pub time: Option<u64>,
    /// What it said at last when it ended before it was told to.
    pub broken: Option<String>,
}

impl LiveLogger<'_> {
    /// Runs a round in `work`, a new directory, with a log of `size`, as in `varnishd -l`. `logger` is completed with
    /// where to read and to write. All that was started has ended when this returns.
    ///
    /// # Errors
    ///
    /// When anything but the logger fails.
    pub fn round(&self, mut logger: Command, size: &str, work: &Path) -> anyhow::Result<Round> {
        let backend = Backend::start()?;
        let vcl = traffic::vcl(backend.address(), "", "");
        let mut varnishd = Varnishd::start_with(&["-l", size], self.programs, &vcl, work, work, self.stop)?;
        let lines = work.join("lines");
        logger.arg("-n").arg(varnishd.directory()).arg("-w").arg(&lines);
        let mut logger = Running::start("logger", &mut logger, work)?;
        let texts = Texts::new();
        let load = Load {
            address: varnishd.address(),
            connections: self.connections,
            in_flight: self.in_flight,
            stop: self.stop,
        };
        let mut next = FIRST;
        wait::until("the logger to write", ATTACH, self.stop, || {
            load.run(WARM_UP, |number, out| texts.append(next + number, out)).context("warming up")?;
            next += WARM_UP;
            let written = fs::metadata(&lines).is_ok_and(|file| file.len() > 0);
            Ok((written || logger.check().is_err()).then_some(()))
        })?;
        self.settle(&mut logger, &lines)?;

        let first = next;
        let before = threads::times(logger.id());
        let taken = load.run(self.requests, |number, out| texts.append(first + number, out))?;
        self.settle(&mut logger, &lines)?;
        let time = before.and_then(|before| Ok(threads::since(&before, &threads::times(logger.id())?)));
        let mut round = Round { load: taken, time: time.ok().map(|times| times.values().sum()), ..Round::default() };
        if let Err(error) = logger.terminate(STOP) {
            round.broken = Some(error.to_string());
            round.time = None;
        }
        round.overruns = memmem::find_iter(logger.output()?.as_bytes(), "Log overrun").count() as u64;
        (round.logged, round.doubled) = self.count(&lines, first)?;
        varnishd.stop(STOP)?;
        Ok(round)
    }

    /// Waits until the logger has written nothing for a while, or has ended.
    fn settle(&self, logger: &mut Running, lines: &Path) -> anyhow::Result<()> {
        let (mut length, mut since) = (0, Instant::now());
        wait::until("the logger to have written everything", SETTLE, self.stop, || {
            let now = fs::metadata(lines).map_or(0, |file| file.len());
            if now != length {
                (length, since) = (now, Instant::now());
            }
            Ok((since.elapsed() >= QUIET || logger.check().is_err()).then_some(()))
        })
    }

    /// How many of the requests from `first` on have a line, and how many lines there are beyond these.
    fn count(&self, lines: &Path, first: u64) -> anyhow::Result<(u64, u64)> {
        let text = fs::read(lines).with_context(|| format!("reading {}", lines.display()))?;
        let mut seen = vec![false; self.requests as usize];
        let (mut logged, mut doubled) = (0, 0);
        for at in memmem::find_iter(&text, MARK) {
            let digits = text.get(at + MARK.len()..at + MARK.len() + DIGITS).unwrap_or_default();
            let number: Option<u64> = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            let index = number.and_then(|number| number.checked_sub(first));
            match index.and_then(|index| seen.get_mut(index as usize)) {
                Some(seen) if *seen => doubled += 1,
                Some(seen) => (*seen, logged) = (true, logged + 1),
                None => {}
            }
        }
        Ok((logged, doubled))
    }
}

/// Requests that differ in their numbers.
struct Texts(Vec<(Vec<u8>, usize)>);

impl Texts {
    fn new() -> Self {
        let finder = memmem::Finder::new(MARK);
        let texts = (FIRST..FIRST + TEXTS).map(|number| {
            let mut text = Vec::new();
            traffic::page(1, number, &mut text);
            let at = finder.find(&text).map_or(0, |at| at + MARK.len());
            (text, at)
        });
        Self(texts.collect())
    }

    fn append(&self, number: u64, out: &mut Vec<u8>) {
        let (text, at) = &self.0[(number % TEXTS) as usize];
        let at = out.len() + at;
        out.extend_from_slice(text);
        let mut left = number;
        for digit in out[at..at + DIGITS].iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_numbers_of_their_own() {
        let texts = Texts::new();
        let mut out = Vec::new();
        texts.append(12_345_678, &mut out);
        texts.append(98_765_432, &mut out);
        let text = String::from_utf8(out).unwrap();
        let numbers: Vec<_> = text.split("&id=").skip(1).map(|rest| &rest[..9]).collect();
        assert_eq!(numbers, ["12345678 ", "98765432 "]);
    }
}
