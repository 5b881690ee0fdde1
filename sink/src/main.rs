//! The kafkalog-sink program.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use kafkalog::logging::{self, LogFormat};
use kafkalog_sink::{Config, Sink, check};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Writes Kafka topics of kafkalog lines into hourly files, each line once.
#[derive(Debug, Parser)]
#[command(name = "kafkalog-sink", version)]
struct Arguments {
    /// How log events are written to standard error; by default as text on a terminal, as JSON otherwise.
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs until it gets SIGTERM or SIGINT, then closes its files and commits.
    Run {
        /// The configuration, kafkalog-sink.toml.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Validates the configuration, connects, looks for the topics and tries whether files can be written.
    Check {
        /// The configuration, kafkalog-sink.toml.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    // Ends the process with code 2 where the usage is wrong.
    let arguments = Arguments::parse();
    logging::start(arguments.log_format);
    match execute(arguments.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing can be done if standard error is closed.
            let _ = writeln!(io::stderr(), "kafkalog-sink: {}", logging::describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// `true` when it could be done.
fn execute(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Run { config } => {
            let stop = stop_on_signals().context("installing signal handlers")?;
            Sink::new(&Config::load(&config)?)?.run(&stop)?;
            Ok(true)
        }
        Command::Check { config } => match Config::load(&config) {
            Ok(config) => Ok(check::check(&config, &mut io::stdout())?),
            Err(error) => {
                writeln!(io::stdout(), "✗ the configuration is not valid")?;
                Err(error.into())
            }
        },
    }
}

/// Set by the first signal. The second one ends the process at once, for when a disk or a broker does not answer.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag unset.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
