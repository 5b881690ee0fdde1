//! A mock cluster, sinks in threads, and a reader of what they wrote.
#![allow(dead_code, missing_docs, missing_debug_implementations, unreachable_pub)] // Each scenario uses its part.

pub mod fault;
pub mod memory;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use kafkalog::config::Source;
use kafkalog::message::{Boot, HEADER_BOOT, HEADER_HOST, HEADER_SEQUENCE, HEADER_STREAM};
use kafkalog_sink::path::DataFile;
use kafkalog_sink::store::{self, Store};
use kafkalog_sink::{Config, Outcome, Sink, SinkError};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// 2013-03-01T14:00:00Z, in milliseconds.
pub const HOUR_14: i64 = 1_362_146_400_000;
pub const HOUR: i64 = 3_600_000;

/// librdkafka's mock cluster with one broker, and a producer to it.
pub struct Cluster {
    producer: BaseProducer,
}

/// A line to produce.
#[derive(Debug, Clone)]
pub struct Line {
    pub partition: i32,
    pub timestamp: i64,
    pub text: String,
    pub headers: Option<OwnedHeaders>,
}

impl Line {
    pub fn new(partition: i32, timestamp: i64, text: impl Into<String>) -> Self {
        Self { partition, timestamp, text: text.into(), headers: None }
    }

    pub fn numbered(mut self, host: &str, boot: Boot, sequence: u64) -> Self {
        let sequence = sequence.to_be_bytes();
        let pairs: [(&str, &[u8]); 4] = [
            (HEADER_HOST, host.as_bytes()),
            (HEADER_BOOT, boot.as_bytes()),
            (HEADER_STREAM, b"webrequest"),
            (HEADER_SEQUENCE, &sequence),
        ];
        self.headers =
            Some(pairs.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(*value) })
            }));
        self
    }
}

impl Cluster {
    pub fn start() -> Self {
        let producer: BaseProducer =
            ClientConfig::new().set("test.mock.num.brokers", "1").set("linger.ms", "1").create().unwrap();
        shorten_the_first_rebalance(&producer);
        Self { producer }
    }

    pub fn bootstrap(&self) -> String {
        self.producer.client().mock_cluster().unwrap().bootstrap_servers()
    }

    pub fn topic(&self, name: &str, partitions: i32) {
        self.producer.client().mock_cluster().unwrap().create_topic(name, partitions, 1).unwrap();
    }

    /// Sends lines and waits until they are there.
    pub fn produce<'a>(&self, topic: &str, lines: impl IntoIterator<Item = &'a Line>) {
        for line in lines {
            let mut record = BaseRecord::<(), str>::to(topic)
                .partition(line.partition)
                .timestamp(line.timestamp)
                .payload(&line.text);
            record.headers = line.headers.clone();
            self.producer.send(record).map_err(|(error, _)| error).unwrap();
            self.producer.poll(Duration::ZERO);
        }
        self.producer.flush(Duration::from_secs(20)).unwrap();
    }

    /// Sends a message without a payload.
    pub fn produce_nothing(&self, topic: &str, partition: i32) {
        self.producer.send(BaseRecord::<(), str>::to(topic).partition(partition)).map_err(|(error, _)| error).unwrap();
        self.producer.flush(Duration::from_secs(20)).unwrap();
    }

    /// The committed offset of each partition from 0 on; `None` where there is none.
    pub fn committed(&self, group: &str, topic: &str, partitions: i32) -> Vec<Option<i64>> {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", self.bootstrap()).set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let committed = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
        let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        committed.elements().iter().map(offset).collect()
    }
}

/// Three seconds by default, in which the mock cluster waits for more members before it assigns anything.
#[allow(unsafe_code)]
fn shorten_the_first_rebalance(producer: &BaseProducer) {
    use rdkafka::bindings::{rd_kafka_handle_mock_cluster, rd_kafka_mock_group_initial_rebalance_delay_ms};
    // SAFETY: the client is alive, and has a mock cluster, which lives as long as the client.
    unsafe {
        let cluster = rd_kafka_handle_mock_cluster(producer.client().native_ptr());
        assert!(!cluster.is_null());
        rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 100);
    }
}

