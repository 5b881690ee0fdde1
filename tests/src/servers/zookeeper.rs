//! A ZooKeeper.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;

use super::{START, STOP, free_port, java};
use crate::process::Running;
use crate::wait;

/// A server on its own.
#[derive(Debug)]
pub struct ZooKeeper {
    jars: PathBuf,
    work: PathBuf,
    port: u16,
    running: Option<Running>,
}

impl ZooKeeper {
    /// Starts it with these jars; its data go to `<work>/zookeeper`.
    ///
    /// # Errors
    ///
    /// When it does not answer in time.
    pub fn start(jars: &Path, work: &Path, stop: &AtomicBool) -> anyhow::Result<Self> {
        let work = work.join("zookeeper");
        fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
        let mut zookeeper = Self { jars: jars.to_owned(), work, port: free_port()?, running: None };
        zookeeper.start_again(stop)?;
        Ok(zookeeper)
    }

    /// `127.0.0.1:port`
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it on the same port with the same data.
    ///
    /// # Errors
    ///
    /// When it does not answer in time.
    pub fn start_again(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let file = self.work.join("zoo.cfg");
        let text = format!(
            "dataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\ntickTime=500\nminSessionTimeout=1000\nmaxSessionTimeout=60000\n\
             admin.enableServer=false\nmaxClientCnxns=0\n4lw.commands.whitelist=*\n",
            self.work.join("data").display(),
            self.port,
        );
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let mut command = java(&self.jars, &self.work, "org.apache.zookeeper.server.quorum.QuorumPeerMain")?;
        let mut running = Running::start("zookeeper", command.arg(&file), &self.work)?;
        wait::until("ZooKeeper to answer", START, stop, || {
            running.check()?;
            Ok(TcpStream::connect(("127.0.0.1", self.port)).is_ok().then_some(()))
        })?;
        self.running = Some(running);
        Ok(())
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    ///
    /// When it has ended before.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.running.take().context("ZooKeeper does not run")?.kill()
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    ///
    /// When it has ended before, or does not in time.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.running.take().context("ZooKeeper does not run")?.stop(STOP).map(drop)
    }
}
