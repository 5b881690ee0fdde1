//! The log of a running varnishd, read natively from its shared memory.
//!
//! This is what the module inside varnishd reads by: it checks every bound and cannot assert, which libvarnishapi does, and
//! there that would end the cache.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::area::{Area, NotALog, Pass};
use super::index::{self, Entry};
use super::{Event, Layout, LogError, LogSource, Position, Read, Records, Start, TagSet};

/// How often an idle reader looks whether varnishd has another child.
const LOOK: Duration = Duration::from_millis(50);

/// varnishd's log, of one child after the other.
#[derive(Debug)]
pub struct LiveLog {
    /// `_.vsm_child` in varnishd's working directory.
    directory: PathBuf,
    wanted: TagSet,
    state: State,
    /// What the last read copied.
    copy: Vec<u32>,
    last_look: Instant,
}

#[derive(Debug)]
enum State {
    Attached(Attached),
    /// No child runs, or its log cannot be had yet.
    Waiting,
}

#[derive(Debug)]
struct Attached {
    map: Map,
    entry: Entry,
    stamp: Stamp,
    position: Position,
    boundary: Option<Position>,
    /// The child is known to be gone: what its log still holds is read, and then it is let go.
    leaving: bool,
}

/// Tells one version of the index from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl LiveLog {
    /// Attaches to the log of the varnishd with this working directory (`varnishd -n`).
    ///
    /// # Errors
    ///
    /// [`LogError::NotRunning`] when there is none, [`LogError::UnknownLayout`] or [`LogError::OtherGeneration`] when its
    /// log is not one that this program reads.
    pub fn attach(directory: &Path, start: Start) -> Result<Self, LogError> {
        Self::open(directory, |area| match start {
            Start::Tail => end_of(area),
            Start::Head => area.oldest(),
            Start::At(position) => position,
        })
    }

    /// Attaches to the log of the same child that another reader read, from where it began to where it stopped and on. No
    /// read crosses `boundary`.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn resume(directory: &Path, from: Position, boundary: Position) -> Result<Self, LogError> {
        let mut log = Self::attach(directory, Start::At(from))?;
        if let State::Attached(attached) = &mut log.state {
            attached.boundary = Some(boundary);
        }
        Ok(log)
    }

    fn open(directory: &Path, start: impl FnOnce(&Area<'_>) -> Position) -> Result<Self, LogError> {
        let directory = directory.join("_.vsm_child");
        let state = State::Attached(Attached::open(&directory, start)?);
        Ok(Self { directory, wanted: TagSet::ALL, state, copy: Vec::new(), last_look: Instant::now() })
    }

    /// Whether it is time for another look at the index.
    fn may_look(&mut self) -> bool {
        let now = Instant::now();
        let due = now.duration_since(self.last_look) >= LOOK;
        if due {
            self.last_look = now;
        }
        due
    }

    /// With nothing new in the log: is it still the log?
    fn at_end(&mut self) -> Result<Option<Event>, LogError> {
        if let State::Attached(attached) = &self.state
            && attached.leaving
        {
            self.state = State::Waiting;
            return Ok(Some(Event::Abandoned));
        }
        if !self.may_look() {
            return Ok(None);
        }
        match &mut self.state {
            State::Attached(attached) => {
                // What was written between the last read and now is read before the log is let go.
                attached.leaving = !attached.is_current(&self.directory);
                Ok(None)
            }
            State::Waiting => match Attached::open(&self.directory, |area| area.oldest()) {
                Ok(attached) => {
                    self.state = State::Attached(attached);
                    Ok(Some(Event::Reacquired))
                }
                Err(LogError::NotRunning { .. }) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }
}

impl LogSource for LiveLog {
    fn select(&mut self, tags: TagSet) {
        self.wanted = tags;
    }

    fn read(&mut self) -> Result<Read<'_>, LogError> {
        if let State::Attached(attached) = &mut self.state {
            let area = attached.map.area()?;
            if attached.boundary == Some(attached.position) {
                attached.boundary = None;
            }
            let pass = area.read(&mut attached.position, attached.boundary, &self.wanted, &mut self.copy);
            match pass {
                Pass::Overrun => {
                    let oldest = area.oldest();
                    let segments = oldest.segment.wrapping_sub(attached.position.segment).max(1);
                    (attached.position, attached.boundary) = (oldest, None);
                    return Ok(Read::Event(Event::Overrun { segments }));
                }
                Pass::More => return Ok(Read::Records(Records::new(&self.copy, area.layout(), &self.wanted))),
                Pass::End if !self.copy.is_empty() || attached.boundary == Some(attached.position) => {
                    return Ok(Read::Records(Records::new(&self.copy, area.layout(), &self.wanted)));
                }
                Pass::End => {}
            }
        }
        Ok(self.at_end()?.map_or(Read::Idle, Read::Event))
    }

    fn position(&self) -> Option<Position> {
        match &self.state {
            State::Attached(attached) => Some(attached.position),
            State::Waiting => None,
        }
    }
}

/// Behind the last record. The writer may go on meanwhile; what it writes then is behind the tail.
fn end_of(area: &Area<'_>) -> Position {
    let mut position = area.newest();
    let mut nothing = Vec::new();
    loop {
        match area.read(&mut position, None, &TagSet::EMPTY, &mut nothing) {
            Pass::End => return position,
            Pass::More => {}
            Pass::Overrun => position = area.newest(),
        }
    }
}

impl Attached {
    fn open(directory: &Path, start: impl FnOnce(&Area<'_>) -> Position) -> Result<Self, LogError> {
        let stamp = Stamp::of(directory);
        let entry = read_index(directory)?;
        let map = Map::new(&directory.join(&entry.file), &entry)?;
        let position = start(&map.area()?);
        Ok(Self { map, entry, stamp, position, boundary: None, leaving: false })
    }

    /// Whether the index still names this log. varnishd rewrites the index for every counter that comes or goes, so a
    /// changed file alone means nothing.
    fn is_current(&mut self, directory: &Path) -> bool {
        let stamp = Stamp::of(directory);
        if stamp == self.stamp {
            return true;
        }
        self.stamp = stamp;
        match read_index(directory) {
            Ok(entry) => entry == self.entry,
            Err(_) => false,
        }
    }
}

fn index_path(directory: &Path) -> PathBuf {
    directory.join("_.index")
}

fn read_index(directory: &Path) -> Result<Entry, LogError> {
    let not_running =
        |reason| LogError::NotRunning { path: directory.parent().unwrap_or(directory).to_owned(), reason };
    let path = index_path(directory);
    match fs::read_to_string(&path) {
        Ok(text) => index::find_log(&text).ok_or_else(|| not_running("its index names no log yet")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_running("there is no _.vsm_child/_.index")),
        Err(source) => Err(LogError::Io { doing: "reading", path, source }),
    }
}

impl Stamp {
    fn of(directory: &Path) -> Self {
        match fs::metadata(index_path(directory)) {
            Ok(data) => Self { inode: data.ino(), size: data.len(), modified: (data.mtime(), data.mtime_nsec()) },
            Err(_) => Self { inode: 0, size: 0, modified: (0, 0) },
        }
    }
}

/// A log file in memory, read-only.
struct Map {
    path: PathBuf,
    start: NonNull<c_void>,
    length: usize,
    /// Bytes of the mapping before the log.
    offset: usize,
}

// SAFETY: the mapping belongs to this value alone, is not bound to a thread, and is only read.
unsafe impl Send for Map {}

impl Map {
    fn new(path: &Path, entry: &Entry) -> Result<Self, LogError> {
        let not_running = |reason| LogError::NotRunning { path: path.to_owned(), reason };
        let error = |doing| move |source| LogError::Io { doing, path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_running("its log has just gone")),
            Err(source) => return Err(error("opening")(source)),
        };
        let size = file.metadata().map_err(error("looking at"))?.len();
        let end = entry.offset.checked_add(entry.length).filter(|end| *end as u64 <= size && entry.length > 0);
        // Words are read as such.
        let Some(end) = end.filter(|_| entry.offset.is_multiple_of(8)) else {
            return Err(not_running("its index tells of more log than there is"));
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists. The file is at least `end`
        // bytes long, and varnishd never makes a log file shorter: it unlinks it, which leaves the mapping as it is.
        let start = unsafe {
            mmap(std::ptr::null_mut(), end, ProtFlags::READ, MapFlags::SHARED, &file, 0)
                .map_err(|errno| error("mapping")(errno.into()))?
        };
        let start = NonNull::new(start).ok_or_else(|| not_running("its log cannot be mapped"))?;
        let map = Self { path: path.to_owned(), start, length: end, offset: entry.offset };
        let layout = map.area()?.layout();
        if layout != Layout::INSTALLED {
            let written = if layout == Layout::One { "of up to 7.2" } else { "from 7.3 on" };
            return Err(LogError::OtherGeneration { path: path.to_owned(), written });
        }
        Ok(map)
    }

    fn area(&self) -> Result<Area<'_>, LogError> {
        // SAFETY: the mapping is `length` bytes long, readable, and lives as long as `self`; `offset` is a multiple of 8 in
        // a page-aligned mapping. Others write to it, but only this side is bound by Rust's rules, and it loads atomically.
        let words = unsafe {
            let start = self.start.as_ptr().cast::<u8>().add(self.offset).cast::<AtomicU32>();
            std::slice::from_raw_parts(start, (self.length - self.offset) / size_of::<AtomicU32>())
        };
        Area::new(words).map_err(|wrong| match wrong {
            // The marker is the last that varnishd writes of a new log.
            NotALog::Marker([0, 0, 0, 0, 0, 0, 0, 0]) | NotALog::Size => {
                LogError::NotRunning { path: self.path.clone(), reason: "its log is not set up yet" }
            }
            NotALog::Marker(marker) => LogError::UnknownLayout {
                path: self.path.clone(),
                found: marker.escape_ascii().to_string(),
                expected: "`VSLHEAD1` or `VSLHEAD2`",
            },
        })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and no borrow of it outlives `self`. A failure leaves it mapped,
        // which harms nobody.
        let _ = unsafe { munmap(self.start.as_ptr(), self.length) };
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("path", &self.path).field("length", &self.length).finish_non_exhaustive()
    }
}
