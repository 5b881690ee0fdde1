//! Transactions: what the log says of one request, put together by vxid.
//!
//! The streams' formats name the values that they need ([`Capture`]); the [`Assembler`] picks them out of each record as it
//! arrives, and remembers them per transaction until its end. Nothing else of a record is remembered.

mod assembler;
mod capture;
mod family;
mod field;
mod matcher;
mod name;
mod set;
mod slots;
mod values;

pub use assembler::{Assembler, Interest, Limits, Sets};
pub use capture::{Capture, CaptureId, CaptureTable, Pick, Select, Source};
pub use set::{Grouping, Set};

use crate::log::Side;

use values::Values;

/// How varnishd came to its answer: varnishncsa's `%{Varnish:handling}x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Handling {
    /// The log does not say.
    #[default]
    Unknown,
    /// From the cache.
    Hit,
    /// Fetched, for the cache.
    Miss,
    /// Fetched, not for the cache.
    Pass,
    /// The connection was handed to the backend.
    Pipe,
    /// Made by VCL.
    Synth,
}

impl Handling {
    /// `%{Varnish:handling}x`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "-",
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Pass => "pass",
            Self::Pipe => "pipe",
            Self::Synth => "synth",
        }
    }

    /// `%{Varnish:hitmiss}x`: whatever is not a hit is a miss.
    #[must_use]
    pub const fn hit_or_miss(self) -> &'static str {
        match self {
            Self::Unknown => "-",
            Self::Hit => "hit",
            _ => "miss",
        }
    }
}

/// A whole transaction, or one that was given up.
#[derive(Debug, Clone, Copy)]
pub struct Transaction<'a> {
    /// The id in the log.
    pub vxid: u64,
    /// Requests of clients, or requests to backends.
    pub side: Side,
    /// How varnishd came to its answer.
    pub handling: Handling,
    /// A sub-request for ESI, as far as known: where sets of transactions are asked for.
    pub esi: bool,
    /// It ended in a restart, or was no HTTP: varnishncsa has no line for it.
    pub left_out: bool,
    /// The end was not seen, or not all values fitted.
    pub incomplete: bool,
    values: &'a Values,
    log: &'a [u8],
}

impl<'a> Transaction<'a> {
    /// What was captured; `None` where the log has no such record.
    #[inline]
    #[must_use]
    pub fn value(&self, capture: CaptureId) -> Option<&'a [u8]> {
        self.values.value(capture, self.log)
    }
}
