//! Which engine runs: decided by the VCLs that are warm, in the order in which they became so.
//!
//! The VCL that became warm last decides on the configuration. VCLs with the same text share the engine; a change replaces
//! it, the new one going on where the old one stopped while that waits for acknowledgements in the background. When the last
//! warm VCL gets cold, what is in the log by then is read and reading stops. Another build of this library may take the log over at any time ([`crate::guard`]);
//! then this one stands by until that build leaves.
//!
//! Events come from varnishd's CLI thread, [`Lifecycle::tick`] from the keeper; a mutex around the whole keeps them apart.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kafkalog::engine::{HandOver, Origin};
use kafkalog::log::Start;

use crate::guard::{Begin, Guard, LIMIT};

/// How often a reader that could not be started again is tried.
const RETRY: Duration = Duration::from_secs(1);

/// What the lifecycle needs of an engine: the real one, or a model of it in tests.
pub(crate) trait Machine: Send + Sync + Sized + 'static {
    /// A checked configuration.
    type Setup: Send + Sync;

    /// Whether both were read from the same text.
    fn is_same(one: &Self::Setup, other: &Self::Setup) -> bool;

    /// Attaches to the log and starts the threads. Must not leave anything behind when it fails.
    fn start(setup: &Arc<Self::Setup>, origin: &Origin) -> Result<Self, String>;

    /// Reads what is in the log by now.
    fn read_up(&self);

    /// Stops reading, says where.
    fn hand_over(&self) -> Option<HandOver>;

    /// Waits for acknowledgements and ends the threads.
    fn finish(self);
}

/// Tells VCLs apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VclId(pub(crate) u64);

/// The engine of this build, and the VCLs that want it.
#[derive(Debug)]
pub(crate) struct Lifecycle<M: Machine> {
    directory: PathBuf,
    guard: Guard,
    /// The one that became warm last is at the end, and decides.
    warm: Vec<(VclId, Arc<M::Setup>)>,
    reading: Reading<M>,
    retired: Arc<Retired>,
}

#[derive(Debug)]
enum Reading<M: Machine> {
    /// No warm VCL wants lines.
    Idle,
    /// This build reads.
    Running { setup: Arc<M::Setup>, machine: Arc<M> },
    /// Another build reads, since then.
    Ceded { since: Instant },
    /// This build should read and holds the log, but could not start; the next attempt is due then.
    Interrupted { stopped_at: Option<HandOver>, retry: Instant },
}

impl<M: Machine> Lifecycle<M> {
    /// Nothing runs yet. `directory` is varnishd's working directory.
    pub(crate) fn new(directory: PathBuf, guard: Guard) -> Self {
        Self { directory, guard, warm: Vec::new(), reading: Reading::Idle, retired: Arc::default() }
    }

    /// A VCL has become warm. When this returns, the lines of every request from now on are this configuration's.
    ///
    /// # Errors
    ///
    /// When the engine does not start, or another build of this library does not let go of the log. What was running before
    /// runs on then.
    pub(crate) fn warm(&mut self, vcl: VclId, setup: &Arc<M::Setup>) -> Result<(), String> {
        match &self.reading {
            Reading::Running { setup: current, .. } if M::is_same(current, setup) => {}
            Reading::Running { .. } => self.replace(setup)?,
            Reading::Interrupted { stopped_at, .. } => {
                self.reading = self.start(setup, &Begin::Continue(*stopped_at))?;
            }
            Reading::Idle | Reading::Ceded { .. } => {
                let begin = self.guard.acquire(LIMIT).map_err(|refusal| refusal.to_string())?;
                match self.start(setup, &begin) {
                    Ok(running) => self.reading = running,
                    Err(error) => {
                        self.give_up(begin);
                        return Err(error);
                    }
                }
            }
        }
        self.warm.push((vcl, Arc::clone(setup)));
        Ok(())
    }

    /// A VCL has become cold, or is gone. One that was not warm changes nothing.
    pub(crate) fn cold(&mut self, vcl: VclId) {
        let Some(index) = self.warm.iter().position(|(other, _)| *other == vcl) else { return };
        self.warm.remove(index);
        let wanted = self.warm.last().map(|(_, setup)| Arc::clone(setup));
        match (wanted, &self.reading) {
            (Some(wanted), Reading::Running { setup, .. }) if !M::is_same(setup, &wanted) => {
                if let Err(error) = self.replace(&wanted) {
                    tracing::error!("going back to the configuration of the VCL before failed: {error}");
                }
            }
            (Some(_), _) | (None, Reading::Idle) => {}
            (None, Reading::Running { machine, .. }) => {
                let machine = Arc::clone(machine);
                // Nobody goes on where this one stops, and the VCL's requests have all been logged.
                if let Err(error) = contain("reading the rest with", || machine.read_up()) {
                    tracing::error!("{error}");
                }
                self.reading = Reading::Idle;
                self.guard.release(self.stop(machine));
            }
            (None, Reading::Ceded { .. }) => {
                self.reading = Reading::Idle;
                self.guard.stand_by(false);
            }
            (None, Reading::Interrupted { stopped_at, .. }) => {
                self.guard.release(*stopped_at);
                self.reading = Reading::Idle;
            }
        }
    }

