//! `kafkalog run`: the daemon.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kafkalog::engine::Engine;
use kafkalog::log::{self, LogError, LogSource, Start};

/// Where varnishd keeps its instances when `-n` is a mere name.
const STATE_DIRECTORY: &str = "/var/lib/varnish";

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
        let stop = super::stop_flag()?;
        let name = setup.config().varnish.name.clone().unwrap_or_else(host_name);
        let directory = if name.is_absolute() { name } else { PathBuf::from(STATE_DIRECTORY).join(name) };
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        let source = loop {
            match open(&directory) {
                Ok(source) => break source,
                Err(error) if Instant::now() >= deadline || stop.load(Ordering::Relaxed) => return Err(error.into()),
                Err(LogError::NotRunning { .. }) => std::thread::sleep(Duration::from_millis(100)),
                Err(error) => return Err(error.into()),
            }
        };
        let engine = Engine::with_source(&setup, source, None).context("starting")?;
        tracing::info!(directory = %directory.display(), "reading varnishd's log");
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let deadline = Instant::now() + Duration::from_secs(self.finish);
        // Every request that varnishd has logged by now.
        engine.read_up(deadline.saturating_duration_since(Instant::now()));
        let counters = std::sync::Arc::clone(engine.counters());
        engine.finish(deadline.saturating_duration_since(Instant::now()));
        match super::report(&setup, &counters) {
            true => Ok(()),
            false => bail!("lines were lost, as counted above"),
        }
    }
}

fn open(directory: &std::path::Path) -> Result<Box<dyn LogSource>, LogError> {
    log::open_live(directory, Start::Tail)
}

/// varnishd's default for `-n`.
fn host_name() -> PathBuf {
    PathBuf::from(rustix::system::uname().nodename().to_string_lossy().into_owned())
}