/// A table with one topic of the same name, in a group of the same name; `more` is added to the table.
pub fn configuration(cluster: &Cluster, directory: &Path, name: &str, more: &str) -> Config {
    let text = configuration_text(cluster, directory, name, more);
    Config::parse(&Source::from_text("sink.toml", text)).unwrap()
}

pub fn configuration_text(cluster: &Cluster, directory: &Path, name: &str, more: &str) -> String {
    format!(
        r#"
[kafka]
bootstrap = ["{}"]
group = "{name}"
properties = {{ "session.timeout.ms" = "6000", "heartbeat.interval.ms" = "500", "fetch.wait.max.ms" = "50" }}
[store]
url = "file://{}"
[[table]]
name = "{name}"
topics = ["{name}"]
{more}
"#,
        cluster.bootstrap(),
        directory.display()
    )
}

/// A sink in a thread.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Outcome, SinkError>>,
}

pub fn run(config: &Config) -> Running {
    run_with(config, store::open(&config.store))
}

pub fn run_with(config: &Config, store: Arc<dyn Store>) -> Running {
    let sink = Sink::with_store(config, store).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let thread = thread::Builder::new().name("sink".to_owned()).spawn(move || sink.run(&flag)).unwrap();
    Running { stop, thread }
}

impl Running {
    /// Stops it and gives what it did.
    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap().unwrap()
    }

    /// Waits until it stops by itself, and gives the reason.
    pub fn failure(self) -> SinkError {
        wait_until("the sink gives up", || self.thread.is_finished());
        self.thread.join().unwrap().unwrap_err()
    }
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A data file, as a reader of the table finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Below the table's directory.
    pub path: String,
    pub partition: i32,
    pub first: i64,
    pub last: i64,
    pub lines: Vec<String>,
}

/// All data files below a table's directory, by path. Fails at anything else that is visible in a hour's directory.
pub fn files(table: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for path in walk(table) {
        let relative = path.strip_prefix(table).unwrap().to_str().unwrap().to_owned();
        if relative.starts_with("_tmp") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let file = DataFile::parse(name).unwrap_or_else(|| panic!("{relative} is no data file"));
        let (partition, first, last) = (file.partition, file.first, file.last);
        found.push(Found { path: relative, partition, first, last, lines: lines(&path) });
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// How often each line is in a table's files.
pub fn counts(table: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in files(table).into_iter().flat_map(|file| file.lines) {
        *counts.entry(line).or_default() += 1;
    }
    counts
}

/// Whether each of the lines is in the table once, and nothing else is.
#[track_caller]
pub fn assert_exactly<'a>(table: &Path, lines: impl IntoIterator<Item = &'a Line>) {
    let expected: BTreeMap<String, usize> = lines.into_iter().map(|line| (line.text.clone(), 1)).collect();
    let counts = counts(table);
    let lost: Vec<_> = expected.keys().filter(|line| !counts.contains_key(*line)).collect();
    let wrong: Vec<_> = counts.iter().filter(|(line, count)| expected.get(*line) != Some(*count)).collect();
    assert!(lost.is_empty() && wrong.is_empty(), "lost: {lost:?}; doubled or unknown: {wrong:?}");
}

pub fn temporary(table: &Path) -> Vec<PathBuf> {
    walk(&table.join("_tmp"))
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.append(&mut walk(&path)),
            false => found.push(path),
        }
    }
    found
}

fn lines(path: &Path) -> Vec<String> {
    let mut text = String::new();
    let mut file = fs::File::open(path).unwrap();
    match path.extension().is_some_and(|extension| extension == "gz") {
        true => MultiGzDecoder::new(file).read_to_string(&mut text).unwrap(),
        false => file.read_to_string(&mut text).unwrap(),
    };
    assert!(text.ends_with('\n'), "{} is cut off", path.display());
    text.lines().map(str::to_owned).collect()
}
