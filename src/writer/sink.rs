//! What lines are written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{ToSocketAddrs as _, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::batch::Batch;
use crate::config::OutputConfig;
use crate::counters::LossCause;

/// What may be written to a pipe that has room at all, without waiting (PIPE_BUF).
const PIPE: usize = 4096;

/// An open output.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout { file: File, text: Text },
    File { path: PathBuf, file: File, text: Text },
    Udp { socket: UdpSocket, datagram: Vec<u8> },
}

/// What became of the lines that were to be put.
#[derive(Debug)]
pub(super) enum Put {
    /// All of them are.
    Done,
    /// The output takes no more at the moment.
    Later,
    /// The line behind them is lost.
    Lost(LossCause),
    /// None more can be put now.
    Failed(io::Error),
}

/// Lines as they are written, with line feeds, and how far they have been.
#[derive(Debug, Default)]
pub(super) struct Text {
    bytes: Vec<u8>,
    written: usize,
}

impl Text {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    fn fill(&mut self, batch: &Batch, from: usize) {
        self.bytes.clear();
        self.written = 0;
        for (_, text) in (from..).map_while(|line| batch.line(line)) {
            self.bytes.extend_from_slice(text);
            self.bytes.push(b'\n');
        }
    }

    /// Writes on, `most` bytes at the most.
    fn write(&mut self, file: &mut File, most: usize) -> io::Result<()> {
        let rest = &self.bytes[self.written..];
        match file.write(&rest[..rest.len().min(most)]) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                self.written += count;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Sink {
    /// Opens an output.
    pub(super) fn open(output: &OutputConfig) -> Result<Self, (String, io::Error)> {
        match output {
            OutputConfig::Kafka => Err(("opening".to_owned(), io::ErrorKind::Unsupported.into())),
            OutputConfig::Stdout => match io::stdout().as_fd().try_clone_to_owned() {
                Ok(file) => Ok(Self::Stdout { file: file.into(), text: Text::default() }),
                Err(error) => Err(("opening standard output".to_owned(), error)),
            },
            OutputConfig::File(path) => match append_to(path) {
                Ok(file) => Ok(Self::File { path: path.clone(), file, text: Text::default() }),
                Err(error) => Err((format!("opening {}", path.display()), error)),
            },
            OutputConfig::Udp(address) => match connect(address) {
                Ok(socket) => Ok(Self::Udp { socket, datagram: Vec::new() }),
                Err(error) => Err((format!("sending to {address}"), error)),
            },
        }
    }

    /// Puts the lines of a batch from index `from` on. How many have been put, and what became of the others.
    pub(super) fn put(&mut self, batch: &Batch, from: usize) -> (usize, Put) {
        let all = batch.len() - from;
        match self {
            Self::Stdout { file, text } => {
                if text.is_empty() {
                    text.fill(batch, from);
                }
                while !text.is_empty() {
                    if !has_room(file) {
                        return (0, Put::Later);
                    }
                    match text.write(file, PIPE) {
                        Ok(()) => {}
                        // Nobody will ever read it.
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                            *text = Text::default();
                            return (0, Put::Lost(LossCause::Refused));
                        }
                        Err(error) => return (0, Put::Failed(error)),
                    }
                }
                (all, Put::Done)
            }
            Self::File { file, text, .. } => {
                if text.is_empty() {
                    text.fill(batch, from);
                }
                while !text.is_empty() {
                    if let Err(error) = text.write(file, usize::MAX) {
                        return (0, Put::Failed(error));
                    }
                }
                (all, Put::Done)
            }
            Self::Udp { socket, datagram } => {
                for (count, (_, text)) in (from..).map_while(|line| batch.line(line)).enumerate() {
                    datagram.clear();
                    datagram.extend_from_slice(text);
                    datagram.push(b'\n');
                    if let Err(error) = socket.send(datagram) {
                        return (count, after_send(error));
                    }
                }
                (all, Put::Done)
            }
        }
    }

    /// Opens a file again that has been moved away. Whether it was.
    pub(super) fn follow(&mut self) -> io::Result<bool> {
        let Self::File { path, file, text } = self else { return Ok(false) };
        // A line that is half written is ended in the file where it began.
        if !text.is_empty() {
            return Ok(false);
        }
        let open = file.metadata()?;
        let is_same = |now: std::fs::Metadata| (now.dev(), now.ino()) == (open.dev(), open.ino());
        if path.metadata().is_ok_and(is_same) {
            return Ok(false);
        }
        *file = append_to(path)?;
        Ok(true)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// A socket that sends there, and never waits.
fn connect(address: &str) -> io::Result<UdpSocket> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in address.to_socket_addrs()? {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        match UdpSocket::bind(any).and_then(|socket| socket.connect(address).map(|()| socket)) {
            Ok(socket) => {
                socket.set_nonblocking(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What an error in sending a datagram means for its line.
fn after_send(error: io::Error) -> Put {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted, _) => Put::Later,
        // Nobody listens there: an earlier datagram was answered so, and this one was not sent.
        (io::ErrorKind::ConnectionRefused, _) => Put::Lost(LossCause::Refused),
        (_, Some(code)) if code == rustix::io::Errno::MSGSIZE.raw_os_error() => Put::Lost(LossCause::TooLarge),
        _ => Put::Failed(error),
    }
}

/// Whether something can be written without waiting.
fn has_room(file: &File) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&now)).is_ok_and(|ready| ready > 0)
}
