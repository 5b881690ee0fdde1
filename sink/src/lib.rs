//! Writes Kafka topics into hourly files, each message once.
//!
//! ```text
//!  Kafka ──▶ consumer ──▶ partition ──▶ chunk ──▶ compress ──▶ store ──▶ <table>/year=/month=/day=/hour=/<name>
//!  group     messages,    numbers,      a file    lines        local
//!            rebalances   rotation      an hour                directory
//!               ▲                         │ published
//!               └───── offset committed ──┘
//! ```

pub mod config;

pub mod accounting;
pub mod chunk;
pub mod compress;
pub mod partition;
pub mod path;
pub mod store;

pub mod recover;

pub use config::Config;
