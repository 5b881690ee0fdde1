//! Producing a recording to a real Kafka: requests a CPU second of our process, and librdkafka's share of it.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use kafkalog_benches::recording::Recording;
use kafkalog_benches::statistics::{median, range};
use kafkalog_benches::threads::{self, Times};
use kafkalog_benches::{machine, recorder, results_directory};
use kafkalog_tests::command_line::{exit_code, stop_flag};
use kafkalog_tests::digits::grouped;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::servers::{Cluster, Options, Release};

const TOPIC: &str = "webrequest_text";

const PARTITIONS: u16 = 8;

/// How often the threads are looked at: what they need after the last look is not counted.
const LOOK: Duration = Duration::from_millis(10);

/// Replays a recording into Kafka, one broker on this machine, and takes the CPU time of each of our threads.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The release of Kafka, as in tests/servers/releases.toml
    #[arg(long, value_name = "RELEASE", default_value = "3.9")]
    release: String,
    /// How many requests to record
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// How many times over the recording is read in a round
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    copies: u32,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write the results into this directory [default: bench beside the program's directory]
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit_code("real-kafka", run(&Arguments::parse()).map(|()| true))
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let stop = stop_flag()?;
    let programs = Programs::find()?;
    let output = results_directory(arguments.output.as_deref())?;
    let work = tempfile::Builder::new().prefix("real-kafka-").tempdir_in(&output).context("making a directory")?;
    let work = work.path();
    let (file, repeated) = (work.join("recording"), work.join("repeated"));
    recorder::record(&programs, arguments.requests, 1, &file, work, &stop)?;
    Recording::read(&file)?.write_repeated(arguments.copies, &repeated)?;

    let release = Release::named(&arguments.release);
    let cluster = Cluster::start(release, &release.jars()?, 1, Options::default(), work, &stop)?;
    cluster.create_topic(TOPIC, PARTITIONS, 1, &[], &stop)?;
    let configuration = work.join("kafkalog.toml");
    let text = format!(
        "[kafka]\nbootstrap = [\"{}\"]\n\
         [[stream]]\nname = \"webrequest\"\ntopic = \"{TOPIC}\"\nformat = \"webrequest\"\n",
        cluster.bootstrap()
    );
    fs::write(&configuration, text).with_context(|| format!("writing {}", configuration.display()))?;
    let mut rounds = Vec::new();
    for round in 1..=arguments.rounds {
        let _ = writeln!(io::stderr(), "round {round} of {}", arguments.rounds);
        let mut command = Command::new(programs.kafkalog());
        command.arg("replay").arg("-r").arg(&repeated).arg("--config").arg(&configuration);
        rounds.push(replay(command)?);
    }

    let requests = (arguments.requests * u64::from(arguments.copies)) as f64;
    let micros = |times: &Times, wanted: fn(&str) -> bool| {
        times.iter().filter(|(name, _)| wanted(name)).map(|(_, time)| *time as f64 / 1e3 / requests).sum::<f64>()
    };
    let all: Vec<_> = rounds.iter().map(|times| micros(times, |_| true)).collect();
    let librdkafka: Vec<_> = rounds.iter().map(|times| micros(times, |name| name.starts_with("rdk:"))).collect();
    let (low, high) = range(&all);
    let mut page = String::from("| real Kafka, every line acknowledged | |\n|---|--:|\n");
    let (all, librdkafka) = (median(&all), median(&librdkafka));
    let _ = writeln!(page, "| requests a CPU second | {} |", grouped((1e6 / all) as u64));
    let _ = writeln!(page, "| CPU µs a request, all threads | {all:.2} ({low:.2} to {high:.2}) |");
    let _ = writeln!(page, "| … librdkafka's | {librdkafka:.2} ({:.0} %) |", 100.0 * librdkafka / all);
    let _ = writeln!(
        page,
        "\n{} requests a round, the JSON of `webrequest`; Kafka {}, one broker, {PARTITIONS} partitions, on the same machine; medians of {} \
         rounds.\n\n{}.",
        grouped(requests as u64),
        release.name,
        arguments.rounds,
        machine::describe(),
    );
    let markdown = output.join("real-kafka.md");
    fs::write(&markdown, &page).with_context(|| format!("writing {}", markdown.display()))?;
    writeln!(io::stdout(), "\n{page}\n{}", markdown.display()).context("writing to standard output")
}

/// Runs a replay to its end, and gives what each of its threads needed.
fn replay(mut command: Command) -> anyhow::Result<Times> {
    let mut kafkalog = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("starting kafkalog")?;
    let mut times = Times::new();
    let began = Instant::now();
    let status = loop {
        // A thread that has ended is listed no more.
        for (name, time) in threads::times(kafkalog.id()).unwrap_or_default() {
            let known = times.entry(name).or_default();
            *known = time.max(*known);
        }
        if let Some(status) = kafkalog.try_wait().context("waiting for kafkalog")? {
            break status;
        }
        if began.elapsed() > Duration::from_secs(300) {
            kafkalog.kill().context("ending kafkalog")?;
        }
        thread::sleep(LOOK);
    };
    if !status.success() {
        let said = kafkalog.wait_with_output().context("reading what it said")?;
        bail!("kafkalog: {status}: {}", String::from_utf8_lossy(&said.stderr));
    }
    Ok(times)
}
