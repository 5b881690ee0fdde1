//! What there is once in a process: made at the first WARM event, gone with the process.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};
use std::{env, thread};

use kafkalog::counters::Counters;
use kafkalog::engine::{Addresses, Engine, HandOver, Origin, Setup};

use crate::clients::{self, Bound};
use crate::guard::Guard;
use crate::host::Host;
use crate::lifecycle::{Lifecycle, Machine, VclId};
use crate::report::{self, QUEUE_OF_LIBRARY};
use crate::statistics::Statistics;
use crate::{BUILD_ID, keeper};

/// How long an engine that reads no more may wait for acknowledgements. It holds up to `journal.max_bytes` of memory for
/// that time, and a configuration is not changed every five minutes during an outage of Kafka.
const FINISH_LIMIT: Duration = Duration::from_secs(300);

/// How long the CLI waits for a reader to come to the log's end, which takes it less than a millisecond unless it was kept from
/// running.
const READ_UP_LIMIT: Duration = Duration::from_secs(10);

/// How long the process's end may take. varnishd's manager process kills a child that has not ended within `cli_timeout`,
/// 60 s by default; sixfold room is left for those who lower it.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// How much of that goes to answers that are under way. What takes longer is cut off by the end of the process, and not
/// logged by anybody.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

static MODULE: OnceLock<Module> = OnceLock::new();

/// The library in varnishd's child.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) host: &'static Host,
    pub(crate) lifecycle: Mutex<Lifecycle<Shipper>>,
    pub(crate) statistics: Statistics,
    healthy: AtomicBool,
    /// What becomes of addresses, as the running engine has it.
    addresses: RwLock<Option<Addresses>>,
    /// Where varnishd takes clients' connections.
    listening: Mutex<Vec<Bound>>,
}

impl Module {
    /// The process's module, if a VCL has been warm.
    pub(crate) fn get() -> Option<&'static Self> {
        MODULE.get()
    }

    /// The process's module. Must be called from varnishd's CLI thread.
    ///
    /// # Errors
    ///
    /// When something that the process must have cannot be had.
    pub(crate) fn get_or_start(host: &'static Host) -> Result<&'static Self, String> {
        if let Some(module) = MODULE.get() {
            return Ok(module);
        }
        let directory = working_directory()?;
        let guard = Guard::open(BUILD_ID).map_err(|error| format!("finding out who reads the log: {error}"))?;
        host.pin()?;
        report::install();
        let module = MODULE.get_or_init(|| Self {
            host,
            lifecycle: Mutex::new(Lifecycle::new(directory, guard)),
            statistics: Statistics::new(Box::new(|name, counters, text| host.segment(name, counters, text))),
            healthy: AtomicBool::new(false),
            addresses: RwLock::new(None),
            listening: Mutex::default(),
        });
        keeper::start(module).map_err(|error| format!("starting a thread: {error}"))?;
        Ok(module)
    }

    /// A VCL has become warm. Must be called from varnishd's CLI thread.
    ///
    /// # Errors
    ///
    /// See [`Lifecycle::warm`].
    pub(crate) fn warm(&self, vcl: VclId, setup: &Arc<Setup>) -> Result<(), String> {
        self.statistics.prepare(setup.config().streams.get_ref().iter().map(|stream| stream.name.get_ref().as_str()));
        clients::listening(&mut self.listening.lock().unwrap_or_else(PoisonError::into_inner));
        let mut lifecycle = self.lifecycle.lock().unwrap_or_else(PoisonError::into_inner);
        lifecycle.warm(vcl, setup)?;
        self.publish(lifecycle.machine().map(Arc::as_ref));
        self.statistics.show(true);
        // Behind the engine: OpenSSL's own handler was registered when the producer started, and the last to be registered
        // is the first to run.
        if let Err(error) = self.host.at_exit() {
            tracing::error!("lines may be lost when the process ends: {error}");
        }
        Ok(())
    }

    /// A VCL has become cold, or is gone.
    pub(crate) fn cold(&self, vcl: VclId) {
        self.lifecycle.lock().unwrap_or_else(PoisonError::into_inner).cold(vcl);
    }

    /// Whether lines are being acknowledged, or there is nothing to send.
    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Appends what becomes of an address; `false` when there is nothing to show.
    pub(crate) fn append_address(&self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        addresses.as_ref().is_some_and(|addresses| addresses.append(text, out))
    }

    /// Appends the id of the current salt; `false` when there is none.
    pub(crate) fn append_salt_id(&self, out: &mut Vec<u8>) -> bool {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        let id = addresses.as_ref().and_then(Addresses::salt_id);
        out.extend_from_slice(id.as_deref().unwrap_or_default().as_bytes());
        id.is_some()
    }

    /// Shows the numbers as they are now.
    pub(crate) fn publish(&self, machine: Option<&Shipper>) {
        let addresses = machine.and_then(|machine| machine.engine.addresses());
        let is_same = |addresses: &Option<Addresses>| {
            *addresses == *self.addresses.read().unwrap_or_else(PoisonError::into_inner)
        };
        if !is_same(&addresses) {
            *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = addresses;
        }
        let healthy = machine.is_some_and(|machine| machine.engine.healthy());
        self.healthy.store(healthy, Ordering::Relaxed);
        self.statistics.publish(healthy);
    }

    /// Writes what waits to be written.
    pub(crate) fn write_lines(&self) {
        while let Some(line) = QUEUE_OF_LIBRARY.pop() {
            self.host.log(line.is_error, &line.text);
        }
    }

    /// The process ends: takes no more requests, waits for what is outstanding, and tears nothing down, as workers go on
    /// serving what they have.
    pub(crate) fn exit(&self) {
        let deadline = Instant::now() + EXIT_LIMIT;
        clients::say_goodbye(&self.listening.lock().unwrap_or_else(PoisonError::into_inner), GOODBYE_LIMIT);
        let (machine, retired) = loop {
            match self.lifecycle.try_lock() {
                Ok(lifecycle) => break (lifecycle.machine().cloned(), Arc::clone(lifecycle.retired())),
                Err(TryLockError::Poisoned(poisoned)) => {
                    let lifecycle = poisoned.into_inner();
                    break (lifecycle.machine().cloned(), Arc::clone(lifecycle.retired()));
                }
                // The keeper, for a moment; or this very thread, in a process that ends where nobody foresaw it.
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                Err(TryLockError::WouldBlock) => return,
            }
        };
        let drained = machine
            .as_ref()
            .is_none_or(|machine| machine.engine.drain(deadline.saturating_duration_since(Instant::now())));
        let finished = retired.wait(deadline);
        self.publish(machine.as_deref());
        if let Some(machine) = &machine {
            machine.tell_sums();
        }
        if !(drained && finished) {
            tracing::error!("the process ends with lines that were not acknowledged within {} s", EXIT_LIMIT.as_secs());
        }
        self.write_lines();
    }
}

