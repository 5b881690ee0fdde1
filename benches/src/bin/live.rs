//! The module in a varnishd under load: what its threads need, and what it costs the cache.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use kafkalog_benches::cores::Cores;
use kafkalog_benches::live::{Live, Round};
use kafkalog_benches::statistics::{median, range};
use kafkalog_benches::{machine, results_directory, threads};
use kafkalog_tests::command_line::{exit_code, stop_flag};
use kafkalog_tests::digits::grouped;
use kafkalog_tests::programs::Programs;

/// Serves cached pages as fast as varnishd can, with the module and without it in turn.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Requests that are timed in each round, with the module and without
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Connections of the load
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    connections: u64,
    /// Requests in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=64))]
    in_flight: u64,
    /// Leave one core to the module and to Kafka, and the others to varnishd and the load
    #[arg(long)]
    spare_core: bool,
    /// Write the results into this directory [default: bench beside the program's directory]
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit_code("live", run(&Arguments::parse()).map(|()| true))
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let stop = stop_flag()?;
    // Before the first round gives this process fewer cores.
    let (cores, machine) = (machine::cores(), machine::describe());
    let programs = Programs::find()?;
    let output = results_directory(arguments.output.as_deref())?;
    let live = Live {
        programs: &programs,
        requests: arguments.requests,
        connections: arguments.connections,
        in_flight: arguments.in_flight,
        cores: arguments.spare_core.then(Cores::split).transpose()?,
        stop: &stop,
    };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        let _ = writeln!(io::stderr(), "round {round} of {}", arguments.rounds);
        // Whatever becomes slower or faster with time is not always in favour of the same.
        for with_module in [round % 2 == 0, round % 2 == 1] {
            let work = tempfile::Builder::new().prefix("kafkalog-live-").tempdir().context("making a directory")?;
            let rounds = if with_module { &mut with } else { &mut without };
            rounds.push(live.round(with_module, work.path())?);
        }
    }
    let mut page = page(arguments, cores, &without, &with);
    let _ = writeln!(page, "\n{machine}.");
    let markdown = output.join(if arguments.spare_core { "live-spare-core.md" } else { "live.md" });
    fs::write(&markdown, &page).with_context(|| format!("writing {}", markdown.display()))?;
    writeln!(io::stdout(), "\n{page}\n{}", markdown.display()).context("writing to standard output")
}

fn page(arguments: &Arguments, cores: usize, without: &[Round], with: &[Round]) -> String {
    let requests = arguments.requests as f64;
    let rates = |rounds: &[Round]| rounds.iter().map(|round| requests / round.load.as_secs_f64()).collect::<Vec<_>>();
    let micros = |rounds: &[Round], time: &dyn Fn(&Round) -> u64| {
        median(&rounds.iter().map(|round| time(round) as f64 / 1e3 / requests).collect::<Vec<_>>())
    };
    let (slow, fast) = (rates(with), rates(without));
    let ratios: Vec<_> = slow.iter().zip(&fast).map(|(with, without)| with / without).collect();
    let (low, high) = range(&ratios);

    let mut text = String::from("| | without | with kafkalog |\n|---|--:|--:|\n");
    // Nothing fails that writes to memory.
    let _ = writeln!(
        text,
        "| requests a second | {} | {} |",
        grouped(median(&fast).round() as u64),
        grouped(median(&slow).round() as u64)
    );
    let _ = writeln!(
        text,
        "| CPU µs a request, varnishd's own threads | {:.2} | {:.2} |",
        micros(without, &|round| round.time(false)),
        micros(with, &|round| round.time(false))
    );
    let modules = micros(with, &|round| round.time(true));
    let _ = writeln!(text, "| CPU µs a request, the module's threads | | {modules:.2} |");
    for (name, time) in by_thread(with, requests) {
        let _ = writeln!(text, "| … `{name}` | | {time:.2} |");
    }
    let kafka = micros(with, &|round| round.kafka);
    let _ = writeln!(text, "| CPU µs a request, the mock Kafka's process | | {kafka:.2} |");
    let _ = writeln!(
        text,
        "\nWith the module, {:.1} % of the requests a second are served: the median of {} rounds' own, {:.1} to {:.1} %.",
        100.0 * median(&ratios),
        ratios.len(),
        100.0 * low,
        100.0 * high,
    );
    let sharing = if arguments.spare_core {
        format!("The module's threads and a mock Kafka have one of {cores} cores, varnishd and the load the others.")
    } else {
        format!(
            "All of varnishd, the load and, with the module, a mock Kafka share {cores} cores, so that the requests a \
             second are those that the module and Kafka leave."
        )
    };
    let _ = writeln!(
        text,
        "{} requests a round, all of them hits, over {} connections with {} in flight on each; CPU time until Kafka has \
         acknowledged every line. {sharing}",
        grouped(arguments.requests),
        arguments.connections,
        arguments.in_flight,
    );
    text
}

/// CPU microseconds a request of each of the module's threads, the busiest first.
fn by_thread(rounds: &[Round], requests: f64) -> Vec<(String, f64)> {
    let mut times = BTreeMap::<_, Vec<f64>>::new();
    for round in rounds {
        for (name, time) in round.threads.iter().filter(|(name, _)| threads::is_ours(name)) {
            times.entry(name.clone()).or_default().push(*time as f64 / 1e3 / requests);
        }
    }
    let mut medians: Vec<_> = times.into_iter().map(|(name, times)| (name, median(&times))).collect();
    medians.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    medians
}
