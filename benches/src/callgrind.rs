//! Instructions a line, counted by valgrind: unlike time, the same on a busy machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};

use crate::cpu;
use crate::logger::Logger;

/// Whether valgrind is installed.
#[must_use]
pub fn is_there() -> bool {
    let status = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Instructions that a request more takes: those for the long recording without those for the short one, in which the
/// program's start and end are as well. Both come with their number of requests. Valgrind has no AVX-512, so none of it is
/// used.
///
/// # Errors
///
/// When valgrind or the program fails.
pub fn instructions(
    logger: &Logger,
    [short, long]: [(&Path, u64); 2],
    work: &Path,
    stop: &AtomicBool,
) -> anyhow::Result<f64> {
    let (fewer, more) = (collect(logger, short.0, work, stop)?, collect(logger, long.0, work, stop)?);
    if long.1 <= short.1 || more <= fewer {
        bail!("{}: {} requests take {fewer} instructions, {} take {more}", logger.name(), short.1, long.1);
    }
    Ok((more - fewer) as f64 / (long.1 - short.1) as f64)
}

/// Instructions of a whole run.
fn collect(logger: &Logger, recording: &Path, work: &Path, stop: &AtomicBool) -> anyhow::Result<u64> {
    let plain = logger.command(recording);
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (_, said) = cpu::run(command, Path::new("/dev/null"), &work.join("callgrind.errors"), stop)?;
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let instructions = collected.and_then(|(_, number)| number.trim().parse().ok());
    instructions.with_context(|| format!("callgrind does not tell a number:\n{said}"))
}
