//! What a line costs between the reader and Kafka: CPU time by thread, against librdkafka's mock cluster in a process of its
//! own, so that only our side is counted.
//!
//! ```text
//! cargo bench -p kafkalog-benches --bench producer -- [--rate LINES] [--seconds N] [--bytes N] [--streams N] [NAME=VALUE]…
//! ```
//!
//! `--rate 0` sends as fast as the memory bound allows. `NAME=VALUE` are librdkafka's properties.
#![allow(clippy::print_stdout, reason = "a program whose result is its output")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use kafkalog::config::{Kafka, Spanned};
use kafkalog::counters::Counters;
use kafkalog::message::{Boot, SaltId};
use kafkalog::producer::mock::MockCluster;
use kafkalog::producer::{self, Outlet, Producer, Stop};

type Error = Box<dyn std::error::Error>;

/// How often the reader hands on what it has.
const FLUSH: Duration = Duration::from_millis(4);

struct Options {
    rate: u64,
    seconds: u64,
    bytes: usize,
    streams: usize,
    properties: BTreeMap<String, String>,
}

fn main() -> Result<(), Error> {
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let mut options = Options { rate: 20_000, seconds: 5, bytes: 650, streams: 1, properties: BTreeMap::new() };
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64, Error> { Ok(arguments.next().ok_or("a number is missing")?.parse()?) };
        match argument.as_str() {
            "serve" => return serve(),
            "--rate" => options.rate = number()?,
            "--seconds" => options.seconds = number()?,
            "--bytes" => options.bytes = usize::try_from(number()?)?,
            "--streams" => options.streams = usize::try_from(number()?)?,
            property => {
                let (name, value) = property.split_once('=').ok_or("expected NAME=VALUE")?;
                options.properties.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    let mut broker =
        Command::new(env::current_exe()?).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut bootstrap = String::new();
    BufReader::new(broker.stdout.take().ok_or("the broker has no output")?).read_line(&mut bootstrap)?;
    let result = measure(&options, bootstrap.trim());
    // The broker ends with its standard input.
    drop(broker.stdin.take());
    broker.wait()?;
    result
}

fn serve() -> Result<(), Error> {
    let cluster = MockCluster::start(3)?;
    println!("{}", cluster.bootstrap());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn measure(options: &Options, bootstrap: &str) -> Result<(), Error> {
    let counters = Arc::new(Counters::new(options.streams));
    let (mut outlet, inlet) = producer::channel(256 << 20, Arc::clone(&counters));
    let kafka =
        Kafka { bootstrap: Spanned::new(0..0, vec![bootstrap.to_owned()]), properties: options.properties.clone() };
    let streams = (0..options.streams).map(|index| (format!("stream{index}"), format!("topic{index}"))).collect();
    let mut producer =
        Producer::new(&kafka, "cp3052.esams.wmnet", Boot::begin(), streams, Arc::clone(&counters), inlet)?;
    let stop = Arc::new(Stop::default());
    let thread = {
        let stop = Arc::clone(&stop);
        thread::Builder::new().name("kafkalog-send".into()).spawn(move || producer.run(&stop))?
    };

    let mut next = vec![0; options.streams];
    // Connections, metadata and the first page faults are not what is measured.
    feed(options, &counters, &mut outlet, &mut next, Duration::from_secs(1));
    let (before, lines, began) = (cpu_by_thread()?, acknowledged(&counters), Instant::now());
    feed(options, &counters, &mut outlet, &mut next, Duration::from_secs(options.seconds));
    let (after, lines, elapsed) = (cpu_by_thread()?, acknowledged(&counters) - lines, began.elapsed());
    stop.ask(Instant::now() + Duration::from_secs(30));
    thread.join().map_err(|_| "the producer thread panicked")?;

    println!("{:>9.0} lines/s, {} bytes each", lines as f64 / elapsed.as_secs_f64(), options.bytes);
    let mut total = 0.0;
    for (name, time) in after {
        let spent = time.saturating_sub(before.get(&name).copied().unwrap_or_default()) as f64;
        let per_line = spent / lines as f64 / 1000.0;
        if name != main_name()? {
            total += per_line;
        }
        println!("{per_line:>9.3} µs a line  {name}  ({:.2} % of a core)", spent / elapsed.as_nanos() as f64 * 100.0);
    }
    println!("{total:>9.3} µs a line  without the feeding thread");
    println!("lost {}", counters.streams.iter().map(|stream| stream.lost_total()).sum::<u64>());
    Ok(())
}

fn acknowledged(counters: &Counters) -> u64 {
    counters.streams.iter().map(|stream| stream.acknowledged.get()).sum()
}

/// Plays the reader: lines at a rate, handed on every few milliseconds.
fn feed(options: &Options, counters: &Counters, outlet: &mut Outlet, next: &mut [u64], length: Duration) {
    let text = vec![b'x'; options.bytes];
    let salt = Some(SaltId { epoch: 20_633, generation: Some(1), digest: 0x0bad_cafe });
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < length {
        let due = match options.rate {
            0 => sent + 4096,
            rate => (began.elapsed().as_secs_f64() * rate as f64) as u64,
        };
        let each = (due - sent).div_ceil(options.streams as u64);
        for (stream, next) in next.iter_mut().enumerate() {
            let mut left = each;
            while left > 0 {
                let Some(mut batch) = outlet.take() else { break };
                batch.begin(stream, *next, salt);
                while left > 0 && !batch.ends_block() && batch.bytes() < 128 << 10 {
                    batch.arena().extend_from_slice(&text);
                    batch.commit(1_787_000_000_000, true);
                    counters.streams[stream].lines.add(1);
                    left -= 1;
                }
                *next = batch.next_sequence();
                sent += batch.len() as u64;
                outlet.send(batch);
            }
        }
        if options.rate > 0 || counters.backlog_bytes.load(Ordering::Relaxed) > 64 << 20 {
            thread::sleep(FLUSH);
        }
    }
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
