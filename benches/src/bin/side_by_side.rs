//! kafkalog beside varnishncsa: the same lines of the same recording, and what each costs.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use clap::Parser;
use kafkalog_benches::logger::{ADDRESSES, Task, tasks};
use kafkalog_benches::recording::Recording;
use kafkalog_benches::results::{Results, panels, table};
use kafkalog_benches::{agreement, callgrind, chart, cpu, machine, recorder, results_directory};
use kafkalog_tests::command_line::{exit_code, stop_flag};
use kafkalog_tests::digits::grouped;
use kafkalog_tests::programs::Programs;

/// Renders a recorded log with varnishncsa and with kafkalog, and compares what both print and need.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// How many requests to record
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Take this recording, made by varnishlog -g raw -w, and start no varnishd
    #[arg(long, value_name = "FILE", conflicts_with = "requests")]
    recording: Option<PathBuf>,
    /// How many times over the recording is read in a round: kafkalog should take half a second or more
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    copies: u32,
    /// Rounds; both programs run in each
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Count the instructions of this many requests, in valgrind; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 2000)]
    callgrind: u64,
    /// Other seeds give other requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write the results into this directory [default: bench beside the program's directory]
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit_code("side-by-side", run(&Arguments::parse()).map(|()| true))
}

/// Says what is being done.
fn step(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let stop = stop_flag()?;
    let programs = Programs::find()?;
    let output = results_directory(arguments.output.as_deref())?;
    // The copies are too large for a /tmp in memory.
    let work = tempfile::Builder::new().prefix("side-by-side-").tempdir_in(&output).context("making a directory")?;
    let work = work.path();

    let file = match &arguments.recording {
        Some(file) => file.clone(),
        None => {
            step("recording");
            let file = work.join("recording");
            recorder::record(&programs, arguments.requests, arguments.seed, &file, work, &stop)?;
            file
        }
    };
    let recording = Recording::read(&file)?;
    let tasks = tasks(&programs, work)?;

    step("comparing what both print");
    let mut lines = Vec::new();
    for task in &tasks {
        lines.push(compare(task, &file, work, &stop)?);
    }
    let requests = lines[0];
    if arguments.recording.is_none() && requests != arguments.requests {
        bail!("{requests} lines of {} requests: varnishlog lost records", arguments.requests);
    }
    let mut results: Vec<Results> =
        tasks.iter().map(|task| Results { task: task.name, ..Results::default() }).collect();
    let repeated = work.join("repeated");
    recording.write_repeated(arguments.copies, &repeated)?;
    for round in 1..=arguments.rounds {
        step(&format!("round {round} of {}", arguments.rounds));
        for (task, results) in tasks.iter().zip(&mut results) {
            for (logger, figures) in [(&task.theirs, &mut results.theirs), (&task.ours, &mut results.ours)] {
                let command = logger.command(&repeated);
                let (time, _) = cpu::run(command, Path::new("/dev/null"), &work.join("errors"), &stop)?;
                figures.seconds.push(time.as_secs_f64() / (requests * u64::from(arguments.copies)) as f64);
            }
        }
    }
    let counted = if arguments.callgrind == 0 {
        "Instructions were not counted.".to_owned()
    } else if callgrind::is_there() {
        step("counting instructions");
        let [short, long] = [1, 2].map(|times| (work.join(format!("part {times}")), times * arguments.callgrind));
        for (file, part) in [&short, &long] {
            recording.write_part(*part, requests, file)?;
        }
        let parts = [(short.0.as_path(), short.1), (long.0.as_path(), long.1)];
        for (task, results) in tasks.iter().zip(&mut results) {
            for (logger, figures) in [(&task.theirs, &mut results.theirs), (&task.ours, &mut results.ours)] {
                figures.instructions = Some(callgrind::instructions(logger, parts, work, &stop)?);
            }
        }
        let [first, last] = [short.1, long.1].map(grouped);
        format!("Instructions are callgrind's for {last} requests less those for {first}.")
    } else {
        "Instructions were not counted: valgrind is not installed.".to_owned()
    };

    let per_request = recording.records() as f64 / requests as f64;
    let bytes = recording.size() as f64 / requests as f64;
    let what = format!("{} requests of {per_request:.0} log records ({bytes:.0} bytes)", grouped(requests));
    let page = format!(
        "{}\n{what}, read {} times over a round; output to /dev/null. {counted}\n\
         Both print the same; only the stream has hashed addresses ({}), and `-` where varnishncsa -j has nothing. The \
         query is true of {} requests.\n\n{}.\n",
        table(&results),
        arguments.copies,
        ADDRESSES.join(", "),
        grouped(lines.last().copied().unwrap_or_default()),
        machine::describe(),
    );
    let (markdown, picture) = (output.join("side-by-side.md"), output.join("side-by-side.svg"));
    fs::write(&markdown, &page).with_context(|| format!("writing {}", markdown.display()))?;
    fs::write(&picture, chart::svg(&panels(&results), &what))
        .with_context(|| format!("writing {}", picture.display()))?;
    writeln!(io::stdout(), "\n{page}\n{}\n{}", markdown.display(), picture.display())
        .context("writing to standard output")
}

/// Whether both print the same lines, and how many.
fn compare(task: &Task, file: &Path, work: &Path, stop: &AtomicBool) -> anyhow::Result<u64> {
    let loggers = [&task.theirs, &task.ours];
    let printed = loggers.map(|logger| work.join(format!("{}.lines", logger.name())));
    for (logger, printed) in loggers.iter().zip(&printed) {
        cpu::run(logger.command(file), printed, &work.join("errors"), stop)?;
    }
    let lines = if task.exact {
        agreement::check_bytes(&printed[0], &printed[1])
    } else {
        agreement::check(&printed[0], &printed[1])
    };
    match lines.with_context(|| task.name)? {
        0 => bail!("{}: not a line is printed for {}", task.name, file.display()),
        lines => Ok(lines),
    }
}
