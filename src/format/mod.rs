//! Formats: from a notation to a program, from a transaction to a line.
//!
//! ```text
//!  notation ──parse──▶ specifiers ──compile──▶ program (a flat list of operations) ──render──▶ line
//! ```
//!
//! Two notations are understood: varnishncsa's, which makes text lines, and varnishkafka's `%{VAR@FIELD?DEFAULT!TYPE}X`,
//! which makes JSON objects. Everything that can be wrong with a format is found when it is compiled; rendering cannot
//! fail and does not allocate.

mod append;
mod compile;
mod escape;
mod extension;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod parse;
mod preset;
mod render;
mod search;
mod time;
mod values;

pub use compile::{Program, Settings};
pub use escape::{Escape, append_hex_quoted, append_json};
pub use preset::Preset;
pub use render::Context;
pub use time::Timestamp;
pub use values::request_start;

use thiserror::Error;

/// A format that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct FormatError {
    /// Where in the format, in bytes from its start.
    pub offset: usize,
    /// What is wrong and what would be right.
    pub message: String,
    /// What varnishncsa says; empty for what it has not.
    pub varnishncsa: String,
}

impl FormatError {
    fn new(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, message: message.into(), varnishncsa: String::new() }
    }

    fn or_in_varnishncsa(self, message: String) -> Self {
        Self { varnishncsa: message, ..self }
    }
}
