//! `kafkalog replay`: a recorded log through the pipeline.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use kafkalog::counters::Counters;
use kafkalog::engine::{Engine, Setup};
use kafkalog::log::{LogSource, Read, Recording};
use kafkalog::message::SaltId;
use kafkalog::pipeline::Output;

/// How long Kafka may take for the last lines of a recording.
const FINISH: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    /// The recording, made by varnishlog -w; - is standard input
    #[arg(short = 'r', value_name = "RECORDING")]
    recording: PathBuf,
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Write the lines of this stream to standard output, and do not touch Kafka
    #[arg(long, value_name = "STREAM")]
    stdout: Option<String>,
}

impl Replay {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let setup = super::load(&self.config)?;
        let recording = Recording::open(&self.recording)?;
        match &self.stdout {
            Some(stream) => to_stdout(&setup, recording, stream),
            None => self.to_kafka(&setup, recording),
        }
    }

    fn to_kafka(&self, setup: &std::sync::Arc<Setup>, recording: Recording) -> anyhow::Result<()> {
        let stop = super::stop_flag()?;
        let mut engine = Engine::with_source(setup, recording, None).context("starting")?;
        while !engine.ended() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let failure = engine.take_failure();
        let counters = std::sync::Arc::clone(engine.counters());
        engine.finish(FINISH);
        let complete = super::report(setup, &counters);
        match failure {
            Some(error) => Err(error.into()),
            None if complete => Ok(()),
            None => bail!("lines were lost, as counted above"),
        }
    }
}

fn to_stdout(setup: &Setup, mut recording: Recording, stream: &str) -> anyhow::Result<()> {
    let streams = setup.config().streams.get_ref();
    let stream = streams.iter().position(|known| known.name.get_ref() == stream).ok_or_else(|| {
        let known: Vec<_> = streams.iter().map(|known| known.name.get_ref().as_str()).collect();
        anyhow!("--stdout {stream}: there is no such stream, expected one of: {}", known.join(", "))
    })?;
    let mut pipeline = setup.pipeline(setup.salts_of_log())?;
    let counters = Counters::new(streams.len());
    let mut output =
        Text { out: BufWriter::with_capacity(256 << 10, io::stdout().lock()), stream, line: Vec::new(), error: None };
    recording.select(pipeline.wanted());
    let now = Instant::now();
    let result = loop {
        match recording.read() {
            Ok(Read::Records(records)) => pipeline.feed(records, now, None, &counters, &mut output),
            Ok(Read::Idle | Read::Event(_)) => {}
            Ok(Read::End) => break Ok(()),
            Err(error) => break Err(error),
        }
        if output.error.is_some() {
            break Ok(());
        }
    };
    pipeline.give_up_all(&counters, &mut output);
    let written = output.error.take().map_or_else(|| output.out.flush(), Err);
    match written {
        // Whoever reads has had enough: `… | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => {
            written.context("writing to standard output")?;
            Ok(result?)
        }
    }
}

/// The lines of one stream, as text.
struct Text<W> {
    out: W,
    stream: usize,
    line: Vec<u8>,
    error: Option<io::Error>,
}

impl<W: Write> Output for Text<W> {
    fn line(&mut self, _stream: usize, _sequence: u64, _salt: Option<SaltId>) -> Option<&mut Vec<u8>> {
        self.line.clear();
        Some(&mut self.line)
    }

    fn commit(&mut self, stream: usize, _timestamp: i64, _hashed: bool) {
        if stream == self.stream && self.error.is_none() {
            self.line.push(b'\n');
            self.error = self.out.write_all(&self.line).err();
        }
    }

    fn roll_back(&mut self, _stream: usize) {}
}
