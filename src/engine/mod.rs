//! The engine: the threads that carry lines from the log to Kafka, and their life.

mod addresses;
mod control;
mod outbox;
mod reader;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;

pub use self::addresses::Addresses;
use self::control::Control;
use self::outbox::Outbox;
use self::reader::Reader;
pub use self::reader::raise_priority;
use crate::config::{Config, ConfigError, IpFunction, Kafka, OutputConfig, Source, StreamConfig};
use crate::counters::Counters;
use crate::discovery::{Discovery, Watch};
use crate::fault::Fault;
use crate::log::{LiveLog, LogError, LogSource, Pace, Position, Start};
use crate::message::Boot;
use crate::pipeline::Pipeline;
use crate::producer::{self, Producer, ProducerError};
use crate::salt::{Clock, Keeper, KeeperError, Missing, Salts};
use crate::writer::{self, Writer, WriterError};

/// A configuration that has been read, checked and compiled: everything that bad input can break is behind it.
#[derive(Debug)]
pub struct Setup {
    source: Source,
    config: Config,
}

impl Setup {
    /// Reads the configuration, compiles its formats, and has librdkafka look at its properties.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with file, line, column and a caret at the first thing that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (source, config) = Config::load(path)?;
        let setup = Self { source, config };
        setup.pipeline(setup.salts_of_log())?;
        setup.check_properties()?;
        Ok(setup)
    }

    /// Checks what holds inside varnishd only, whose standard output is not the administrator's.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a stream that goes there.
    pub fn check_for_module(&self) -> Result<(), ConfigError> {
        match self.config.streams.get_ref().iter().find(|stream| *stream.output.get_ref() == OutputConfig::Stdout) {
            None => Ok(()),
            Some(stream) => Err(self.source.error(
                stream.output.span(),
                "inside varnishd there is no standard output to write to: use `kafkalog run`, or \"file:/PATH\"",
            )),
        }
    }

    fn check_properties(&self) -> Result<(), ConfigError> {
        let Some(kafka @ Kafka { bootstrap, properties, .. }) = &self.config.kafka else { return Ok(()) };
        producer::check(kafka).map_err(|error| {
            let span = match &error {
                ProducerError::Property { name, .. } => {
                    properties.get_key_value(name.as_str()).map(|(name, _)| name.span())
                }
                _ => None,
            };
            self.source.error_without_values(span.unwrap_or_else(|| bootstrap.span()), error.to_string())
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether both were read from the same text.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.source.text() == other.source.text()
    }

    /// A pipeline of these streams, whose numbers start at 0.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), and never for a loaded one.
    pub fn pipeline(&self, salts: Arc<Salts>) -> Result<Pipeline, ConfigError> {
        Pipeline::compile(&self.config, &self.source, salts)
    }

    /// Salts for a recording: this node's own, one for each epoch that it goes through.
    #[must_use]
    pub fn salts_of_log(&self) -> Arc<Salts> {
        Arc::new(Salts::new(self.config.anonymize.rotate.get_ref().0, Clock::Log, Missing::Local))
    }
}

/// Where one reader of a log stopped, so that the next one neither misses nor repeats a transaction.
///
/// Every transaction that ended before `until` has been taken. Those that were unfinished then began at `from` or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandOver {
    /// Where the oldest unfinished transaction began; `until` when there was none.
    pub from: Position,
    /// Where reading stopped.
    pub until: Position,
}

/// What an engine inside varnishd reads: always natively, since a failed assertion in libvarnishapi would end the cache.
#[derive(Debug, Clone)]
pub enum Origin {
    /// The log of the varnishd with this working directory.
    Live {
        /// varnishd's working directory.
        directory: PathBuf,
        /// Where to begin.
        start: Start,
    },
    /// The log of the same child, where another engine left it.
    Continued {
        /// varnishd's working directory.
        directory: PathBuf,
        /// Where that engine stopped.
        hand_over: HandOver,
    },
}

