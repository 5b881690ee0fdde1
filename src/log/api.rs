//! The log through libvarnishapi: for layouts that the native reader does not know, and as its judge in the tests.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kafkalog_ffi::api::{ApiError, Status, VarnishLog};

use super::{Event, Layout, LogError, LogSource, Read, Run, Start};

/// How often an idle reader has the library look whether varnishd has another child.
const LOOK: Duration = Duration::from_millis(50);

/// Words that are copied before they are handed out, so that nobody waits long for the first of them: 256 KiB.
const ENOUGH: usize = 64 << 10;

/// A log, live or recorded, that libvarnishapi reads.
///
/// The library ends the process when it finds damage, and now and then when a small log is overwritten under it. It has no
/// positions, so that this source cannot be resumed, and it starts to tell of overruns one segment earlier than
/// [`LiveLog`](super::LiveLog) has to.
#[derive(Debug)]
pub struct ApiLog {
    log: VarnishLog,
    path: PathBuf,
    copy: Run,
    state: State,
    last_look: Instant,
    /// The segment of the record that was read last.
    segment: u32,
}

/// What the next read begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// With the next record.
    Reading,
    /// With this, which came while records were copied.
    Told(Status),
    /// With a new cursor at the oldest record, once there is one; after an overrun or in a new child's log.
    Restarting { after: Status },
    /// With the record that the cursor is at.
    AtRecord,
}

impl ApiLog {
    /// Attaches to the log of the varnishd with this working directory. [`Start::At`] is as good as [`Start::Head`].
    ///
    /// # Errors
    ///
    /// [`LogError::Library`].
    pub fn attach(directory: &Path, start: Start) -> Result<Self, LogError> {
        Ok(Self::new(VarnishLog::attach(directory, start == Start::Tail)?, directory))
    }

    /// Opens a recording; `-` is standard input.
    ///
    /// # Errors
    ///
    /// [`LogError::Library`].
    pub fn open_file(path: &Path) -> Result<Self, LogError> {
        Ok(Self::new(VarnishLog::open_file(path)?, path))
    }

    fn new(log: VarnishLog, path: &Path) -> Self {
        Self {
            log,
            path: path.to_owned(),
            copy: Run::default(),
            state: State::Reading,
            last_look: Instant::now(),
            segment: 0,
        }
    }

    /// Copies records until there are enough or none. Returns what came instead of a record.
    fn copy_records(&mut self) -> Option<Status> {
        while self.copy.words.len() < ENOUGH {
            let status = match std::mem::replace(&mut self.state, State::Reading) {
                State::AtRecord => Status::Record,
                _ => self.log.advance(),
            };
            if status != Status::Record {
                return Some(status);
            }
            self.segment = self.log.segment();
            if !self.log.copy_record(&mut self.copy.words) {
                return Some(Status::Overrun);
            }
        }
        None
    }

    fn may_look(&mut self) -> bool {
        let now = Instant::now();
        let due = now.duration_since(self.last_look) >= LOOK;
        if due {
            self.last_look = now;
        }
        due
    }

    /// What a status that is no record means to the reader.
    fn tell(&mut self, status: Status) -> Result<Read<'_>, LogError> {
        match status {
            Status::Eof => Ok(Read::End),
            Status::Failed => Err(LogError::Io {
                doing: "reading",
                path: self.path.clone(),
                source: std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "libvarnishapi cannot read on"),
            }),
            Status::Abandoned => {
                self.state = State::Restarting { after: status };
                Ok(Read::Event(Event::Abandoned))
            }
            Status::Overrun => {
                self.state = State::Restarting { after: status };
                self.restart(status)
            }
            Status::Record | Status::End => {
                if self.may_look() {
                    // Only after this does the library tell that the log has been let go, once it has been read to its end.
                    self.log.refresh();
                }
                Ok(Read::Idle)
            }
        }
    }

    /// Sets the cursor to the oldest record.
    fn restart(&mut self, after: Status) -> Result<Read<'_>, LogError> {
        match self.log.restart(false) {
            Ok(()) => {}
            Err(ApiError::NotRunning { .. }) => return Ok(Read::Idle),
            Err(error) => return Err(error.into()),
        }
        self.state = State::Reading;
        if after == Status::Abandoned {
            return Ok(Read::Event(Event::Reacquired));
        }
        let overrun = self.segment;
        let status = self.log.advance();
        if status == Status::Record {
            (self.state, self.segment) = (State::AtRecord, self.log.segment());
        } else if status != Status::End {
            self.state = State::Told(status);
        }
        Ok(Read::Event(Event::Overrun { segments: self.segment.wrapping_sub(overrun).max(1) }))
    }
}

impl LogSource for ApiLog {
    fn read(&mut self) -> Result<Read<'_>, LogError> {
        let state = self.state;
        match state {
            State::Reading | State::AtRecord => {}
            State::Told(status) => {
                self.state = State::Reading;
                return self.tell(status);
            }
            State::Restarting { after } if after == Status::Overrun || self.may_look() => return self.restart(after),
            State::Restarting { .. } => return Ok(Read::Idle),
        }
        self.copy.clear();
        match self.copy_records() {
            Some(status) if self.copy.words.is_empty() => self.tell(status),
            told => {
                if let Some(status) = told.filter(|status| *status != Status::End) {
                    self.state = State::Told(status);
                }
                // The library has copied whole records: there is nothing behind them.
                Ok(Read::Records(self.copy.records(Layout::INSTALLED)))
            }
        }
    }
}
