//! The log of a running varnishd, read natively from its shared memory, of one child after the other.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use super::cursor::{Cursor, Pass};
use super::index::{self, Entry};
use super::shared::SharedLog;
use super::{Event, Filter, LogError, LogSource, Position, Read, Run, Start};

/// How often an idle reader looks whether varnishd has another child.
const LOOK: Duration = Duration::from_millis(50);

/// varnishd's log, read natively.
///
/// This, and never libvarnishapi, is what a module inside varnishd reads by: it checks every bound and cannot assert. A
/// failed assertion of the library would end the cache, and it does fail: on logs that are overwritten while they are read.
/// There, the directory is the child's current one, `.`.
///
/// When the child goes, what its log still holds is read to the end before [`Event::Abandoned`] tells of it; the new child's
/// log is then read from its head, after [`Event::Reacquired`].
#[derive(Debug)]
pub struct LiveLog {
    /// `_.vsm_child` in varnishd's working directory.
    directory: PathBuf,
    wanted: Filter,
    state: State,
    boundary: Option<Position>,
    /// What the last read copied.
    copy: Run,
    last_look: Instant,
}

#[derive(Debug)]
enum State {
    Attached(Attached),
    /// No child runs, or its log cannot be had yet. What was let go, and where, should it turn up again.
    Waiting {
        left: Entry,
        at: Position,
    },
}

#[derive(Debug)]
struct Attached {
    log: SharedLog,
    entry: Entry,
    stamp: Option<Stamp>,
    cursor: Cursor,
    /// The child is known to be gone, so that its log will not change any more: what it still holds is read.
    leaving: bool,
}

impl LiveLog {
    /// Attaches to the log of the varnishd with this working directory (`varnishd -n`).
    ///
    /// # Errors
    ///
    /// [`LogError::NotRunning`] when there is none or it has no child yet, [`LogError::UnknownLayout`] or
    /// [`LogError::OtherGeneration`] when its log is not one that this program reads.
    pub fn attach(directory: &Path, start: Start) -> Result<Self, LogError> {
        let directory = directory.join("_.vsm_child");
        let state = State::Attached(Attached::open(&directory, start)?);
        let copy = Run::default();
        Ok(Self { directory, wanted: Filter::ALL, state, boundary: None, copy, last_look: Instant::now() })
    }

    /// Attaches to the log of the same child that another reader read, from the position `from` on. No read crosses
    /// `boundary`, where that reader stopped: there is a run of records that ends exactly there.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn resume(directory: &Path, from: Position, boundary: Position) -> Result<Self, LogError> {
        let mut log = Self::attach(directory, Start::At(from))?;
        log.boundary = Some(boundary);
        log.forget_boundary();
        Ok(log)
    }

    /// Whether the next read begins at the boundary or behind it. Without a boundary, always.
    #[must_use]
    pub fn boundary_passed(&self) -> bool {
        self.boundary.is_none()
    }

    fn forget_boundary(&mut self) {
        let position = self.position();
        self.boundary = self.boundary.filter(|boundary| position.is_some_and(|at| at.is_before(*boundary)));
    }

    /// With nothing new in the log: is it still the log?
    fn at_end(&mut self) -> Result<Option<Event>, LogError> {
        if let State::Attached(attached) = &self.state
            && attached.leaving
        {
            self.state = State::Waiting { left: attached.entry.clone(), at: attached.cursor.position() };
            self.boundary = None;
            return Ok(Some(Event::Abandoned));
        }
        let now = Instant::now();
        if now.duration_since(self.last_look) < LOOK {
            return Ok(None);
        }
        self.last_look = now;
        match &mut self.state {
            State::Attached(attached) => {
                // What was written between the last read and now is read before the log is let go.
                attached.leaving = !attached.is_current(&self.directory);
                Ok(None)
            }
            State::Waiting { left, at } => {
                match Attached::open_unless(&self.directory, Start::Head, Some((left, *at))) {
                    Ok(attached) => {
                        self.state = State::Attached(attached);
                        Ok(Some(Event::Reacquired))
                    }
                    Err(LogError::NotRunning { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

impl LogSource for LiveLog {
    fn select(&mut self, wanted: Filter) {
        self.wanted = wanted;
    }

    fn read(&mut self) -> Result<Read<'_>, LogError> {
        if let State::Attached(attached) = &mut self.state {
            let area = attached.log.area();
            let layout = area.layout();
            let pass = attached.cursor.read(&area, self.boundary, &self.wanted, &mut self.copy);
            match pass {
                Pass::Records => {
                    self.forget_boundary();
                    return Ok(Read::Records(self.copy.records(layout)));
                }
                Pass::Overrun { segments } => {
                    self.forget_boundary();
                    return Ok(Read::Event(Event::Overrun { segments }));
                }
                Pass::End => {}
            }
        }
        Ok(self.at_end()?.map_or(Read::Idle, Read::Event))
    }

    fn position(&self) -> Option<Position> {
        match &self.state {
            State::Attached(attached) => Some(attached.cursor.position()),
            State::Waiting { .. } => None,
        }
    }
}

impl Attached {
    fn open(directory: &Path, start: Start) -> Result<Self, LogError> {
        Self::open_unless(directory, start, None)
    }

    /// Attaches to the log that the index names; where that is the one that was left, goes on where it was.
    fn open_unless(directory: &Path, start: Start, left: Option<(&Entry, Position)>) -> Result<Self, LogError> {
        let stamp = Stamp::of(directory);
        let entry = read_index(directory)?;
        let log = SharedLog::open(directory, &entry)?;
        let start = match left {
            Some((left, at)) if *left == entry => Start::At(at),
            _ => start,
        };
        let area = log.area();
        let cursor = match start {
            Start::Tail => Cursor::tail(&area),
            Start::Head => Cursor::oldest(&area),
            Start::At(position) => Cursor::at(&area, position),
        };
        Ok(Self { log, entry, stamp, cursor, leaving: false })
    }

    /// Whether the index still names this log. varnishd adds to the index and rewrites it for every counter that comes or
    /// goes, so a changed file alone means nothing.
    fn is_current(&mut self, directory: &Path) -> bool {
        let stamp = Stamp::of(directory);
        if stamp == self.stamp {
            return true;
        }
        match read_index(directory) {
            Ok(entry) => {
                self.stamp = stamp;
                entry == self.entry
            }
            Err(LogError::NotRunning { .. }) => false,
            // Say, no file descriptor to be had: it is looked at again.
            Err(error) => {
                tracing::debug!(%error, "the index of varnishd's log");
                true
            }
        }
    }
}

/// Tells one version of the index from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(directory: &Path) -> Option<Self> {
        let data = fs::metadata(index_path(directory)).ok()?;
        Some(Self { inode: data.ino(), size: data.len(), modified: (data.mtime(), data.mtime_nsec()) })
    }
}

fn index_path(directory: &Path) -> PathBuf {
    directory.join("_.index")
}

fn read_index(directory: &Path) -> Result<Entry, LogError> {
    let not_running =
        |reason| LogError::NotRunning { path: directory.parent().unwrap_or(directory).to_owned(), reason };
    let path = index_path(directory);
    match fs::read(&path) {
        // Names of counters are VCL's, and need not be UTF-8.
        Ok(index) => {
            index::find_log(&String::from_utf8_lossy(&index)).ok_or_else(|| not_running("its index names no log yet"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_running("there is no _.vsm_child/_.index")),
        Err(source) => Err(LogError::Io { doing: "reading", path, source }),
    }
}
