//! What a line costs between the reader and Kafka: CPU time by thread, against librdkafka's mock cluster in a process of its
//! own, so that only our side is counted.
//!
//! ```text
//! cargo bench -p kafkalog-benches --bench producer -- [--rate LINES] [--seconds N] [--bytes N] [--streams N] [--outage] [NAME=VALUE]…
//! ```
//!
//! `--rate 0` sends as fast as the memory bound allows. `NAME=VALUE` are librdkafka's properties. With `--outage` the brokers
//! go away, lines are sent until there is no room for more, and what they take in memory is shown beside the bound.
#![allow(clippy::print_stdout, reason = "a program whose result is its output")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use kafkalog::config::{Kafka, Property, Spanned};
use kafkalog::counters::Counters;
use kafkalog::message::{Boot, SaltId};
use kafkalog::producer::mock::MockCluster;
use kafkalog::producer::{self, Outlet, Producer, Stop};

type Error = Box<dyn std::error::Error>;

const BROKERS: u16 = 3;

/// What unacknowledged lines may take.
const MAX_BYTES: u64 = 256 << 20;

/// How often the reader hands on what it has.
const FLUSH: Duration = Duration::from_millis(4);

struct Options {
    rate: u64,
    seconds: u64,
    bytes: usize,
    streams: usize,
    outage: bool,
    properties: BTreeMap<Spanned<String>, Property>,
}

fn main() -> Result<(), Error> {
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let mut options =
        Options { rate: 20_000, seconds: 5, bytes: 650, streams: 1, outage: false, properties: BTreeMap::new() };
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64, Error> { Ok(arguments.next().ok_or("a number is missing")?.parse()?) };
        match argument.as_str() {
            "serve" => return serve(),
            "--rate" => options.rate = number()?,
            "--seconds" => options.seconds = number()?,
            "--bytes" => options.bytes = usize::try_from(number()?)?,
            "--outage" => options.outage = true,
            "--streams" => options.streams = usize::try_from(number()?)?,
            property => {
                let (name, value) = property.split_once('=').ok_or("expected NAME=VALUE")?;
                options.properties.insert(Spanned::new(0..0, name.to_owned()), value.into());
            }
        }
    }
    let mut broker =
        Command::new(env::current_exe()?).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut bootstrap = String::new();
    BufReader::new(broker.stdout.take().ok_or("the broker has no output")?).read_line(&mut bootstrap)?;
    let mut broker_input = broker.stdin.take().ok_or("the broker has no input")?;
    let result = if options.outage {
        outage(&options, bootstrap.trim(), &mut broker_input)
    } else {
        measure(&options, bootstrap.trim())
    };
    // The broker ends with its standard input.
    drop(broker_input);
    broker.wait()?;
    result
}

fn serve() -> Result<(), Error> {
    let cluster = MockCluster::start(BROKERS)?;
    println!("{}", cluster.bootstrap());
    // A line takes the brokers down.
    for _ in io::stdin().lines() {
        for broker in 1..=BROKERS {
            cluster.set_up(broker, false)?;
        }
    }
    Ok(())
}

/// A producer on a thread of its own, and the reader's side of it.
struct Rig {
    counters: Arc<Counters>,
    outlet: Outlet,
    next: Vec<u64>,
    stop: Arc<Stop>,
    thread: thread::JoinHandle<()>,
}

impl Rig {
    fn start(options: &Options, bootstrap: &str) -> Result<Self, Error> {
        let counters = Arc::new(Counters::new(options.streams));
        let (outlet, inlet) = producer::channel(MAX_BYTES, Arc::clone(&counters));
        let kafka = Kafka::listed(vec![bootstrap.to_owned()], options.properties.clone());
        let streams = (0..options.streams).map(|index| (format!("stream{index}"), format!("topic{index}"))).collect();
        let mut producer = Producer::new(
            &kafka,
            Arc::default(),
            "cp3052.esams.wmnet",
            Boot::begin(),
            streams,
            Arc::clone(&counters),
            inlet,
        )?;
        let stop = Arc::new(Stop::default());
        let thread = {
            let stop = Arc::clone(&stop);
            thread::Builder::new().name("kafkalog-send".into()).spawn(move || producer.run(&stop))?
        };
        let mut rig = Self { counters, outlet, next: vec![0; options.streams], stop, thread };
        // Connections, metadata and the first page faults are not what is measured.
        rig.feed(options, Duration::from_secs(1));
        Ok(rig)
    }

    fn acknowledged(&self) -> u64 {
        self.counters.streams.iter().map(|stream| stream.acknowledged.get()).sum()
    }

    fn lost(&self) -> u64 {
        self.counters.streams.iter().map(|stream| stream.lost_total()).sum()
    }

