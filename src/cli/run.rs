//! `kafkalog run`: the daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kafkalog::engine::Engine;
use kafkalog::log::{self, LogError, LogSource, Start};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How long to wait for varnishd to start, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
    /// How long Kafka may take to acknowledge the last lines once the daemon has been told to stop, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    finish: u64,
}

impl Run {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let setup = super::load(&self.config)?;
        // Of requests and salts, nothing belongs into a core dump, and other processes of this user need not read them.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).context("keeping core dumps off")?;
        let stop = super::stop_flag()?;
        let directory = super::instance_directory(setup.config().varnish.name.as_deref());
        let Some(source) = self.await_log(&directory, &stop)? else { return Ok(()) };
        let engine = Engine::with_source(&setup, source, None).context("starting")?;
        tracing::info!(directory = %directory.display(), "reading varnishd's log");
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
        let deadline = Instant::now() + Duration::from_secs(self.finish);
        // Every request that varnishd has logged by now. A reader that cannot keep up must leave time for what it has read.
        engine.read_up(Duration::from_secs(self.finish) / 2);
        let counters = Arc::clone(engine.counters());
        engine.finish(deadline.saturating_duration_since(Instant::now()));
        match super::report(&setup, &counters) {
            true => Ok(()),
            false => bail!("lines were lost, as counted above"),
        }
    }

    /// The log, once it is there; `None` when the daemon is told to stop before.
    ///
    /// The log of a varnishd that is later than this daemon is read from its beginning: it is this daemon's from the first
    /// request on. Of one that was there before, an earlier daemon may have taken what there is.
    fn await_log(&self, directory: &Path, stop: &AtomicBool) -> Result<Option<Box<dyn LogSource>>, LogError> {
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        let mut start = Start::Tail;
        while !stop.load(Ordering::Relaxed) {
            match log::open_live(directory, start) {
                Ok(source) => return Ok(Some(source)),
                Err(error @ LogError::NotRunning { .. }) if Instant::now() < deadline => {
                    if start == Start::Tail {
                        tracing::info!(%error, "waiting for varnishd");
                    }
                    start = Start::Head;
                    thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
