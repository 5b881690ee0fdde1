//! A ZooKeeper.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;

use super::{START, STOP, java, ports};
use crate::process::Running;
use crate::wait;

/// For one question to a server.
const ANSWER: Duration = Duration::from_secs(2);

/// A server, on its own or of an ensemble.
#[derive(Debug)]
pub struct ZooKeeper {
    jars: PathBuf,
    work: PathBuf,
    port: u16,
    /// More properties, a line each.
    properties: String,
    /// More options of its Java.
    java: String,
    running: Option<Running>,
}

impl ZooKeeper {
    /// Starts it with these jars; its data go to `<work>/zookeeper`.
    ///
    /// # Errors
    ///
    /// When it does not answer in time.
    pub fn start(jars: &Path, work: &Path, stop: &AtomicBool) -> anyhow::Result<Self> {
        ports::retried(|| {
            let mut zookeeper = Self::new(jars, work.join("zookeeper"), String::new())?;
            zookeeper.start_again(stop)?;
            Ok(zookeeper)
        })
    }

    /// Starts an ensemble of so many servers; their data go to `<work>/zookeeper-1` and so on.
    ///
    /// # Errors
    ///
    /// When one does not answer in time.
    pub fn ensemble(jars: &Path, servers: u16, work: &Path, stop: &AtomicBool) -> anyhow::Result<Vec<Self>> {
        ports::retried(|| {
            let mut ensemble = "initLimit=20\nsyncLimit=10\n".to_owned();
            for id in 1..=servers {
                ensemble += &format!("server.{id}=127.0.0.1:{}:{}\n", ports::free()?, ports::free()?);
            }
            let mut started = Vec::new();
            for id in 1..=servers {
                let mut server = Self::new(jars, work.join(format!("zookeeper-{id}")), ensemble.clone())?;
                let data = server.work.join("data");
                fs::create_dir_all(&data).with_context(|| format!("creating {}", data.display()))?;
                fs::write(data.join("myid"), id.to_string()).context("writing the server's id")?;
                server.launch()?;
                started.push(server);
            }
            for server in &mut started {
                server.await_answer(stop)?;
            }
            Ok(started)
        })
    }

    /// Starts one that has clients served by TLS only, with the [certificates](crate::certificates::make) in `work`, and of them only
    /// `user` by SASL with DIGEST-MD5. Gives its address as well, which is not [`address`](Self::address).
    ///
    /// # Errors
    ///
    /// When it does not answer in time.
    pub fn secured(
        jars: &Path,
        work: &Path,
        (user, password): (&str, &str),
        stop: &AtomicBool,
    ) -> anyhow::Result<(Self, String)> {
        let logins = work.join("logins.conf");
        let login = format!(
            "Server {{ org.apache.zookeeper.server.auth.DigestLoginModule required user_{user}=\"{password}\"; }};\n"
        );
        fs::write(&logins, login).with_context(|| format!("writing {}", logins.display()))?;
        let at = |name: &str| work.join(name).display().to_string();
        ports::retried(|| {
            let port = ports::free()?;
            let properties = format!(
                "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
                 secureClientPort={port}\nsecureClientPortAddress=127.0.0.1\nssl.clientAuth=need\n\
                 ssl.keyStore.type=PEM\nssl.keyStore.location={}\nssl.trustStore.type=PEM\nssl.trustStore.location={}\n\
                 authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider\n\
                 sessionRequireClientSASLAuth=true\n",
                at("server.pem"),
                at("authority.pem"),
            );
            let mut zookeeper = Self::new(jars, work.join("zookeeper"), properties)?;
            zookeeper.java = format!("-Djava.security.auth.login.config={}", logins.display());
            zookeeper.start_again(stop)?;
            Ok((zookeeper, format!("127.0.0.1:{port}")))
        })
    }

    fn new(jars: &Path, work: PathBuf, properties: String) -> anyhow::Result<Self> {
        fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
        Ok(Self { jars: jars.to_owned(), work, port: ports::free()?, properties, java: String::new(), running: None })
    }

    /// `127.0.0.1:port`
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it on the same port with the same data. In an ensemble, most of the others must run.
    ///
    /// # Errors
    ///
    /// When it does not answer in time.
    pub fn start_again(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        self.launch()?;
        self.await_answer(stop)
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let file = self.work.join("zoo.cfg");
        let text = format!(
            "dataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\ntickTime=500\nminSessionTimeout=1000\nmaxSessionTimeout=60000\n\
             admin.enableServer=false\nmaxClientCnxns=0\n4lw.commands.whitelist=*\n{}",
            self.work.join("data").display(),
            self.port,
            self.properties,
        );
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let mut command = java(&self.jars, &self.work, "org.apache.zookeeper.server.quorum.QuorumPeerMain")?;
        if !self.java.is_empty() {
            command.env("JAVA_TOOL_OPTIONS", &self.java);
        }
        self.running = Some(Running::start("zookeeper", command.arg(&file), &self.work)?);
        Ok(())
    }

    fn await_answer(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let running = self.running.as_mut().context("ZooKeeper does not run")?;
        wait::until("ZooKeeper to answer", START, stop, || {
            running.check()?;
            Ok(serves(self.port).then_some(()))
        })
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

impl Drop for ZooKeeper {
    /// Its data go away with it: nothing is gained by waiting for a good end.
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            // It may have ended before.
            let _ = running.kill();
        }
    }
}

/// Whether a server on this port has clients served. One that listens may still be reading its data.
fn serves(port: u16) -> bool {
    let ask = || {
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        server.set_read_timeout(Some(ANSWER))?;
        server.write_all(b"srvr")?;
        let mut answer = String::new();
        server.read_to_string(&mut answer)?;
        io::Result::Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\nMode: "))
}