/// An engine that cannot start.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The configuration does not hold any more.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// librdkafka refused a property or could not start.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// What a stream writes to cannot be opened.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// The salts cannot be kept.
    #[error(transparent)]
    Salt(#[from] KeeperError),
    /// The system gave no thread.
    #[error("starting a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// How long an engine waits for the cluster's salt before it begins to read: no longer than the smallest log has room for.
const FIRST_SALT: Duration = Duration::from_secs(1);

/// How often waiting looks again.
const POLL: Duration = Duration::from_millis(2);

/// Lines that have been waiting this long without a single acknowledgement mean that Kafka does not take them.
const STALLED: Duration = Duration::from_secs(30);

/// The running threads. Dropping an engine leaves them running; [`finish`](Self::finish) ends them.
#[derive(Debug)]
pub struct Engine {
    counters: Arc<Counters>,
    control: Arc<Control>,
    /// The producer's and the writer's.
    stops: [Arc<producer::Stop>; 2],
    threads: Vec<JoinHandle<()>>,
    /// Of ZooKeeper, where there is one.
    watch: Option<Watch>,
    addresses: Option<Addresses>,
    progress: Mutex<(u64, Instant)>,
}

impl Engine {
    /// Attaches to the log, then starts the threads: once this returns, no request is missed.
    ///
    /// # Errors
    ///
    /// [`EngineError`]; nothing is left running then.
    pub fn start(setup: &Setup, origin: &Origin) -> Result<Self, EngineError> {
        let (source, taken_until) = match origin {
            Origin::Live { directory, start } => (LiveLog::attach(directory, *start)?, None),
            Origin::Continued { directory, hand_over: HandOver { from, until } } => {
                (LiveLog::resume(directory, *from, *until)?, Some(*until))
            }
        };
        Self::with_source(setup, source, taken_until)
    }

    /// Starts the threads on a log that has been opened. Transactions that end before `taken_until` are not rendered.
    ///
    /// # Errors
    ///
    /// [`EngineError`]; nothing is left running then.
    pub fn with_source(
        setup: &Setup,
        mut source: impl LogSource + 'static,
        taken_until: Option<Position>,
    ) -> Result<Self, EngineError> {
        let config = setup.config();
        let streams = config.streams.get_ref();
        if *config.anonymize.ip.get_ref() == IpFunction::Raw {
            tracing::warn!("addresses of people are shown as they are: anonymize.ip is \"raw\"");
        }
        // A recording is of another time.
        let keeper = if source.waits() { None } else { Some(Keeper::get(&config.anonymize, &config.host)?) };
        let salts = keeper.as_ref().map_or_else(|| setup.salts_of_log(), |keeper| Arc::clone(keeper.salts()));
        let salt_counters = keeper.as_ref().map(|keeper| Arc::clone(keeper.counters())).unwrap_or_default();
        let counters = Arc::new(Counters::new(streams.len()).with_salt(salt_counters));
        let pipeline = setup.pipeline(salts)?;
        source.select(pipeline.wanted());

        let topic =
            |stream: &StreamConfig| Some((stream.name.get_ref().clone(), stream.topic.as_ref()?.get_ref().clone()));
        let topics: Vec<_> = streams.iter().map_while(topic).collect();
        let kafka_streams = topics.len();
        let budget = config.journal.max_bytes.get_ref().0;
        let (kafka_outlet, inlet) = producer::channel(budget, Arc::clone(&counters));
        let kafka = config.kafka.as_ref().filter(|_| kafka_streams > 0);
        let watch = kafka.and_then(Discovery::of).map(|discovery| Watch::start(discovery, Arc::clone(&counters)));
        let watch = watch.transpose()?;
        let addresses = watch.as_ref().map(|watch| Arc::clone(watch.addresses())).unwrap_or_default();
        let producer = kafka.map(|kafka| {
            Producer::new(kafka, addresses, &config.host, Boot::begin(), topics, Arc::clone(&counters), inlet)
        });
        let producer = producer.transpose()?;
        let (outlet, inlet) = producer::channel(writer::MEMORY, Arc::clone(&counters));
        let writer = match &streams[kafka_streams..] {
            [] => None,
            others => Some(Writer::new(kafka_streams, others, Arc::clone(&counters), inlet)?),
        };

        let addresses = keeper.map(|keeper| Addresses {
            keeper,
            ip: *config.anonymize.ip.get_ref(),
            ip6_prefix: *config.anonymize.ip6_prefix.get_ref(),
        });
        let control = Arc::new(Control::default());
        let mut reader = Reader {
            source,
            pipeline,
            outbox: Outbox::new(kafka_outlet, outlet, kafka_streams, streams.len()),
            counters: Arc::clone(&counters),
            control: Arc::clone(&control),
            taken_until,
            pace: Pace::default(),
            // The other half is for the lines of what is read in one go.
            patience: budget.min(writer::MEMORY) / 2,
            fault: Fault::from_environment(),
        };
        let stops = [Arc::new(producer::Stop::default()), Arc::new(producer::Stop::default())];
        let mut engine = Self {
            counters,
            control,
            stops,
            threads: Vec::new(),
            watch,
            addresses,
            progress: Mutex::new((0, Instant::now())),
        };
        let [to_producer, to_writer] = engine.stops.clone();
        // The log waits meanwhile.
        engine.addresses.iter().for_each(|addresses| addresses.keeper.wait(FIRST_SALT));
        // Names are cut at 15 bytes by the kernel.
        let started = engine
            .start_thread("kafkalog-send", producer.map(|mut producer| move || producer.run(&to_producer)))
            .and_then(|()| {
                engine.start_thread("kafkalog-write", writer.map(|mut writer| move || writer.run(&to_writer)))
            })
            .and_then(|()| engine.start_thread("kafkalog-read", Some(move || reader.run())));
        if let Err(error) = started {
            // The reader, the last one, does not run.
            engine.stop_sending(Instant::now());
            return Err(error.into());
        }
        Ok(engine)
    }

    /// Starts a thread, if there is something for it to do.
    fn start_thread(&mut self, name: &str, body: Option<impl FnOnce() + Send + 'static>) -> std::io::Result<()> {
        if let Some(body) = body {
            self.threads.push(thread::Builder::new().name(name.into()).spawn(body)?);
        }
        Ok(())
    }

    fn stop_sending(&self, deadline: Instant) {
        self.stops.iter().for_each(|stop| stop.ask(deadline));
    }

    /// Its way with addresses, unless it reads a recording.
    #[must_use]
    pub fn addresses(&self) -> Option<Addresses> {
        self.addresses.clone()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Whether lines are being acknowledged, or there is nothing to send: `false` once lines have waited for half a
    /// minute without one being acknowledged.
    #[must_use]
    pub fn healthy(&self) -> bool {
        let acknowledged = self.counters.streams.iter().map(|stream| stream.acknowledged.get()).sum();
        let mut progress = self.progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.counters.outstanding() == 0 || progress.0 != acknowledged {
            *progress = (acknowledged, Instant::now());
        }
        progress.1.elapsed() < STALLED
    }

    /// Waits until everything that is in the log has been read and acknowledged, at the most for `limit`. Reading goes
    /// on meanwhile and afterwards: nothing is torn down. Safe in an `atexit` handler.
    ///
    /// Returns whether nothing is outstanding.
    pub fn drain(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let drain = self.control.ask_drain();
        self.stops.iter().for_each(|stop| stop.hurry(deadline));
        let done = || (self.control.drained() >= drain || self.control.stopped()) && self.counters.outstanding() == 0;
        wait(deadline, done)
    }

    /// Waits until everything that is in the log now has been read, at the most for `limit`. Returns whether it has.
    pub fn read_up(&self, limit: Duration) -> bool {
        let asked = self.control.ask_read_up();
        wait(Instant::now() + limit, || self.control.read_up() >= asked || self.control.stopped())
    }

    /// Stops reading and tells where. Lines that were read go on to Kafka; [`finish`](Self::finish) waits for them.
    /// A second call returns the same place. `None` when the log has no positions, or the reader does not answer.
    pub fn hand_over(&self) -> Option<HandOver> {
        self.control.ask_hand_over();
        wait(Instant::now() + Duration::from_secs(2), || self.control.stopped());
        self.control.stopped_at()
    }

    /// Whether reading has ended: a recording's end, an error in it, or because it was told to.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.control.stopped()
    }

    /// The error that ended the reading of a recording, if one did.
    pub fn take_failure(&mut self) -> Option<LogError> {
        self.control.take_failure()
    }

    /// Stops reading, waits for acknowledgements at the most for `limit`, and ends the threads. Lines that are still
    /// not acknowledged are counted as lost. Returns whether there were none.
    pub fn finish(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.control.ask_end();
        wait(deadline, || self.control.stopped());
        self.stop_sending(deadline);
        for thread in self.threads {
            // The threads catch their panics.
            let _ = thread.join();
        }
        // Brokers may have come until now.
        drop((self.watch, self.addresses));
        self.counters.streams.iter().all(|stream| stream.lost(crate::counters::LossCause::Shutdown) == 0)
    }
}

/// Waits for a condition; `false` if the deadline came first.
fn wait(deadline: Instant, done: impl Fn() -> bool) -> bool {
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Layout, Read, Run, Tag};

    /// A log that gives a request at a time, as often as it has left, and takes its time for each.
    struct Slow {
        left: u32,
        run: Run,
        /// How long a request takes, or that the log waits.
        pause: Option<Duration>,
    }

    impl Slow {
        fn new(left: u32) -> Self {
            let request = [(Tag::BEGIN, 1, &b"req 0 rxreq"[..]), (Tag::REQ_URL, 1, b"/"), (Tag::END, 1, b"")];
            Self { left, run: Run::of_records(1, request), pause: Some(Duration::from_millis(1)) }
        }
    }

    impl LogSource for Slow {
        fn waits(&self) -> bool {
            self.pause.is_none()
        }

        fn read(&mut self) -> Result<Read<'_>, LogError> {
            if self.left == 0 {
                return Ok(Read::Idle);
            }
            self.left -= 1;
            self.pause.inspect(|pause| thread::sleep(*pause));
            Ok(Read::Records(self.run.records(Layout::One)))
        }
    }

    /// Nobody listens at the broker's address.
    fn start(source: Slow) -> Engine {
        let text = "host = \"edge1\"\n[kafka]\nbootstrap = [\"127.0.0.1:1\"]\n\
                    [[stream]]\nname = \"w\"\ntopic = \"t\"\njson = '%U@path'\n";
        let source_text = Source::from_text("k.toml", text.to_owned());
        let setup = Setup { config: Config::parse(&source_text).unwrap(), source: source_text };
        Engine::with_source(&setup, source, None).unwrap()
    }

    #[test]
    fn a_log_is_read_up_when_nothing_of_it_is_left() {
        let engine = start(Slow::new(100));
        assert!(engine.read_up(Duration::from_secs(60)));
        assert_eq!(engine.counters().streams[0].lines.get(), 100);
        assert!(!engine.finish(Duration::ZERO), "no line can have been acknowledged");
    }

    #[test]
    fn a_recording_is_read_no_faster_than_its_lines_are_taken() {
        let path = "x".repeat(50_000);
        let request = [(Tag::BEGIN, 1, &b"req 0 rxreq"[..]), (Tag::REQ_URL, 1, path.as_bytes()), (Tag::END, 1, b"")];
        let engine = start(Slow { left: 100_000, run: Run::of_records(1, request), pause: None });
        let backlog = || engine.counters().backlog_bytes.load(std::sync::atomic::Ordering::Relaxed);
        assert!(wait(Instant::now() + Duration::from_secs(60), || backlog() > writer::MEMORY / 2));
        thread::sleep(Duration::from_millis(100));
        let lines = engine.counters().streams[0].lines.get();
        assert!(lines < 10_000 && engine.counters().streams[0].lost_total() == 0, "{lines}");
        engine.finish(Duration::ZERO);
    }

    #[test]
    fn a_log_that_never_ends_is_not_waited_for_longer_than_that() {
        let engine = start(Slow::new(u32::MAX));
        assert!(!engine.read_up(Duration::from_millis(50)));
        assert!(!engine.ended());
        engine.finish(Duration::ZERO);
    }
}
