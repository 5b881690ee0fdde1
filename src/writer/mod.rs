//! The writer thread: batches of the streams that do not go to Kafka, to standard output, files and datagrams.
//!
//! It shares nothing with the producer thread: a disk that hangs holds up no other stream than those that are written there.
//! What cannot be written now waits in memory, within bounds; beyond them new lines are dropped and counted.

mod sink;

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use self::sink::{Put, Sink};
use crate::batch::Batch;
use crate::config::StreamConfig;
use crate::counters::{Counters, LossCause};
use crate::producer::{Inlet, Stop};

/// The memory for lines that wait to be written, bytes.
pub const MEMORY: u64 = 64 << 20;

/// How long the thread sleeps when there is nothing to do, and when somebody waits for it. The reader does not wake it.
const NAP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(3));

/// How long until what failed is tried again, and how often it is looked whether a file has been moved away.
const RETRY: Duration = Duration::from_secs(1);

/// An output that cannot be opened.
#[derive(Debug, Error)]
#[error("the output of the stream `{stream}`: {doing}: {source}")]
pub struct WriterError {
    stream: String,
    doing: String,
    source: io::Error,
}

/// A stream and the lines that wait for it.
#[derive(Debug)]
struct Stream {
    name: String,
    sink: Sink,
    queue: VecDeque<Box<Batch>>,
    /// Lines of the first batch that have been put.
    put: usize,
    retry_at: Option<Instant>,
}

/// What the writer thread owns.
#[derive(Debug)]
pub struct Writer {
    /// The index of the first of the streams in the configuration.
    first: usize,
    streams: Vec<Stream>,
    counters: Arc<Counters>,
    inlet: Inlet,
    look_at: Instant,
}

impl Writer {
    /// Opens the outputs of `streams`, the first of which has the index `first` in the configuration.
    ///
    /// # Errors
    ///
    /// [`WriterError`] for the first that cannot be opened.
    pub fn new(
        first: usize,
        streams: &[StreamConfig],
        counters: Arc<Counters>,
        inlet: Inlet,
    ) -> Result<Self, WriterError> {
        let open = |stream: &StreamConfig| {
            let name = stream.name.get_ref().clone();
            match Sink::open(stream.output.get_ref()) {
                Ok(sink) => Ok(Stream { name, sink, queue: VecDeque::new(), put: 0, retry_at: None }),
                Err((doing, source)) => Err(WriterError { stream: name, doing, source }),
            }
        };
        let streams = streams.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { first, streams, counters, inlet, look_at: Instant::now() })
    }

    /// The thread's body: writes until told to stop. A panic is caught, counted, and survived.
    pub fn run(&mut self, stop: &Stop) {
        stop.begin();
        while catch_unwind(AssertUnwindSafe(|| self.write(stop))).is_err() {
            self.counters.panics.add(1);
            tracing::error!("a defect in the writer thread was caught; writing goes on");
            for index in 0..self.streams.len() {
                self.lose(index, LossCause::Panic, 1);
            }
            thread::sleep(RETRY);
        }
    }

    fn write(&mut self, stop: &Stop) {
        loop {
            // Asked before what was sent is taken in: whoever asks has sent everything.
            let deadline = stop.deadline();
            while let Some(batch) = self.inlet.take() {
                self.streams[batch.stream - self.first].queue.push_back(batch);
            }
            for index in 0..self.streams.len() {
                self.write_stream(index);
            }
            self.look_for_moved_files();
            if let Some(deadline) = deadline {
                if self.streams.iter().all(|stream| stream.queue.is_empty()) {
                    return;
                }
                if Instant::now() >= deadline {
                    (0..self.streams.len()).for_each(|index| self.lose(index, LossCause::Shutdown, usize::MAX));
                    return;
                }
            }
            thread::park_timeout(if stop.is_urgent() { NAP.1 } else { NAP.0 });
        }
    }

    /// Writes what a stream takes now.
    fn write_stream(&mut self, index: usize) {
        let Stream { name, sink, queue, put, retry_at } = &mut self.streams[index];
        if retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let counts = &self.counters.streams[self.first + index];
        while let Some(batch) = queue.front() {
            let (settled, outcome) = sink.put(batch, *put);
            let bytes: usize =
                (*put..*put + settled).filter_map(|line| batch.line(line)).map(|(_, text)| text.len()).sum();
            *put += settled;
            counts.acknowledged.add(settled as u64);
            counts.acknowledged_bytes.add(bytes as u64);
            match outcome {
                Put::Done => {
                    if retry_at.take().is_some() {
                        tracing::info!(stream = name, "its output works again");
                    }
                }
                Put::Later => return,
                Put::Lost(cause) => {
                    *put += 1;
                    counts.lose(cause, 1);
                }
                Put::Failed(error) => {
                    if retry_at.is_none() {
                        tracing::error!(stream = name, %error, "its output fails; lines wait in memory, as far as there is room");
                    }
                    *retry_at = Some(Instant::now() + RETRY);
                    return;
                }
            }
            if *put >= batch.len() {
                *put = 0;
                if let Some(batch) = queue.pop_front() {
                    self.inlet.give_back(batch);
                }
            }
        }
    }

    /// Gives up so many of the lines that wait for a stream.
    fn lose(&mut self, index: usize, cause: LossCause, mut lines: usize) {
        let Stream { queue, put, .. } = &mut self.streams[index];
        while let Some(batch) = queue.front()
            && lines > 0
        {
            let lost = lines.min(batch.len() - *put);
            self.counters.streams[self.first + index].lose(cause, lost as u64);
            lines -= lost;
            *put += lost;
            if *put >= batch.len() {
                *put = 0;
                if let Some(batch) = queue.pop_front() {
                    self.inlet.give_back(batch);
                }
            }
        }
    }

    fn look_for_moved_files(&mut self) {
        let now = Instant::now();
        if now < self.look_at {
            return;
        }
        self.look_at = now + RETRY;
        for Stream { name, sink, .. } in &mut self.streams {
            match sink.follow() {
                Ok(false) => {}
                Ok(true) => tracing::info!(stream = name.as_str(), "its file was moved away; going on with a new one"),
                Err(error) => tracing::warn!(
                    stream = name.as_str(),
                    %error,
                    "its file was moved away, and no new one can be opened; going on with the old one"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests;
