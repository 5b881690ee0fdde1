//! What kafkalog knows of the installed Varnish, and the only way from here into C code.
//!
//! - [`tag`]: the log's tags, their numbers and flags, generated from the installed header at build time.
//! - [`layout`]: the record layout that the same header describes.
//! - [`api`]: libvarnishapi's cursors, opened at run time.
//! - [`mapping`]: files in memory that may be cut while they are read.
//! - [`process`]: going to the background.
//! - [`time`]: the C library's calendar, which varnishncsa shows times by.
//!
//! libvarnishapi is never linked: a failed assertion in it would end the process that uses it, and in varnishd's own
//! process that is the cache.

pub mod api;
mod bindings;
pub mod layout;
mod library;
pub mod mapping;
pub mod process;
pub mod tag;
pub mod time;

/// The version of the Varnish that this was built against, as pkg-config gives it (`7.1.1`).
pub const VARNISH_VERSION: &str = env!("KAFKALOG_VARNISH_VERSION");
