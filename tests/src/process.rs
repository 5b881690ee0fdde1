//! Programs that are started here and ended here.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a program that is dropped has between SIGTERM and SIGKILL.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A running program. Dropped, it gets SIGTERM and then SIGKILL, by its own process id, and is waited for.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Running {
    /// Starts `command`. Standard output and error go to the file `<directory>/<name>.log`.
    ///
    /// # Errors
    ///
    /// When the program cannot be started or the file cannot be made.
    pub fn start(name: &str, command: &mut Command, directory: &Path) -> anyhow::Result<Self> {
        let output = directory.join(format!("{name}.log"));
        let file = File::create(&output).with_context(|| format!("creating {}", output.display()))?;
        let errors = file.try_clone().context("duplicating a descriptor")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().to_string_lossy()))?;
        Ok(Self { name: name.to_owned(), child, output })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that the program has written so far.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn output(&self) -> anyhow::Result<String> {
        let bytes = fs::read(&self.output).with_context(|| format!("reading {}", self.output.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Returns if the program still runs.
    ///
    /// # Errors
    ///
    /// When it has ended, with its status and what it wrote last.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.status()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.last_lines()),
        }
    }

    /// How the program has ended, if it has.
    ///
    /// # Errors
    ///
    /// When the system does not tell.
    pub fn status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking for {}", self.name))
    }

    /// Sends SIGTERM and waits for the program to end.
    ///
    /// # Errors
    ///
    /// When it does not end within `limit`, or not with status 0.
    pub fn terminate(&mut self, limit: Duration) -> anyhow::Result<()> {
        match self.stop(limit)? {
            status if status.success() => Ok(()),
            status => bail!("{} ended with {status} after SIGTERM:\n{}", self.name, self.last_lines()),
        }
    }

    /// Sends SIGTERM, lets the program go on if it was [paused](Self::pause), and waits for it to end, well or not.
    ///
    /// # Errors
    ///
    /// When it has ended before, or does not end within `limit`.
    pub fn stop(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.check()?;
        self.ask_to_end();
        match self.wait(limit) {
            Some(status) => Ok(status),
            None => bail!("{} did not end within {} s of SIGTERM", self.name, limit.as_secs()),
        }
    }

    /// Sends SIGKILL and waits for the program to be gone.
    ///
    /// # Errors
    ///
    /// When it has ended before.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.check()?;
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        Ok(())
    }

    /// Sends SIGSTOP: the program keeps all that it has and does nothing until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// A program that was paused hears of SIGTERM only when it goes on.
    fn ask_to_end(&self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    /// The status, when the program ends within `limit`.
    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if began.elapsed() < limit => thread::sleep(Duration::from_millis(10)),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// The child is not reaped before this value is dropped, so that the id is still its own.
    fn signal(&self, signal: Signal) {
        // It may have ended meanwhile, which is what is wanted.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    fn last_lines(&self) -> String {
        let output = self.output().unwrap_or_default();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.ask_to_end();
        if self.wait(LAST_WORDS).is_none() {
            // Nothing is left to try if even this fails.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_ignores_sigterm_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; echo here; while :; do sleep 0.1; done";
        let mut running =
            Running::start("stubborn", Command::new("sh").args(["-c", script]), directory.path()).unwrap();
        while running.output().unwrap() != "here\n" {
            running.check().unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        assert!(running.terminate(Duration::from_millis(200)).unwrap_err().to_string().contains("did not end"));
        let pid = Pid::from_child(&running.child);
        drop(running);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn a_program_that_is_paused_can_be_ended_and_killed() {
        let directory = tempfile::tempdir().unwrap();
        let start = || Running::start("sleeper", Command::new("sleep").arg("60"), directory.path()).unwrap();
        let mut running = start();
        running.pause();
        assert!(!running.stop(Duration::from_secs(10)).unwrap().success());

        running = start();
        let pid = Pid::from_child(&running.child);
        running.pause();
        running.kill().unwrap();
        assert!(running.kill().unwrap_err().to_string().contains("signal: 9"));
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn an_early_end_is_told_with_the_output() {
        let directory = tempfile::tempdir().unwrap();
        let mut running =
            Running::start("short", Command::new("sh").args(["-c", "echo no luck; exit 3"]), directory.path()).unwrap();
        assert!(running.wait(Duration::from_secs(10)).is_some());
        let error = running.terminate(Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no luck"), "{error}");
    }
}
