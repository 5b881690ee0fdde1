//! Records the log of a varnishd that serves the benchmark's traffic.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kafkalog_tests::backend::Backend;
use kafkalog_tests::process::Running;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::varnishd::{Varnishd, find};
use kafkalog_tests::wait;

use crate::load::Load;
use crate::traffic;

/// For varnishlog to find varnishd's log.
const OPEN: Duration = Duration::from_secs(10);

/// For varnishlog to write the last records. It writes 4 KiB at a time, so nothing is written when nothing comes.
const LAST: Duration = Duration::from_secs(20);

/// How long the recording must not have grown to be complete.
const QUIET: Duration = Duration::from_millis(500);

/// For programs to end.
const STOP: Duration = Duration::from_secs(20);

/// Makes the recording `file`, of `requests` requests to a cache that has the pages already. Everything else is written
/// to `work`.
///
/// The records are in the order of the log, `varnishlog -g raw`: those of requests at the same time are mixed, as they
/// are for a live reader.
///
/// # Errors
///
/// When a program fails, and when varnishlog could not keep up.
pub fn record(
    programs: &Programs,
    requests: u64,
    seed: u64,
    file: &Path,
    work: &Path,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let backend = Backend::start()?;
    let vcl = traffic::vcl(backend.address(), "", "");
    let mut varnishd = Varnishd::start(programs, &vcl, work, work, stop)?;
    let load = Load { address: varnishd.address(), connections: 4, in_flight: 1, stop };
    load.run(traffic::PAGES, |number, out| traffic::page(seed, number, out)).context("filling the cache")?;

    let mut command = Command::new(find("varnishlog"));
    command.arg("-n").arg(varnishd.directory()).args(["-g", "raw", "-w"]).arg(file);
    let mut varnishlog = Running::start("varnishlog", &mut command, work)?;
    let maps = format!("/proc/{}/maps", varnishlog.id());
    wait::until("varnishlog to open the log", OPEN, stop, || {
        varnishlog.check()?;
        Ok(fs::read_to_string(&maps).unwrap_or_default().contains("/_.Log").then_some(()))
    })?;
    // It goes to the log's end next.
    thread::sleep(QUIET);
    load.run(requests, |number, out| traffic::request(seed, number, out)).context("sending requests")?;

    let (mut size, mut since) = (0, Instant::now());
    wait::until("varnishlog to write everything", LAST, stop, || {
        varnishlog.check()?;
        let now = fs::metadata(file).map_or(0, |metadata| metadata.len());
        if now != size {
            (size, since) = (now, Instant::now());
        }
        Ok((size > 0 && since.elapsed() >= QUIET).then_some(()))
    })?;
    varnishlog.terminate(STOP)?;
    let said = varnishlog.output()?;
    if !said.is_empty() {
        bail!("varnishlog could not record everything: {}", said.trim_end());
    }
    varnishd.stop(STOP)
}
