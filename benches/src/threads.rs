//! The CPU time of each thread of varnishd's child.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Nanoseconds on a CPU, of all threads of a name together.
pub type Times = BTreeMap<String, u64>;

/// The time that each thread of a process has had so far; with precision for threads that wait at the moment.
///
/// # Errors
///
/// When the process has ended, or the kernel keeps no such times (`CONFIG_SCHED_INFO`).
pub fn times(process: u32) -> anyhow::Result<Times> {
    let mut times = Times::new();
    for (name, time) in tasks(process)?.iter().filter_map(|task| read(task)) {
        *times.entry(name).or_default() += time;
    }
    if times.is_empty() {
        bail!("the kernel does not tell the CPU time of threads in /proc/{process}/task/*/schedstat");
    }
    Ok(times)
}

/// The threads of a process, as directories in `/proc`.
///
/// # Errors
///
/// When the process has ended.
pub fn tasks(process: u32) -> anyhow::Result<Vec<PathBuf>> {
    let tasks = format!("/proc/{process}/task");
    let entries = fs::read_dir(&tasks).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.with_context(|| format!("listing {tasks}"))
}

/// A thread that ends while it is looked at is left out.
fn read(task: &Path) -> Option<(String, u64)> {
    let name = fs::read_to_string(task.join("comm")).ok()?;
    let statistics = fs::read_to_string(task.join("schedstat")).ok()?;
    Some((name.trim_end().to_owned(), statistics.split_ascii_whitespace().next()?.parse().ok()?))
}

/// What each has had since.
#[must_use]
pub fn since(before: &Times, after: &Times) -> Times {
    let past = |name| before.get(name).copied().unwrap_or(0);
    after.iter().map(|(name, time)| (name.clone(), time.saturating_sub(past(name)))).collect()
}

/// Whether a thread of this name is the module's or its librdkafka's.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.starts_with("kafkalog") || name.starts_with("rdk:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_found_by_name() {
        let own = std::process::id();
        let thread = std::thread::Builder::new().name("kafkalog-test".into());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let handle = thread.spawn(move || wait.recv().is_ok()).unwrap();
        // The name is set by the new thread.
        while !times(own).unwrap().contains_key("kafkalog-test") {
            std::thread::yield_now();
        }
        drop(go);
        assert!(!handle.join().unwrap());
        assert!(is_ours("rdk:broker1") && !is_ours("cache-worker"));
        let times = |time| Times::from([("a".to_owned(), time)]);
        assert_eq!(since(&times(3), &times(10)), times(7));
        assert_eq!(since(&Times::new(), &times(10)), times(10));
    }
}
