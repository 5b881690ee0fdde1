//! The thread that looks after what no event of varnishd's tells of: other builds, counters, lines to be written.

use std::io;
use std::panic::catch_unwind;
use std::sync::TryLockError;
use std::thread;
use std::time::{Duration, Instant};

use crate::module::Module;

/// How long another build's request may wait to be seen: short beside the time that the log holds.
const TICK: Duration = Duration::from_millis(20);

/// Numbers are copied on every fifth tick, ten times a second.
const TICKS_BETWEEN_COPIES: u32 = 5;

/// Starts the thread. It ends with the process.
pub(crate) fn start(module: &'static Module) -> io::Result<()> {
    thread::Builder::new().name("kafkalog-keeper".into()).spawn(move || {
        let mut ticks: u32 = 0;
        loop {
            thread::sleep(TICK);
            ticks = ticks.wrapping_add(1);
            // A panic has been told by its hook. What it left behind is looked at again on the next tick.
            let _ = catch_unwind(|| tick(module, ticks.is_multiple_of(TICKS_BETWEEN_COPIES)));
        }
    })?;
    Ok(())
}

fn tick(module: &Module, copy: bool) {
    module.write_lines();
    let mut lifecycle = match module.lifecycle.try_lock() {
        Ok(lifecycle) => lifecycle,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        // The CLI thread is at it.
        Err(TryLockError::WouldBlock) => return,
    };
    lifecycle.tick(Instant::now());
    let machine = lifecycle.machine().cloned();
    let is_other_reading = lifecycle.is_other_reading();
    drop(lifecycle);
    if copy {
        module.publish(machine.as_deref());
        module.statistics.show(!is_other_reading);
    }
}
