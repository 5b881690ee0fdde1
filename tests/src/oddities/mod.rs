//! Recordings of everything that a log program may stumble over: what differential tests compare programs with.
//!
//! ```text
//!  everyday, hostile ──▶ varnishd ──▶ a backend that misbehaves
//!                           │
//!                           ▼
//!                       varnishlog -w
//! ```
//!
//! A URL says what is to be odd about its request, in words that the VCL and the backend look for. The order of the
//! transactions in a recording differs from run to run, and so do their ids. A recording is whole: nothing that began in it
//! goes on behind its end.

mod authorization;
mod backend;
mod client;
mod connections;
mod everyday;
mod http2;
mod refused;
mod varnish;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use self::varnish::Varnish;

/// Files that `varnishlog -r` and `varnishncsa -r` read.
#[derive(Debug)]
pub struct Recordings {
    /// Everything odd that the programs of Varnish 7.1 read without falling over.
    pub everyday: PathBuf,
    /// What they get wrong: credentials of more than 120 bytes.
    pub hostile: PathBuf,
}

/// Starts varnishd and a backend, drives traffic, and leaves the recordings in `directory`. All that was started has
/// ended when it returns.
///
/// # Errors
///
/// When varnishd or varnishlog does not start or end, and when a request is not answered as is meant.
pub fn record(directory: &Path) -> anyhow::Result<Recordings> {
    let recordings = Recordings { everyday: directory.join("everyday.vsl"), hostile: directory.join("hostile.vsl") };
    let varnish = Varnish::start()?;
    varnish.record(&recordings.everyday, everyday::drive).context("recording everyday oddities")?;
    varnish.record(&recordings.hostile, authorization::drive_hostile).context("recording what is hostile")?;
    varnish.stop()?;
    Ok(recordings)
}

/// What `varnishlog -g raw` shows of a recording, a record a line: id, tag, side and text. Bytes that are not UTF-8 are
/// replaced.
///
/// # Errors
///
/// When varnishlog does not read it.
pub fn text(recording: &Path) -> anyhow::Result<String> {
    let output = Command::new("varnishlog")
        .arg("-r")
        .arg(recording)
        .args(["-g", "raw"])
        .output()
        .context("running varnishlog")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("varnishlog -r {}: {}: {message}", recording.display(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
