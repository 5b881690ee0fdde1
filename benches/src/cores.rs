//! Keeps threads on cores of their own, so that what one does costs the other no time.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::threads;

/// The cores that this process may use: one is spared, the others serve.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    serving: CpuSet,
    spare: CpuSet,
}

impl Cores {
    /// The highest one is spared.
    ///
    /// # Errors
    ///
    /// When there is only one.
    pub fn split() -> anyhow::Result<Self> {
        let mut serving = sched_getaffinity(Pid::from_raw(0)).context("asking for this process's cores")?;
        let cores: Vec<_> = (0..CpuSet::count()).filter(|core| serving.is_set(*core).unwrap_or(false)).collect();
        let [_, .., last] = cores[..] else { bail!("there is no core to spare: only {} to run on", cores.len()) };
        let mut spare = CpuSet::new();
        spare.set(last)?;
        serving.unset(last)?;
        Ok(Self { serving, spare })
    }

    /// Moves the calling thread, and with it those that it starts from now on, to the cores that serve.
    ///
    /// # Errors
    ///
    /// When the kernel does not allow it.
    pub fn serve(&self) -> anyhow::Result<()> {
        sched_setaffinity(Pid::from_raw(0), &self.serving).context("moving a thread to its cores")
    }

    /// Moves the module's threads in this process, or all of them, to the spare core; the others to those that serve.
    ///
    /// # Errors
    ///
    /// When the process has ended, or the kernel does not allow it.
    pub fn spare(&self, process: u32, all: bool) -> anyhow::Result<()> {
        for task in threads::tasks(process)? {
            let Some((number, name)) = number_and_name(&task) else { continue };
            let cores = if all || threads::is_ours(&name) { &self.spare } else { &self.serving };
            match sched_setaffinity(Pid::from_raw(number), cores) {
                // It has ended meanwhile.
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("moving the thread {name} to its cores")),
            }
        }
        Ok(())
    }
}

fn number_and_name(task: &Path) -> Option<(i32, String)> {
    let number = task.file_name()?.to_str()?.parse().ok()?;
    Some((number, fs::read_to_string(task.join("comm")).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_is_kept_apart() {
        let Ok(cores) = Cores::split() else { return };
        let thread = std::thread::Builder::new().spawn(move || {
            let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
            cores.serve().unwrap();
            let after = sched_getaffinity(Pid::from_raw(0)).unwrap();
            let count = |set: &CpuSet| (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap()).count();
            assert_eq!((count(&after), count(&cores.spare)), (count(&before) - 1, 1));
        });
        thread.unwrap().join().unwrap();
    }
}
