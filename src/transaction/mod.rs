//! Transactions: what the log says of one request, put together by vxid.
//!
//! The streams' formats name the values that they need ([`Capture`]); the [`CaptureTable`] picks them out of each record
//! as it arrives, and the [`Assembler`] keeps them per transaction until its end. Nothing else of a record is kept.

mod assembler;
mod capture;

pub use assembler::{Assembler, Interest, Limits};
pub use capture::{Capture, CaptureId, CaptureTable, Pick, Select, Source};

use crate::log::Side;

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

/// A captured value's place in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    const MISSING: Self = Self { start: u32::MAX, end: u32::MAX };
}

/// The values of one transaction that the formats asked for.
#[derive(Debug)]
pub struct Transaction {
    /// The id in the log.
    pub vxid: u64,
    /// Requests of clients, or requests to backends.
    pub side: Side,
    /// How varnishd came to its answer.
    pub handling: Handling,
    /// The transaction ended in a restart, or was no HTTP: varnishncsa leaves it out, and so do we.
    pub left_out: bool,
    /// The end was not seen, or not all values fitted.
    pub incomplete: bool,
    values: Vec<Span>,
    arena: Vec<u8>,
}

/// The most that one transaction's values may take, in bytes.
const ARENA_LIMIT: usize = 1 << 20;

/// What a transaction's memory is cut back to before it is used again, in bytes.
const ARENA_KEPT: usize = 16 << 10;

impl Transaction {
    fn new() -> Self {
        Self {
            vxid: 0,
            side: Side::None,
            handling: Handling::Unknown,
            left_out: false,
            incomplete: false,
            values: Vec::new(),
            arena: Vec::new(),
        }
    }

    /// Makes this the transaction `vxid`, with no value yet. Keeps the memory.
    fn begin(&mut self, vxid: u64, side: Side, captures: usize) {
        (self.vxid, self.side) = (vxid, side);
        (self.handling, self.left_out, self.incomplete) = (Handling::Unknown, false, false);
        self.values.clear();
        self.values.resize(captures, Span::MISSING);
        self.arena.clear();
        self.arena.shrink_to(ARENA_KEPT);
    }

    /// Whether another value is to be kept: the last one always is, the first one unless there is one.
    #[inline]
    fn wants(&self, capture: CaptureId, pick: Pick) -> bool {
        pick == Pick::Last || self.values[capture.0] == Span::MISSING
    }

    /// Keeps a value.
    #[inline]
    fn keep(&mut self, capture: CaptureId, value: &[u8]) {
        let start = self.arena.len();
        if start + value.len() > ARENA_LIMIT {
            self.incomplete = true;
            return;
        }
        self.arena.extend_from_slice(value);
        self.values[capture.0] = Span { start: start as u32, end: self.arena.len() as u32 };
    }

    /// What was captured; `None` where the log has no such record.
    #[inline]
    #[must_use]
    pub fn value(&self, capture: CaptureId) -> Option<&[u8]> {
        let span = self.values[capture.0];
        // A missing span's bounds are out of every arena's.
        self.arena.get(span.start as usize..span.end as usize)
    }
}
