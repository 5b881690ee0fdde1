//! kafkalog inside varnishd.
//!
//! ```text
//!  VCL ──▶ shim (C) ──▶ entry ──▶ module ──▶ lifecycle ──▶ kafkalog::engine
//!                                   │           │
//!                                   │           └─▶ guard      which build of this library reads the log
//!                                   └─▶ keeper                 looks at the guard, copies counters, writes lines
//!                                         ├─▶ statistics       varnishstat
//!                                         └─▶ report           standard error, varnishd's log
//! ```
//!
//! varnishd loads the library into the process that compiles VCL, too, so nothing runs before the first WARM event. From then
//! on it stays until the process ends: its threads outlive the VCLs. `unsafe` is in [`entry`] and [`host`], the two sides of
//! the border to C, in the guard's shared page, and where [`clients`] borrows varnishd's sockets.

mod clients;
mod entry;
mod guard;
mod host;
mod keeper;
mod lifecycle;
mod module;
mod report;
mod statistics;

/// What this library was built from; also its file id, by which varnishd tells builds apart.
const BUILD_ID: &str = env!("KAFKALOG_BUILD_ID");
