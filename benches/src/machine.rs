//! What the figures were measured on.

use std::fs;
use std::process::Command;
use std::thread;

use kafkalog_tests::varnishd::find;

/// Processor, cores, kernel and Varnish, in a line.
#[must_use]
pub fn describe() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{}, {} cores, Linux {}, {}",
        model.map_or("unknown processor", |(_, name)| name),
        cores(),
        kernel.trim_end(),
        varnish().as_deref().unwrap_or("unknown Varnish"),
    )
}

/// Cores that programs of this process may use.
#[must_use]
pub fn cores() -> usize {
    thread::available_parallelism().map_or(0, usize::from)
}

/// As in `varnishd (varnish-7.1.1 revision …)`.
fn varnish() -> Option<String> {
    let output = Command::new(find("varnishd")).arg("-V").output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let (_, version) = said.split_once('(')?;
    Some(version.split_whitespace().next()?.to_owned())
}
