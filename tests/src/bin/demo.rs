//! `make demo`: the whole pipeline on this machine, with requests of all kinds, and a comparison of both ends.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use kafkalog_tests::command_line::{exit_code, stop_flag};
use kafkalog_tests::pipeline::{Pipeline, Progress, Report};
use kafkalog_tests::programs::Programs;

/// Addresses that are shown when some were found.
const SHOWN: usize = 10;

/// Runs varnishd with kafkalog, a Kafka and the sink on this machine, and counts what arrives.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// How many requests to send
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    requests: u64,
    /// Other seeds give other requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write everything into this directory, which must be new or empty, and keep it
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit_code("demo", run(&Arguments::parse()).map(|report| report.is_good()))
}

fn run(arguments: &Arguments) -> anyhow::Result<Report> {
    let stop = stop_flag()?;
    let programs = Programs::find()?;
    let temporary = tempfile::Builder::new().prefix("kafkalog-demo-").tempdir().context("making a directory")?;
    let directory = match &arguments.keep {
        Some(directory) => {
            fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
            if fs::read_dir(directory).context("listing the directory")?.next().is_some() {
                bail!("{} is not empty", directory.display());
            }
            directory.canonicalize().context("resolving the directory")?
        }
        None => temporary.path().to_owned(),
    };
    let bar = bar(arguments.requests)?;
    let pipeline = Pipeline {
        programs: &programs,
        directory: &directory,
        requests: arguments.requests,
        seed: arguments.seed,
        stop: &stop,
    };
    let result = pipeline.run(&mut |progress| match progress {
        Progress::Step(step) => {
            bar.set_message(step);
            if bar.is_hidden() {
                // Not a terminal: a line a step.
                let _ = writeln!(io::stderr(), "{step}");
            }
        }
        Progress::Answered(count) | Progress::Records(count) => bar.set_position(count),
    });
    bar.finish_and_clear();
    let report = result?;
    print(&report, arguments.keep.is_some().then_some(&directory)).context("writing to standard output")?;
    Ok(report)
}

fn bar(requests: u64) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new(requests);
    bar.set_style(ProgressStyle::with_template("{spinner} {msg:<52} {bar:30} {human_pos}/{human_len} {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(100));
    Ok(bar)
}

fn print(report: &Report, kept: Option<&PathBuf>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if let Some(sample) = &report.sample {
        writeln!(out, "\nA record:\n{sample:#}")?;
    }
    writeln!(out, "\n{}", report.table())?;
    if let Some(remark) = report.remark() {
        writeln!(out, "{remark}")?;
    }
    let rate = report.sent as f64 / report.load.as_secs_f64();
    let searched = report.searched as f64 / 1e6;
    writeln!(
        out,
        "{} requests in {:.1} s ({rate:.0} a second), {} files; {searched:.0} MB searched for addresses.",
        report.sent,
        report.load.as_secs_f64(),
        report.files,
    )?;
    for leak in report.leaks.iter().take(SHOWN) {
        writeln!(out, "address found: {leak}")?;
    }
    if let Some(directory) = kept {
        writeln!(out, "Everything that was written is in {}.", directory.display())?;
    }
    writeln!(out, "{}", if report.is_good() { "Each request is there, once." } else { "FAILED" })
}