    fn finish(self, limit: Duration) -> Result<Arc<Counters>, Error> {
        self.stop.ask(Instant::now() + limit);
        self.thread.join().map_err(|_| "the producer thread panicked")?;
        Ok(self.counters)
    }

    /// Plays the reader: lines at a rate, handed on every few milliseconds. Returns how many there was no room for.
    fn feed(&mut self, options: &Options, length: Duration) -> u64 {
        let text = vec![b'x'; options.bytes];
        let salt = Some(SaltId { epoch: 20_633, generation: Some(1), digest: 0x0bad_cafe });
        let (began, mut sent, mut dropped) = (Instant::now(), 0, 0);
        while began.elapsed() < length {
            let due = match options.rate {
                0 => sent + 4096,
                rate => (began.elapsed().as_secs_f64() * rate as f64) as u64,
            };
            let each = due.saturating_sub(sent).div_ceil(options.streams as u64);
            for (stream, next) in self.next.iter_mut().enumerate() {
                let mut left = each;
                while left > 0 {
                    let Some(mut batch) = self.outlet.take() else { break };
                    batch.begin(stream, *next, salt);
                    while left > 0 && !batch.ends_block() && batch.bytes() < self.outlet.full() {
                        batch.arena().extend_from_slice(&text);
                        batch.commit(1_787_000_000_000, true);
                        self.counters.streams[stream].lines.add(1);
                        left -= 1;
                    }
                    *next = batch.next_sequence();
                    sent += batch.len() as u64;
                    self.outlet.send(batch);
                }
                dropped += left;
            }
            if options.rate > 0 || self.counters.backlog_bytes.load(Ordering::Relaxed) > MAX_BYTES / 4 {
                thread::sleep(FLUSH);
            }
        }
        dropped
    }
}

fn measure(options: &Options, bootstrap: &str) -> Result<(), Error> {
    let mut rig = Rig::start(options, bootstrap)?;
    let (before, lines, began) = (cpu_by_thread()?, rig.acknowledged(), Instant::now());
    rig.feed(options, Duration::from_secs(options.seconds));
    let (after, lines, elapsed) = (cpu_by_thread()?, rig.acknowledged() - lines, began.elapsed());
    let counters = rig.finish(Duration::from_secs(30))?;

    println!("{:>9.0} lines/s, {} bytes each", lines as f64 / elapsed.as_secs_f64(), options.bytes);
    let mut total = 0.0;
    for (name, time) in after {
        let spent = time.saturating_sub(before.get(&name).copied().unwrap_or_default()) as f64;
        let per_line = spent / lines as f64 / 1000.0;
        if name != main_name()? {
            total += per_line;
        }
        println!("{per_line:>9.3} µs a line  {name}  ({:.3} % of a core)", spent / elapsed.as_nanos() as f64 * 100.0);
    }
    println!("{total:>9.3} µs a line  without the feeding thread");
    println!("lost {}", counters.streams.iter().map(|stream| stream.lost_total()).sum::<u64>());
    Ok(())
}

fn outage(options: &Options, bootstrap: &str, broker: &mut impl Write) -> Result<(), Error> {
    let before = resident()?;
    let mut rig = Rig::start(options, bootstrap)?;
    writeln!(broker, "down")?;
    broker.flush()?;
    thread::sleep(Duration::from_millis(200));
    let lines = rig.acknowledged() + rig.lost();
    rig.feed(options, Duration::from_secs(options.seconds));
    let waiting = rig.next.iter().sum::<u64>() - lines;
    println!("{waiting} lines of {} bytes wait, {} KiB of text", options.bytes, (waiting * options.bytes as u64) >> 10);
    println!(
        "{} KiB resident more than at the start, {} KiB are allowed",
        resident()?.saturating_sub(before),
        MAX_BYTES >> 10
    );
    rig.finish(Duration::from_millis(100))?;
    Ok(())
}

/// Memory of this process, KiB.
fn resident() -> Result<u64, Error> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("there is no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// CPU time of each thread so far, nanoseconds, by name.
fn cpu_by_thread() -> Result<BTreeMap<String, u64>, Error> {
    let mut times = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // A thread may end meanwhile.
        let (Ok(name), Ok(times_text)) =
            (fs::read_to_string(task.join("comm")), fs::read_to_string(task.join("schedstat")))
        else {
            continue;
        };
        let time: u64 = times_text.split(' ').next().unwrap_or_default().parse()?;
        *times.entry(name.trim().to_owned()).or_insert(0) += time;
    }
    Ok(times)
}

fn main_name() -> Result<String, Error> {
    Ok(fs::read_to_string(format!("/proc/self/task/{}/comm", std::process::id()))?.trim().to_owned())
}
