//! Log output of the programs: human-readable on a terminal, JSON lines otherwise.

use std::error::Error;
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

/// An error and its causes in one text. Many errors name their cause themselves: it is not said again.
#[must_use]
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let named = error.to_string();
        if !text.ends_with(&named) {
            text.push_str(": ");
            text.push_str(&named);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("reading x: {source}")]
    struct Named {
        source: io::Error,
    }

    #[derive(Debug, Error)]
    #[error("starting")]
    struct Outer(#[source] Named);

    #[test]
    fn every_cause_is_said_once() {
        let error = Outer(Named { source: io::Error::other("no luck") });
        assert_eq!(describe(&error), "starting: reading x: no luck");
    }
}
