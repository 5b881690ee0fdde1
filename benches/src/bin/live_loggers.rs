//! varnishncsa and `kafkalog ncsa` beside a varnishd under load: what they lose, and what they need.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::Parser;
use kafkalog_benches::live_logger::{LiveLogger, Round};
use kafkalog_benches::statistics::{median, range};
use kafkalog_benches::{machine, results_directory};
use kafkalog_tests::command_line::{exit_code, stop_flag};
use kafkalog_tests::digits::grouped;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::varnishd::find;

/// Serves cached pages as fast as varnishd can, with one logger and the other in turn, and counts the lines.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Sizes of the log, as in varnishd -l
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_value = "81m,8m,1m")]
    logs: Vec<String>,
    /// Requests in each round
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    requests: u64,
    /// Rounds for each size and logger
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Connections of the load
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=64))]
    connections: u64,
    /// Requests in flight on each connection: with more than one, varnishd has less to do for each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    in_flight: u64,
    /// Write the results into this directory [default: bench beside the program's directory]
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit_code("live-loggers", run(&Arguments::parse()).map(|()| true))
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let stop = stop_flag()?;
    let programs = Programs::find()?;
    let output = results_directory(arguments.output.as_deref())?;
    let live = LiveLogger {
        programs: &programs,
        requests: arguments.requests,
        connections: arguments.connections,
        in_flight: arguments.in_flight,
        stop: &stop,
    };
    let mut page = String::from(
        "| log | | requests a second | lines lost | doubled | overruns told | CPU µs a line | ended early |\n\
         |---|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for size in &arguments.logs {
        let mut rounds = [Vec::new(), Vec::new()];
        for number in 1..=arguments.rounds {
            let _ = writeln!(io::stderr(), "a log of {size}: round {number} of {}", arguments.rounds);
            // Whatever becomes slower or faster with time is not always in favour of the same.
            for ours in [number % 2 == 0, number % 2 == 1] {
                let work =
                    tempfile::Builder::new().prefix("kafkalog-loggers-").tempdir().context("making a directory")?;
                let round = live.round(logger(ours, &programs), size, work.path())?;
                if let Some(broken) = &round.broken {
                    let _ = writeln!(io::stderr(), "{broken}");
                }
                rounds[usize::from(ours)].push(round);
            }
        }
        for (name, rounds) in ["varnishncsa", "kafkalog ncsa"].iter().zip(&rounds) {
            let _ = writeln!(page, "| {size} | {name} | {} |", row(arguments.requests, rounds));
        }
    }
    let _ = writeln!(
        page,
        "\nEach logger with its default format, to a file; {} rounds of {} requests, all of them hits, over {} connections with \
         {} in flight on each. Requests a second and CPU time are medians, the rest are sums; in brackets, the rounds' range.\n\n{}.",
        arguments.rounds,
        grouped(arguments.requests),
        arguments.connections,
        arguments.in_flight,
        machine::describe(),
    );
    let markdown = output.join("live-loggers.md");
    fs::write(&markdown, &page).with_context(|| format!("writing {}", markdown.display()))?;
    writeln!(io::stdout(), "\n{page}\n{}", markdown.display()).context("writing to standard output")
}

fn logger(ours: bool, programs: &Programs) -> Command {
    if !ours {
        return Command::new(find("varnishncsa"));
    }
    let mut command = Command::new(programs.kafkalog());
    command.arg("ncsa");
    command
}

fn row(requests: u64, rounds: &[Round]) -> String {
    let sum = |count: &dyn Fn(&Round) -> u64| rounds.iter().map(count).sum::<u64>();
    let rates: Vec<_> = rounds.iter().map(|round| requests as f64 / round.load.as_secs_f64()).collect();
    let lost: Vec<_> = rounds.iter().map(|round| (requests - round.logged) as f64).collect();
    let times = rounds.iter().filter_map(|round| Some(round.time? as f64 / 1e3 / round.logged as f64));
    let times: Vec<_> = times.collect();
    let (least, most) = range(&lost);
    let time = match range(&times) {
        _ if times.is_empty() => "-".to_owned(),
        (low, high) => format!("{:.1} ({low:.1} to {high:.1})", median(&times)),
    };
    format!(
        "{} | {} ({} to {}) | {} | {} | {time} | {} of {}",
        grouped(median(&rates).round() as u64),
        grouped(lost.iter().sum::<f64>() as u64),
        grouped(least as u64),
        grouped(most as u64),
        sum(&|round| round.doubled),
        grouped(sum(&|round| round.overruns)),
        rounds.iter().filter(|round| round.broken.is_some()).count(),
        rounds.len(),
    )
}
