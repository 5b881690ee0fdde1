//! The benchmarks with programs of their own; criterion's are in `benches/`.
//!
//! ```text
//!  side-by-side: traffic ──▶ varnishd ──▶ varnishlog -w ──▶ recording ──┬─▶ varnishncsa ──┬─▶ agreement, cpu, callgrind
//!                                                                       └─▶ kafkalog    ──┘
//!  live:         traffic ──▶ varnishd, with and without the module ──▶ requests a second, CPU time of each thread
//!  live-loggers: traffic ──▶ varnishd ──▶ varnishncsa or kafkalog ncsa ──▶ lines lost, overruns, CPU time
//!  real-kafka:   recording ──▶ kafkalog replay ──▶ a broker of Apache Kafka ──▶ CPU time of each thread
//! ```
//!
//! Everything that is started ends with the program, also when it fails.

pub mod agreement;
pub mod callgrind;
pub mod chart;
pub mod cores;
pub mod cpu;
pub mod live;
pub mod live_logger;
pub mod load;
pub mod logger;
pub mod machine;
pub mod recorder;
pub mod recording;
pub mod results;
pub mod statistics;
pub mod threads;
pub mod traffic;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::Context as _;

/// Makes the directory for results: `given`, otherwise `target/bench`.
///
/// # Errors
///
/// When it cannot be made.
pub fn results_directory(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let directory = match given {
        Some(directory) => directory.to_owned(),
        None => {
            let own = env::current_exe().context("asking for the program's own path")?;
            let target = own.ancestors().nth(2).context("a program lies in target/<profile>")?;
            target.join("bench")
        }
    };
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    directory.canonicalize().context("resolving the directory")
}
