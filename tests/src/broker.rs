//! A Kafka: librdkafka's mock, in a process of its own.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::process::Running;
use crate::programs::Programs;
use crate::wait;

/// For the mock to tell its address.
const START: Duration = Duration::from_secs(20);

/// Starts `kafkalog dev-broker` with one topic, and returns when it has told its address, which is returned too. What it
/// prints goes to a file in `output`.
///
/// # Errors
///
/// When it does not start.
pub fn start(
    programs: &Programs,
    topic: &str,
    partitions: u16,
    output: &Path,
    stop: &AtomicBool,
) -> anyhow::Result<(Running, String)> {
    let mut command = Command::new(programs.kafkalog());
    command.args(["dev-broker", "--brokers", "1", "--partitions", &partitions.to_string()]);
    command.args(["--topic", &format!("{topic}:{partitions}")]);
    let mut broker = Running::start("dev-broker", &mut command, output)?;
    let bootstrap = wait::until("Kafka's address", START, stop, || {
        broker.check()?;
        let printed = broker.output()?;
        // A line is whole once its end is there.
        let line = printed.split_inclusive('\n').find_map(|line| line.strip_prefix("bootstrap: "));
        Ok(line.and_then(|line| line.strip_suffix('\n')).map(|bootstrap| bootstrap.trim().to_owned()))
    })?;
    Ok((broker, bootstrap))
}
