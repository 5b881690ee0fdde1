//! Writes Kafka topics into hourly files, each message once.
//!
//! ```text
//!  Kafka ──▶ consumer ──▶ partition ──▶ chunk ──▶ compress ──▶ store ──▶ <table>/year=/month=/day=/hour=/<name>
//!  group     messages,    numbers,      a file    lines        local
//!            rebalances   rotation      an hour                directory
//!               ▲                         │ published
//!               └───── offset committed ──┘
//! ```
//!
//! [`run`] is the loop that drives this. [`recover`] is what happens when a partition comes from an earlier owner, and
//! [`accounting`] is what is known of lines by their numbers. An offset is committed only after its messages are in files
//! under their final names; [`chunk`] says how several files become visible together.

pub mod config;

pub mod consumer;

pub mod accounting;
pub mod assigned;
pub mod chunk;
pub mod compress;
pub mod partition;
pub mod path;
pub mod store;

pub mod recover;
pub mod start;

pub mod check;
pub mod run;
mod work;

pub use config::Config;
pub use run::{Outcome, Sink, SinkError};
