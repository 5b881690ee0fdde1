//! Log output of the programs: human-readable on a terminal, JSON lines otherwise.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// How log events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people, in colour on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends log events to standard error. `None` chooses by whether that is a terminal; the level comes from the
/// environment variable `KAFKALOG_LOG` (`info` without it).
///
/// # Panics
///
/// When called twice in a process.
pub fn start(format: Option<LogFormat>) {
    let terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let filter = EnvFilter::try_from_env("KAFKALOG_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let output = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => output.with_ansi(terminal).with_target(false).init(),
        LogFormat::Json => output.json().flatten_event(true).init(),
    }
}
