//! varnishd's log: records, and the sources that they are read from.
//!
//! A [`LogSource`] hands out runs of records in the order of the log. It copies what it hands out into memory of its own
//! before it believes any of it, leaves out what nobody wants where that saves copying, and reports whatever broke the
//! sequence as an [`Event`].

mod api;
mod area;
mod cursor;
mod filter;
mod index;
mod live;
mod pace;
mod record;
mod recording;
mod shared;
mod tag;
mod words;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(any(test, fuzzing))]
mod simulation;

pub use api::ApiLog;
pub(crate) use filter::Beginning;
pub use filter::Filter;
pub use kafkalog_ffi::VARNISH_VERSION;
pub use live::LiveLog;
pub use pace::Pace;
pub use record::{Offer, Record, Records, Reread, Run};
pub use recording::Recording;
pub use tag::{Tag, TagGlobError};

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The two generations of the log's format. They share the record's first word: tag in the top byte, payload length in
/// bytes (with the terminating NUL) in the low 16 bits. Source: `vapi/vsl_int.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Up to Varnish 7.2: markers `VSLHEAD1` and `VSL\0`, two header words, a vxid of 30 bits, side in the top two.
    One,
    /// From Varnish 7.3 on: markers `VSLHEAD2` and `VSL2`, three header words, a vxid of 51 bits, side in bits 62, 63.
    Two,
}

impl Layout {
    /// The layout of the Varnish that the tag numbers were generated from.
    pub const INSTALLED: Self = if kafkalog_ffi::layout::HEADER_WORDS == 2 { Self::One } else { Self::Two };

    /// Words before a record's payload.
    #[must_use]
    pub const fn header_words(self) -> usize {
        match self {
            Self::One => 2,
            Self::Two => 3,
        }
    }

    /// Bits of a record's first word that are always 0: neither tag, length nor, in layout two, the version.
    const fn unused_bits(self) -> u32 {
        match self {
            Self::One => 0x00ff_0000,
            Self::Two => 0x00fc_0000,
        }
    }

    /// The versions of Varnish that write it, for messages.
    const fn written_by(self) -> &'static str {
        match self {
            Self::One => "of up to 7.2",
            Self::Two => "from 7.3 on",
        }
    }
}

/// Which side of varnishd a transaction is on: the client marker or the backend marker of its vxid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Neither: the record belongs to no transaction (`CLI`, `WorkThread`, …).
    None,
    /// Sessions and the requests in them.
    Client,
    /// Requests to backends.
    Backend,
}

/// White space between a record's words, as isspace(3) has it: vertical tabs are some.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// A place in the log in shared memory, between two records. Valid for one life of varnishd's child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The segment's running number, which wraps at 2³² as the log's own does.
    pub segment: u32,
    /// Words from the start of the log area.
    pub offset: u32,
}

impl Position {
    /// Whether this place was written before the other one, in the same child's life.
    #[must_use]
    pub fn is_before(self, other: Self) -> bool {
        match self.segment.wrapping_sub(other.segment).cast_signed() {
            0 => self.offset < other.offset,
            ahead => ahead < 0,
        }
    }
}

/// Something that broke the sequence of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// varnishd overwrote records before they were read. Reading goes on at the oldest segment that is still whole.
    Overrun {
        /// Segments (of 8) that were skipped, rounded up.
        segments: u32,
    },
    /// varnishd's child has gone and all it wrote has been read.
    Abandoned,
    /// A new child's log has been found; reading goes on at its head.
    Reacquired,
}

/// What a call of [`LogSource::read`] found.
#[derive(Debug)]
pub enum Read<'a> {
    /// Records, in log order. There may be none among them that is wanted.
    Records(Records<'a>),
    /// Nothing new at the moment.
    Idle,
    /// The sequence broke.
    Event(Event),
    /// A recording's end. Live logs have none.
    End,
}

/// Where log records come from.
pub trait LogSource: Send {
    /// Sets the records that are wanted. A source for which that saves work leaves out most of the others.
    fn select(&mut self, wanted: Filter) {
        let _ = wanted;
    }

    /// Hands out what comes next, all of which is to be taken. Never blocks on a live log.
    ///
    /// # Errors
    ///
    /// When the log cannot be read any further: a corrupt recording, a layout that is not known. What was read before
    /// stays good.
    fn read(&mut self) -> Result<Read<'_>, LogError>;

    /// Whether what is not read stays where it is: a recording. It is read no faster than its lines are taken.
    fn waits(&self) -> bool {
        false
    }

    /// Where the next [`read`](Self::read) begins; `None` for sources that cannot be resumed.
    fn position(&self) -> Option<Position> {
        None
    }
}

impl LogSource for Box<dyn LogSource> {
    fn select(&mut self, wanted: Filter) {
        (**self).select(wanted);
    }

    fn read(&mut self) -> Result<Read<'_>, LogError> {
        (**self).read()
    }

    fn waits(&self) -> bool {
        (**self).waits()
    }

    fn position(&self) -> Option<Position> {
        (**self).position()
    }
}

/// Where a live log is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Only what is written from now on.
    Tail,
    /// Everything that is still in the log.
    Head,
    /// From a position that an earlier reader of the same child noted.
    At(Position),
}

/// The log of the varnishd with this working directory, for a program of its own: read natively or, in a layout that the
/// native reader does not know, through libvarnishapi. The module inside varnishd uses [`LiveLog`] alone, because the library
/// ends the process that it finds something wrong in, and there that is the cache.
///
/// # Errors
///
/// As [`LiveLog::attach`]; [`LogError::Library`] where the library cannot help either.
pub fn open_live(directory: &Path, start: Start) -> Result<Box<dyn LogSource>, LogError> {
    match LiveLog::attach(directory, start) {
        Ok(log) => Ok(Box::new(log)),
        Err(unknown @ LogError::UnknownLayout { .. }) => {
            tracing::warn!(%unknown, "reading the log through libvarnishapi");
            Ok(Box::new(ApiLog::attach(directory, start)?))
        }
        Err(error) => Err(error),
    }
}

/// Why a log cannot be opened or read any further.
#[derive(Debug, Error)]
pub enum LogError {
    /// A file or directory could not be opened, mapped or read.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done: "opening", "mapping", "reading".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no varnishd with this working directory, or its child has not started.
    #[error("no varnishd is running in {path}: {reason} (varnishd -n, [varnish] name)")]
    NotRunning {
        /// varnishd's working directory.
        path: PathBuf,
        /// What was missing there.
        reason: &'static str,
    },
    /// The marker at the start is of neither layout.
    #[error("{path} is not a Varnish log that this program knows: it begins with `{found}`, expected {expected}")]
    UnknownLayout {
        /// The file.
        path: PathBuf,
        /// The marker, unprintable bytes escaped.
        found: String,
        /// The markers that are known.
        expected: &'static str,
    },
    /// The other layout: its tags have other numbers than those that this program was built with.
    #[error(
        "{path} was written by a Varnish {written}, this program was built for Varnish {}: build it on a machine with that Varnish",
        kafkalog_ffi::VARNISH_VERSION
    )]
    OtherGeneration {
        /// The file.
        path: PathBuf,
        /// Which versions write that layout.
        written: &'static str,
    },
    /// libvarnishapi cannot be used, or gives no log.
    #[error(transparent)]
    Library(#[from] kafkalog_ffi::api::ApiError),
    /// The recording is damaged.
    #[error("{path} is damaged at byte {offset}: {reason}")]
    Corrupt {
        /// The recording.
        path: PathBuf,
        /// Where, in bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
}
