//! The values of a transaction: places in the log as it was read, or copies of them.

use crate::log::Side;
use crate::query::Met;

use super::capture::CaptureId;
use super::{Handling, Transaction};

/// A value's place: below [`LOG`] in what was kept, and that much further in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Beyond the end of any log.
    const MISSING: Self = Self { start: u32::MAX, end: u32::MAX };

    #[inline]
    fn is_missing(self) -> bool {
        self.start == u32::MAX
    }
}

/// Where places in the log begin, and so the most that may be kept of one transaction, in bytes.
const LOG: usize = 1 << 20;

/// What the memory for kept values is cut back to before it is used again, in bytes.
const KEPT: usize = 16 << 10;

/// What the log has said so far of one transaction.
///
/// Most transactions begin and end in one run of records, so that their values need not be copied: they are looked up in the
/// log. Before the log's memory is used again, those of open transactions are [`keep`](Self::keep)t.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) vxid: u64,
    pub(super) side: Side,
    pub(super) handling: Handling,
    /// A sub-request for ESI, as far as known.
    pub(super) esi: bool,
    /// The transaction ended in a restart, or was no HTTP: varnishncsa leaves it out, and so do we.
    pub(super) left_out: bool,
    /// The end was not seen, or not all values fitted.
    pub(super) incomplete: bool,
    /// The queries' tests that records have met.
    pub(super) met: Met,
    /// From there on in the run of records nothing but the tests has been looked at.
    pub(super) deferred: Option<usize>,
    /// Some are in the log.
    in_log: bool,
    spans: Vec<Span>,
    kept: Vec<u8>,
}

impl Values {
    pub(super) fn new() -> Self {
        Self {
            vxid: 0,
            side: Side::None,
            handling: Handling::Unknown,
            esi: false,
            left_out: false,
            incomplete: false,
            met: Met::default(),
            deferred: None,
            in_log: false,
            spans: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Makes these the transaction `vxid`'s, with no value yet. Keeps the memory.
    pub(super) fn begin(&mut self, vxid: u64, captures: usize) {
        (self.vxid, self.side, self.handling) = (vxid, Side::None, Handling::Unknown);
        (self.esi, self.left_out, self.incomplete, self.in_log) = (false, false, false, false);
        self.met.clear();
        self.deferred = None;
        self.spans.clear();
        self.spans.resize(captures, Span::MISSING);
        self.kept.clear();
        self.kept.shrink_to(KEPT);
    }

    /// Whether there is a value.
    #[inline]
    pub(super) fn has(&self, capture: CaptureId) -> bool {
        !self.spans[capture.0 as usize].is_missing()
    }

    /// Sets a value that is part of `log`.
    #[inline]
    pub(super) fn set(&mut self, capture: CaptureId, value: &[u8], log: &[u8]) {
        let start = value.as_ptr().addr().wrapping_sub(log.as_ptr().addr()).wrapping_add(LOG);
        self.spans[capture.0 as usize] = Span { start: start as u32, end: (start + value.len()) as u32 };
        self.in_log = true;
    }

    /// Copies the values that are in `log`. What is not there any more is missing.
    pub(super) fn keep(&mut self, log: &[u8]) {
        if !self.in_log {
            return;
        }
        self.in_log = false;
        for span in self.spans.iter_mut().filter(|span| !span.is_missing() && span.start as usize >= LOG) {
            let start = self.kept.len();
            match lookup(*span, &[], log).filter(|value| start + value.len() < LOG) {
                Some(value) => {
                    self.kept.extend_from_slice(value);
                    *span = Span { start: start as u32, end: self.kept.len() as u32 };
                }
                None => (*span, self.incomplete) = (Span::MISSING, true),
            }
        }
    }

    /// The transaction has ended: no value is looked up again.
    pub(super) fn end(&mut self) {
        self.deferred = None;
        self.in_log = false;
    }

    /// The transaction with these values, some of which are in `log`.
    pub(super) fn transaction<'a>(&'a self, log: &'a [u8]) -> Transaction<'a> {
        Transaction {
            vxid: self.vxid,
            side: self.side,
            handling: self.handling,
            esi: self.esi,
            left_out: self.left_out,
            incomplete: self.incomplete,
            values: self,
            log,
        }
    }

    #[inline]
    pub(super) fn value<'a>(&'a self, capture: CaptureId, log: &'a [u8]) -> Option<&'a [u8]> {
        lookup(self.spans[capture.0 as usize], &self.kept, log)
    }
}

/// The bytes at a place. A missing value's is in neither.
#[inline]
fn lookup<'a>(span: Span, kept: &'a [u8], log: &'a [u8]) -> Option<&'a [u8]> {
    let (start, end) = (span.start as usize, span.end as usize);
    if start < LOG { kept.get(start..end) } else { log.get(start - LOG..end - LOG) }
}
