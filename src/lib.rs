//! Ships every request that Varnish serves to Kafka, with client IPs hashed before a line exists.
//!
//! ```text
//!  log ──▶ transaction ──▶ pipeline (query, format, anonymize) ──▶ batch ──▶ ring ──▶ producer    librdkafka
//!  records  by vxid         one line per stream                     numbered  SPSC  └─▶ writer      files, datagrams
//! ```
//!
//! The modules follow that way, top to bottom. [`engine`] starts the threads that carry it. With the feature `edge`
//! off, only what the Hadoop side shares is left: [`message`], [`config`] and [`logging`].

pub mod config;
#[cfg(feature = "logging")]
pub mod logging;
pub mod message;

#[cfg(feature = "edge")]
mod block;

#[cfg(feature = "edge")]
pub mod log;

#[cfg(feature = "edge")]
pub mod query;

#[cfg(feature = "edge")]
pub mod transaction;

#[cfg(feature = "edge")]
pub mod secret;

#[cfg(feature = "edge")]
pub mod anonymize;

#[cfg(feature = "edge")]
pub mod salt;

#[cfg(feature = "edge")]
pub mod format;

#[cfg(feature = "edge")]
pub mod pipeline;

#[cfg(feature = "edge")]
pub mod batch;

#[cfg(feature = "edge")]
pub mod counters;

#[cfg(any(feature = "edge", loom))]
pub mod ring;

#[cfg(feature = "edge")]
pub mod zookeeper;

#[cfg(feature = "edge")]
pub mod discovery;

#[cfg(feature = "edge")]
pub mod producer;

#[cfg(feature = "edge")]
pub mod writer;

#[cfg(feature = "edge")]
pub mod engine;

#[cfg(feature = "edge")]
mod fault;
