//! Runs a program to its end and takes the CPU time that it needed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::resource::{UsageWho, getrusage};

/// How often is looked whether the program has ended.
const PAUSE: Duration = Duration::from_millis(2);

/// No program takes longer, not even in valgrind.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs `command`, with its standard output in the file `output`, and returns the user and system time that it took, and
/// what it wrote to standard error. No other child of this process may end meanwhile: their times are added up.
///
/// # Errors
///
/// When it does not end with status 0, or `stop` is set.
pub fn run(
    mut command: Command,
    output: &Path,
    errors: &Path,
    stop: &AtomicBool,
) -> anyhow::Result<(Duration, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let create = |path: &Path| std::fs::File::create(path).with_context(|| format!("creating {}", path.display()));
    command.stdin(Stdio::null()).stdout(create(output)?).stderr(create(errors)?);
    let before = children()?;
    let began = Instant::now();
    let mut child = Ended(command.spawn().with_context(|| format!("starting {name}"))?);
    let status = loop {
        if let Some(status) = child.0.try_wait().with_context(|| format!("waiting for {name}"))? {
            break status;
        }
        if stop.load(Ordering::Relaxed) {
            bail!("interrupted while {name} ran");
        }
        if began.elapsed() > LIMIT {
            bail!("{name} did not end within {} s", LIMIT.as_secs());
        }
        thread::sleep(PAUSE);
    };
    let taken = children()?.checked_sub(before).context("CPU time went backwards")?;
    let said = std::fs::read(errors).with_context(|| format!("reading {}", errors.display()))?;
    let said = String::from_utf8_lossy(&said).into_owned();
    if !status.success() {
        bail!("{name} ended with {status}:\n{said}");
    }
    Ok((taken, said))
}

/// User and system time of the children that were waited for.
fn children() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("asking for the children's CPU time")?;
    let time = usage.user_time() + usage.system_time();
    Ok(Duration::new(u64::try_from(time.tv_sec())?, u32::try_from(time.tv_usec() * 1000)?))
}

/// A program that does not outlive this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended already, unless something failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_waited_for_or_killed() {
        let directory = tempfile::tempdir().unwrap();
        let errors = directory.path().join("errors");
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let null = Path::new("/dev/null");
        let stop = AtomicBool::new(false);
        let busy = shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done >&2");
        let (time, said) = run(busy, null, &errors, &stop).unwrap();
        assert!(time > Duration::ZERO && said == "done\n", "{time:?} {said}");
        let error = run(shell("echo broken >&2; exit 3"), null, &errors, &stop).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("broken"), "{error}");
        stop.store(true, Ordering::Relaxed);
        assert!(run(shell("exec sleep 60"), null, &errors, &stop).is_err());
    }
}