/// varnishd's child runs in its working directory, where the log is.
fn working_directory() -> Result<PathBuf, String> {
    env::current_dir().map_err(|error| format!("finding varnishd's working directory: {error}"))
}

/// An engine whose numbers are shown.
#[derive(Debug)]
pub(crate) struct Shipper {
    engine: Engine,
}

impl Shipper {
    fn tell_sums(&self) {
        let counters = self.engine.counters();
        let lines: u64 = counters.streams.iter().map(|stream| stream.lines.get()).sum();
        let acknowledged: u64 = counters.streams.iter().map(|stream| stream.acknowledged.get()).sum();
        let lost: u64 = counters.streams.iter().map(|stream| stream.lost_total()).sum();
        tracing::info!("the process ends: {lines} lines, {acknowledged} acknowledged, {lost} lost");
    }
}

impl Machine for Shipper {
    type Setup = Setup;

    fn is_same(one: &Setup, other: &Setup) -> bool {
        one.is_same(other)
    }

    fn start(setup: &Arc<Setup>, origin: &Origin) -> Result<Self, String> {
        let engine = Engine::start(setup, origin).map_err(|error| error.to_string())?;
        if let Some(module) = Module::get() {
            let names = setup.config().streams.get_ref().iter().map(|stream| stream.name.get_ref().clone()).collect();
            module.statistics.attach(names, engine.counters());
        }
        Ok(Self { engine })
    }

    fn read_up(&self) {
        if !self.engine.read_up(READ_UP_LIMIT) {
            tracing::error!("the reader did not come to the log's end in time: requests may be lost unnumbered");
        }
    }

    fn hand_over(&self) -> Option<HandOver> {
        self.engine.hand_over()
    }

    fn finish(self) {
        let counters: Arc<Counters> = Arc::clone(self.engine.counters());
        let lost_before: u64 = counters.streams.iter().map(|stream| stream.lost_total()).sum();
        if !self.engine.finish(FINISH_LIMIT) {
            let lost: u64 = counters.streams.iter().map(|stream| stream.lost_total()).sum();
            tracing::error!("{} lines of a replaced engine were not acknowledged in time", lost - lost_before);
        }
        if let Some(module) = Module::get() {
            module.statistics.detach(&counters);
        }
    }
}
