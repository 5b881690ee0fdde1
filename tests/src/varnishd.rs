//! A varnishd of its own, with our module.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::Running;
use crate::programs::Programs;
use crate::wait;

/// VCL is compiled with a C compiler, which takes a while on a busy machine.
const START: Duration = Duration::from_secs(60);

/// The free port that was found may be taken before varnishd has it.
const ATTEMPTS: u32 = 3;

/// A running varnishd: manager and child, on a port of 127.0.0.1, with a working directory of its own.
#[derive(Debug)]
pub struct Varnishd {
    manager: Running,
    directory: PathBuf,
    address: SocketAddrV4,
}

impl Varnishd {
    /// Starts it with this VCL text in `<work>/varnish`, and returns when it answers. What it prints goes to a file in
    /// `output`.
    ///
    /// # Errors
    ///
    /// When it does not start: the VCL may be wrong, or the module.
    pub fn start(
        programs: &Programs,
        vcl: &str,
        work: &Path,
        output: &Path,
        stop: &AtomicBool,
    ) -> anyhow::Result<Self> {
        Self::start_with(&[], programs, vcl, work, output, stop)
    }

    /// Likewise, with arguments for varnishd.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub fn start_with(
        arguments: &[&str],
        programs: &Programs,
        vcl: &str,
        work: &Path,
        output: &Path,
        stop: &AtomicBool,
    ) -> anyhow::Result<Self> {
        let file = work.join("demo.vcl");
        fs::write(&file, vcl).with_context(|| format!("writing {}", file.display()))?;
        let mut attempt = 1;
        loop {
            match Self::try_start(arguments, programs, &file, &work.join("varnish"), output, stop) {
                Err(error) if attempt < ATTEMPTS && format!("{error:#}").contains("Address already in use") => {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn try_start(
        arguments: &[&str],
        programs: &Programs,
        vcl: &Path,
        directory: &Path,
        output: &Path,
        stop: &AtomicBool,
    ) -> anyhow::Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(find("varnishd"));
        // The jails want users that a test machine may not have. No CLI port: it is controlled by signals.
        command.args(["-F", "-j", "none", "-T", "none", "-s", "malloc,64m", "-p"]);
        command.arg(format!("vmod_path={}", programs.directory().display()));
        command.arg("-n").arg(directory).arg("-f").arg(vcl).args(["-a", &address.to_string()]).args(arguments);
        let manager = Running::start("varnishd", &mut command, output)?;
        let mut varnishd = Self { manager, directory: directory.to_owned(), address };
        wait::until("varnishd to answer", START, stop, || {
            varnishd.manager.check()?;
            Ok(TcpStream::connect(address).is_ok().then_some(()))
        })?;
        Ok(varnishd)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// The process id of the manager, whose child does the work.
    #[must_use]
    pub fn manager(&self) -> u32 {
        self.manager.id()
    }

    /// The process id of the child, which serves.
    ///
    /// # Errors
    ///
    /// When there is none, or `/proc` cannot be read.
    pub fn child(&self) -> anyhow::Result<u32> {
        child_of(self.manager())
    }

    /// Kills the child with SIGKILL, and returns when the manager has started another one that answers.
    ///
    /// # Errors
    ///
    /// When there is no child, or no other one in time.
    pub fn kill_child(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let killed = self.child()?;
        let process = i32::try_from(killed).ok().and_then(Pid::from_raw).context("the child has no process id")?;
        kill_process(process, Signal::KILL).context("killing varnishd's child")?;
        wait::until("another child of varnishd", START, stop, || {
            self.manager.check()?;
            let another = self.child().is_ok_and(|child| child != killed);
            Ok((another && TcpStream::connect(self.address).is_ok()).then_some(()))
        })
    }

    /// Its working directory, `varnishd -n`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All counters, by their names in varnishstat.
    ///
    /// # Errors
    ///
    /// When varnishd has ended, or varnishstat fails.
    pub fn counters(&mut self) -> anyhow::Result<HashMap<String, u64>> {
        self.manager.check()?;
        let output = Command::new(find("varnishstat"))
            .arg("-n")
            .arg(&self.directory)
            .args(["-j", "-t", "10"])
            .output()
            .context("running varnishstat")?;
        if !output.status.success() {
            bail!("varnishstat: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let text: Value = serde_json::from_slice(&output.stdout).context("reading what varnishstat prints")?;
        // Before Varnish 6.5 they were not in an object of their own.
        let counters = text.get("counters").unwrap_or(&text).as_object().context("varnishstat prints no object")?;
        Ok(counters.iter().filter_map(|(name, counter)| Some((name.clone(), counter["value"].as_u64()?))).collect())
    }

    /// Sends SIGTERM to the manager and waits for it, and so for the child, to end.
    ///
    /// # Errors
    ///
    /// When that takes longer than `limit`, or it does not end well.
    pub fn stop(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.manager.terminate(limit)
    }
}

/// Only the child that serves has this name. The manager has others for a moment, which tidy up.
const CHILD: &str = "(cache-main)";

fn child_of(manager: u32) -> anyhow::Result<u32> {
    for entry in fs::read_dir("/proc").context("listing processes")? {
        let name = entry.context("listing processes")?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile. The second field is the name, the fourth the parent.
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let parent = stat.split_once(CHILD).and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1));
        if parent.and_then(|parent| parent.parse().ok()) == Some(manager) {
            return Ok(process);
        }
    }
    bail!("varnishd {manager} has no child")
}

/// A port of 127.0.0.1 that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddrV4> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    let port = listener.local_addr().context("asking for the port")?.port();
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// Debian has varnishd in /usr/sbin, which is not in every user's search path.
#[must_use]
pub fn find(program: &str) -> PathBuf {
    let known = Path::new("/usr/sbin").join(program);
    if known.is_file() { known } else { PathBuf::from(program) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_no_child() {
        assert!(child_of(u32::MAX).is_err());
    }
}
