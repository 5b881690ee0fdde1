//! The whole pipeline on one machine, on loopback: what the demo and the scenario tests are made of.
//!
//! ```text
//!  load ──HTTP──▶ varnishd ──HTTP──▶ backend
//!                    │ libvmod_kafkalog
//!                    ▼
//!               kafkalog dev-broker ──▶ kafkalog-sink ──▶ files ──▶ records
//! ```
//!
//! [`pipeline`] starts these, and compares what was sent with what the files hold. Programs are started by
//! [`process`], which ends them again whatever happens; nothing waits without a limit. [`oddities`] needs no more than
//! varnishd: it records traffic that differential tests read.

pub mod addresses;
pub mod backend;
pub mod broker;
pub mod certificates;
pub mod command_line;
pub mod digits;
pub mod load;
pub mod messages;
pub mod oddities;
pub mod pipeline;
pub mod process;
pub mod programs;
pub mod records;
pub mod servers;
pub mod topic;
pub mod varnishd;
pub mod wait;
