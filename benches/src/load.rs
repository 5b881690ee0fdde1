//! A load that costs little: several requests in flight on each connection, answers read and dropped.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use memchr::memmem;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// What to send, and how.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// varnishd.
    pub address: SocketAddrV4,
    /// Connections, each with a thread.
    pub connections: u64,
    /// Requests that are sent over a connection before the first of them is answered.
    pub in_flight: u64,
    /// Set from elsewhere, it ends the load early.
    pub stop: &'a AtomicBool,
}

impl Load<'_> {
    /// Sends the requests 0 to `requests` as `request` appends them, and returns how long that took.
    ///
    /// # Errors
    ///
    /// At the first answer that is neither 200 nor a redirect, and when `stop` is set.
    pub fn run(&self, requests: u64, request: impl Fn(u64, &mut Vec<u8>) + Sync) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let request = &request;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for first in 0..self.connections {
                let numbers = (first..requests).step_by(self.connections as usize);
                let connection = thread::Builder::new().name(format!("load {first}"));
                let run = move || self.connection(numbers, request);
                threads.push(connection.spawn_scoped(scope, run).context("starting a thread")?);
            }
            for thread in threads {
                thread.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))??;
            }
            Ok(began.elapsed())
        })
    }

    fn connection(
        &self,
        mut numbers: impl Iterator<Item = u64>,
        request: &(impl Fn(u64, &mut Vec<u8>) + Sync),
    ) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.address).context("connecting to varnishd")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let mut answers = Answers::new();
        let mut text = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            text.clear();
            let mut waiting = 0_u64;
            for number in numbers.by_ref().take(self.in_flight as usize) {
                request(number, &mut text);
                waiting += 1;
            }
            if waiting == 0 {
                return Ok(());
            }
            if self.stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            stream.write_all(&text).context("sending requests")?;
            while waiting > 0 {
                let count = stream.read(&mut buffer).context("reading answers")?;
                if count == 0 {
                    bail!("varnishd closed a connection before its last answer");
                }
                let answered = answers.count(&buffer[..count])?;
                waiting = waiting.checked_sub(answered).context("more answers than requests")?;
            }
        }
    }
}

/// Counts answers in a stream of bytes.
struct Answers {
    end: memmem::Finder<'static>,
    length: memmem::Finder<'static>,
    /// The beginning of a head that was cut.
    head: Vec<u8>,
    /// Bytes of a body that are still to come; its answer is counted with the last of them.
    body: usize,
}

impl Answers {
    fn new() -> Self {
        Self {
            end: memmem::Finder::new(b"\r\n\r\n"),
            length: memmem::Finder::new(b"\r\nContent-Length: "),
            head: Vec::new(),
            body: 0,
        }
    }

    /// How many answers end in `bytes`.
    fn count(&mut self, mut bytes: &[u8]) -> anyhow::Result<u64> {
        let mut count = 0;
        loop {
            if self.body > bytes.len() {
                self.body -= bytes.len();
                return Ok(count);
            }
            if self.body > 0 {
                bytes = &bytes[self.body..];
                self.body = 0;
                count += 1;
            }
            if bytes.is_empty() {
                return Ok(count);
            }
            // A head that was cut is put together, which is rare.
            let cut = self.head.len();
            self.body = if cut == 0 {
                let Some(end) = self.end.find(bytes) else {
                    self.head.extend_from_slice(bytes);
                    return Ok(count);
                };
                let body = self.body_length(&bytes[..end + 2])?;
                bytes = &bytes[end + 4..];
                body
            } else {
                self.head.extend_from_slice(bytes);
                let Some(end) = self.end.find(&self.head) else { return Ok(count) };
                let body = self.body_length(&self.head[..end + 2])?;
                bytes = &bytes[end + 4 - cut..];
                self.head.clear();
                body
            };
        }
    }

    /// Of an answer with this head. None of the answers has an empty body.
    fn body_length(&self, head: &[u8]) -> anyhow::Result<usize> {
        if !head.starts_with(b"HTTP/1.1 200 ") && !head.starts_with(b"HTTP/1.1 302 ") {
            bail!("the answer is {:?}", String::from_utf8_lossy(&head[..head.len().min(40)]));
        }
        let length = self.length.find(head).map(|at| &head[at + self.length.needle().len()..]);
        let digits = length.and_then(|length| length.split(|byte| *byte == b'\r').next());
        let length = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        length.filter(|length| *length > 0).context("an answer without a length")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_however_they_are_cut() {
        let stream = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nAge: 1\r\n\r\nabcHTTP/1.1 302 Found\r\n\
                       Content-Length: 1\r\n\r\nd"
            .repeat(3);
        for size in 1..stream.len() {
            let mut answers = Answers::new();
            let count: u64 = stream.chunks(size).map(|bytes| answers.count(bytes).unwrap()).sum();
            assert_eq!(count, 6, "{size} bytes at a time");
        }
        assert!(Answers::new().count(b"HTTP/1.1 503 no\r\n\r\n").is_err());
        assert!(Answers::new().count(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
