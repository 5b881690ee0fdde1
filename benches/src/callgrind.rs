//! Instructions a line, counted by valgrind: unlike time, the same on a busy machine.

use std::fs;
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

/// Instructions that a line more takes: those for the long recording without those for the short one, in which the
/// program's start and end are as well. Valgrind has no AVX-512, so none of it is used.
///
/// # Errors
///
/// When valgrind or the program fails.
pub fn instructions(logger: &Logger, short: &Path, long: &Path, work: &Path, stop: &AtomicBool) -> anyhow::Result<f64> {
    let (fewer, few_lines) = collect(logger, short, work, stop)?;
    let (more, many_lines) = collect(logger, long, work, stop)?;
    if many_lines <= few_lines || more <= fewer {
        bail!("{}: {few_lines} lines take {fewer} instructions, {many_lines} take {more}", logger.name());
    }
    Ok((more - fewer) as f64 / (many_lines - few_lines) as f64)
}

/// Instructions and lines of a whole run.
fn collect(logger: &Logger, recording: &Path, work: &Path, stop: &AtomicBool) -> anyhow::Result<(u64, usize)> {
    let plain = logger.command(recording);
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = work.join("callgrind.out");
    let (_, said) = cpu::run(command, &output, &work.join("callgrind.errors"), stop)?;
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let instructions = collected.and_then(|(_, number)| number.trim().parse().ok());
    let text = fs::read(&output).with_context(|| format!("reading {}", output.display()))?;
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    Ok((instructions.with_context(|| format!("callgrind does not tell a number:\n{said}"))?, lines))
}