    /// Looks after other builds and interrupted reading; to be called every 20 ms or so.
    pub(crate) fn tick(&mut self, now: Instant) {
        let Some((_, wanted)) = self.warm.last() else { return };
        let wanted = Arc::clone(wanted);
        match &mut self.reading {
            Reading::Idle => {}
            Reading::Running { machine, .. } => {
                if self.guard.hear() {
                    let machine = Arc::clone(machine);
                    let stopped_at = self.stop(machine);
                    self.cede(stopped_at, now);
                }
            }
            Reading::Ceded { since } => {
                if let Some(begin) = self.guard.reclaim(*since) {
                    self.resume(&wanted, begin, now);
                }
            }
            Reading::Interrupted { stopped_at, retry } => {
                let stopped_at = *stopped_at;
                let is_due = now >= *retry;
                if self.guard.hear() {
                    self.cede(stopped_at, now);
                } else if is_due {
                    self.resume(&wanted, Begin::Continue(stopped_at), now);
                }
            }
        }
    }

    /// The engine that reads.
    pub(crate) fn machine(&self) -> Option<&Arc<M>> {
        match &self.reading {
            Reading::Running { machine, .. } => Some(machine),
            _ => None,
        }
    }

    /// Whether another build reads.
    pub(crate) fn is_other_reading(&self) -> bool {
        self.guard.is_held_by_another()
    }

    /// The engines that finish in the background.
    pub(crate) fn retired(&self) -> &Arc<Retired> {
        &self.retired
    }

    /// Has another configuration go on where the running one stops. If it cannot, the old one goes on.
    fn replace(&mut self, setup: &Arc<M::Setup>) -> Result<(), String> {
        let Reading::Running { setup: old, machine } = std::mem::replace(&mut self.reading, Reading::Idle) else {
            return Ok(());
        };
        let stopped_at = self.stop(machine);
        let begin = Begin::Continue(stopped_at);
        match self.start(setup, &begin) {
            Ok(running) => {
                self.reading = running;
                Ok(())
            }
            Err(error) => {
                self.resume(&old, begin, Instant::now());
                Err(error)
            }
        }
    }

    fn resume(&mut self, setup: &Arc<M::Setup>, begin: Begin, now: Instant) {
        match self.start(setup, &begin) {
            Ok(running) => self.reading = running,
            Err(error) => {
                tracing::error!("reading the log stopped and cannot be started again: {error}");
                let stopped_at = begin.stopped_at();
                self.reading = Reading::Interrupted { stopped_at, retry: now + RETRY };
            }
        }
    }

    /// What was acquired cannot be used: whoever stands by goes on, or what was wanted here before.
    fn give_up(&mut self, begin: Begin) {
        let stopped_at = begin.stopped_at();
        let now = Instant::now();
        self.reading = if self.warm.is_empty() {
            self.guard.release(stopped_at);
            Reading::Idle
        } else if self.guard.others_stand_by() {
            self.guard.release(stopped_at);
            self.guard.stand_by(true);
            Reading::Ceded { since: now }
        } else {
            Reading::Interrupted { stopped_at, retry: now }
        };
    }

    fn cede(&mut self, stopped_at: Option<HandOver>, now: Instant) {
        self.guard.stand_by(true);
        self.guard.left(stopped_at);
        self.reading = Reading::Ceded { since: now };
        tracing::info!("another build of this module reads the log from here on");
    }

    fn start(&self, setup: &Arc<M::Setup>, begin: &Begin) -> Result<Reading<M>, String> {
        let directory = self.directory.clone();
        let origin = match begin {
            Begin::Continue(Some(hand_over)) => Origin::Continued { directory, hand_over: *hand_over },
            Begin::Fresh => Origin::Live { directory, start: Start::Tail },
            Begin::Continue(None) => {
                tracing::warn!("the reader before did not say where it stopped; reading begins at the end of the log");
                Origin::Live { directory, start: Start::Tail }
            }
        };
        let machine = contain("starting", || M::start(setup, &origin)).flatten()?;
        Ok(Reading::Running { setup: Arc::clone(setup), machine: Arc::new(machine) })
    }

    /// Stops the reader and has the rest of the engine finish in the background.
    fn stop(&self, machine: Arc<M>) -> Option<HandOver> {
        let stopped_at = contain("stopping the reader", || machine.hand_over()).unwrap_or_else(|error| {
            tracing::error!("{error}");
            None
        });
        self.retired.retire(machine);
        stopped_at
    }
}

impl Begin {
    fn stopped_at(self) -> Option<HandOver> {
        match self {
            Self::Fresh => None,
            Self::Continue(stopped_at) => stopped_at,
        }
    }
}

/// A panic in there is an error here, so that the states above are never left half changed.
fn contain<T>(doing: &str, work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| format!("{doing} the engine: a panic, which is a defect of kafkalog"))
}

/// Engines that no longer read, but whose lines are not all acknowledged yet.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    number: Mutex<usize>,
    changed: Condvar,
}

impl Retired {
    fn retire<M: Machine>(self: &Arc<Self>, machine: Arc<M>) {
        *self.number.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let retired = Arc::clone(self);
        let spawned = thread::Builder::new().name("kafkalog-finish".into()).spawn(move || {
            if let Err(error) = contain("finishing", || sole(machine).finish()) {
                tracing::error!("{error}");
            }
            *retired.number.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            retired.changed.notify_all();
        });
        if let Err(error) = spawned {
            // The closure, and with it the engine, is gone; what it had not sent is in its counters.
            *self.number.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            tracing::error!("starting a thread that finishes an engine: {error}");
        }
    }

    /// Waits until all have finished, or until then. Returns whether they have.
    pub(crate) fn wait(&self, deadline: Instant) -> bool {
        let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        while *number > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            number = self.changed.wait_timeout(number, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// The value, once the keeper and the exit handler have let go of theirs.
fn sole<T>(mut shared: Arc<T>) -> T {
    loop {
        match Arc::try_unwrap(shared) {
            Ok(value) => return value,
            Err(still_shared) => shared = still_shared,
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests;
