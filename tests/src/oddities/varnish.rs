//! The varnishd that the oddities go through, with three listeners, and varnishlog beside it.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use super::backend;
use super::client::{self, To};
use crate::process::Running;
use crate::varnishd::find;
use crate::wait;

/// VCL is compiled with a C compiler, which takes a while on a busy machine.
const START: Duration = Duration::from_secs(60);

/// For the last transactions to end, which wait for timeouts of a second or two.
const SETTLE: Duration = Duration::from_secs(30);

/// For a program to end.
const STOP: Duration = Duration::from_secs(20);

const VCL: &str = include_str!("oddities.vcl");

/// Records of up to 4084 bytes, those with tags that are not shown by default, and timeouts that a test can wait for.
const PARAMETERS: [&str; 7] = [
    "feature=+http2",
    "vsl_reclen=4084",
    "vsl_mask=+Debug,+Hash,+H2RxHdr,+H2RxBody,+H2TxHdr,+H2TxBody,+ExpKill,+ObjHeader,+ObjStatus,+VfpAcct,+VdpAcct",
    "timeout_idle=1",
    "send_timeout=1",
    "idle_send_timeout=1",
    "ban_lurker_sleep=0.1",
];

/// A running varnishd. The manager is ended before its directory goes.
#[derive(Debug)]
pub(super) struct Varnish {
    manager: Running,
    work: TempDir,
    /// Where HTTP is spoken.
    pub(super) tcp: SocketAddr,
    /// Where the PROXY protocol is spoken before it.
    pub(super) proxy: SocketAddr,
    /// Where HTTP is spoken too.
    pub(super) socket: PathBuf,
}

impl Varnish {
    /// Starts it, its backend first, and returns when it answers.
    pub(super) fn start() -> anyhow::Result<Self> {
        let backend = backend::start()?;
        // The path of a socket may have no more than 107 bytes, so the caller's directory won't do.
        let work = TempDir::new().context("making a directory for varnishd")?;
        let (vcl, socket) = (work.path().join("oddities.vcl"), work.path().join("http.sock"));
        let text = VCL.replace("BACKEND_HOST", &backend.ip().to_string());
        fs::write(&vcl, text.replace("BACKEND_PORT", &backend.port().to_string())).context("writing the VCL")?;
        let mut command = Command::new(find("varnishd"));
        // The jails want users that a test machine may not have.
        command.args(["-F", "-j", "none", "-s", "malloc,100m"]);
        command.args(["-a", "tcp=127.0.0.1:0", "-a", "proxy=127.0.0.1:0,PROXY", "-a"]);
        command.arg(format!("unix={}", socket.display()));
        command.arg("-n").arg(work.path().join("varnish")).arg("-f").arg(&vcl);
        command.args(PARAMETERS.iter().flat_map(|parameter| ["-p", parameter]));
        let mut manager = Running::start("varnishd", &mut command, work.path())?;
        let directory = work.path().join("varnish");
        let (tcp, proxy) = wait::until("varnishd to listen", START, &AtomicBool::new(false), || {
            manager.check()?;
            let listening = admin(&directory, "debug.listen_address").unwrap_or_default();
            Ok(address(&listening, "tcp").zip(address(&listening, "proxy")))
        })?;
        let varnish = Self { manager, work, tcp, proxy, socket };
        wait::until("varnishd to answer", START, &AtomicBool::new(false), || {
            Ok(client::ask(&varnish, To::Tcp, b"GET /synth/started HTTP/1.1\r\nHost: a\r\n\r\n").ok())
        })?;
        Ok(varnish)
    }

    /// Its working directory, `varnishd -n`.
    fn directory(&self) -> PathBuf {
        self.work.path().join("varnish")
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.manager.terminate(STOP)
    }

    /// Records what is logged while `drive` runs, and until all of it has ended, in `file`.
    pub(super) fn record(&self, file: &Path, drive: impl FnOnce(&Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut command = Command::new("varnishlog");
        command.arg("-n").arg(self.directory()).args(["-g", "raw", "-w"]).arg(file);
        let mut varnishlog = Running::start("varnishlog", &mut command, self.work.path())?;
        let never = AtomicBool::new(false);
        // It reads from the end that the log has when it comes to it, which only what is written then can tell.
        wait::until("varnishlog to record", START, &never, || {
            varnishlog.check()?;
            client::ask(self, To::Tcp, b"GET /synth/first HTTP/1.1\r\nHost: a\r\n\r\n")?;
            Ok(super::text(file).is_ok_and(|text| text.contains("/synth/first")).then_some(()))
        })?;
        drive(self)?;
        client::ask(self, To::Tcp, b"GET /synth/last HTTP/1.1\r\nHost: a\r\n\r\n")?;
        wait::until("all that began to end", SETTLE, &never, || {
            varnishlog.check()?;
            let text = super::text(file)?;
            Ok((text.contains("/synth/last") && unended(&text).is_empty()).then_some(()))
        })?;
        varnishlog.terminate(STOP)
    }
}

/// The transactions of a log that have begun and not ended.
fn unended(text: &str) -> Vec<&str> {
    let ids = |tag: &'static str| {
        text.lines().filter_map(move |line| {
            let mut words = line.split_ascii_whitespace();
            let id = words.next()?;
            (words.next() == Some(tag)).then_some(id)
        })
    };
    let ended: HashSet<_> = ids("End").collect();
    ids("Begin").filter(|id| !ended.contains(id)).collect()
}

/// What varnishd's CLI answers to a command.
fn admin(directory: &Path, command: &str) -> anyhow::Result<String> {
    let mut varnishadm = Command::new("varnishadm");
    let output =
        varnishadm.arg("-n").arg(directory).args(["-t", "5", command]).output().context("running varnishadm")?;
    if !output.status.success() {
        bail!("varnishadm {command}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A line of `debug.listen_address` is `name address port`.
fn address(listening: &str, name: &str) -> Option<SocketAddr> {
    let mut words = listening.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.split(' ');
    Some(SocketAddr::new(words.next()?.parse().ok()?, words.next()?.trim().parse().ok()?))
}
