//! What the library has to say, from any of its threads to where operators look.
//!
//! The threads that read and send must not wait for a pipe: they leave their lines in a short queue, from which the keeper
//! writes them to standard error (and so to syslog, which varnishd's manager process does) and, for errors, to varnishd's
//! log. Lines are limited in number, so that a broker that goes up and down does not fill a disk.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Lines that may wait for the keeper, which comes every 20 ms.
const QUEUE: usize = 64;

/// Lines from one place of the code in a [`WINDOW`], so that a flood of one kind does not drown the others.
const LINES: u32 = 5;

/// What [`LINES`] counts for.
const WINDOW: Duration = Duration::from_secs(10);

/// Bytes of a line; varnishd cuts what is longer than `vsl_reclen`, 255 by default, in its log.
const LINE: usize = 1000;

/// A line on its way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Whether operators have to look at it.
    pub(crate) is_error: bool,
    /// Without a line break.
    pub(crate) text: String,
}

/// Lines that the keeper has not written yet.
#[derive(Debug)]
pub(crate) struct Queue(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    lines: VecDeque<Line>,
    places: Vec<Place>,
}

/// How much one place of the code has said.
#[derive(Debug)]
struct Place {
    callsite: Identifier,
    window: Instant,
    taken: u32,
    suppressed: u64,
}

/// The queue of this library.
pub(crate) static QUEUE_OF_LIBRARY: Queue = Queue::new();

impl Queue {
    const fn new() -> Self {
        Self(Mutex::new(Inner { lines: VecDeque::new(), places: Vec::new() }))
    }

    fn push(&self, callsite: Identifier, is_error: bool, mut text: String, now: Instant) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { lines, places } = &mut *inner;
        let known = places.iter().position(|place| place.callsite == callsite).unwrap_or_else(|| {
            places.push(Place { callsite, window: now, taken: 0, suppressed: 0 });
            places.len() - 1
        });
        let place = &mut places[known];
        if now.duration_since(place.window) >= WINDOW {
            place.window = now;
            place.taken = 0;
        }
        if place.taken >= LINES || lines.len() >= QUEUE {
            place.suppressed += 1;
            return;
        }
        place.taken += 1;
        if place.suppressed > 0 {
            let _ = write!(text, " ({} such lines before were left out)", place.suppressed);
            place.suppressed = 0;
        }
        lines.push_back(Line { is_error, text });
    }

    /// Takes the oldest line out.
    pub(crate) fn pop(&self) -> Option<Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lines.pop_front()
    }
}

/// Has `tracing` events go to the queue, and panics be told by their place alone: a message could quote a request.
pub(crate) fn install() {
    // Somebody was before: the unit tests, which share a process.
    let _ = tracing::subscriber::set_global_default(Reporter { next_span: AtomicU64::new(1) });
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
        let thread = std::thread::current();
        tracing::error!("panic in the thread {}{place}", thread.name().unwrap_or("without a name"));
    }));
}

/// Takes events of level INFO and above.
#[derive(Debug)]
struct Reporter {
    next_span: AtomicU64,
}

impl Subscriber for Reporter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        QUEUE_OF_LIBRARY.push(metadata.callsite(), *metadata.level() <= Level::WARN, text.0, Instant::now());
    }

    // Spans are not shown; they only have to be told apart.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(self.next_span.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// `message name=value …`, on one line.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self, "{value:?}"),
            name if self.0.is_empty() => write!(self, "{name}={value:?}"),
            name => write!(self, " {name}={value:?}"),
        };
        // Too long: the rest is cut.
        let _ = written;
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.len() + c.len_utf8() > LINE {
                return Err(fmt::Error);
            }
            self.0.push(if c.is_control() { ' ' } else { c });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing::callsite::DefaultCallsite;
    use tracing::metadata::Kind;

    use super::*;

    #[test]
    fn events_become_single_lines() {
        let reporter = Reporter { next_span: AtomicU64::new(1) };
        tracing::subscriber::with_default(reporter, || {
            let _span = tracing::info_span!("reading").entered();
            tracing::debug!("not this");
            tracing::warn!(topic = "web", partition = 3, "refused:\nno such topic");
        });
        let line = QUEUE_OF_LIBRARY.pop().expect("it is in the queue");
        assert_eq!(line, Line { is_error: true, text: "refused: no such topic topic=web partition=3".into() });
        assert_eq!(QUEUE_OF_LIBRARY.pop(), None);
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        static ONE: DefaultCallsite = DefaultCallsite::new(&METADATA);
        static OTHER: DefaultCallsite = DefaultCallsite::new(&METADATA);
        static METADATA: Metadata<'static> = tracing::metadata! {
            name: "test", target: "test", level: Level::INFO, fields: &[], callsite: &ONE, kind: Kind::EVENT
        };
        let (one, other) = (Identifier(&ONE), Identifier(&OTHER));
        let queue = Queue::new();
        let began = Instant::now();
        for number in 0..LINES + 7 {
            queue.push(one.clone(), false, number.to_string(), began);
        }
        queue.push(other, false, "heard all the same".into(), began);
        let written = std::iter::from_fn(|| queue.pop()).count();
        assert_eq!(written, LINES as usize + 1);
        queue.push(one, true, "later".into(), began + WINDOW);
        assert_eq!(queue.pop().expect("a new window").text, "later (7 such lines before were left out)");
    }

    #[test]
    fn a_long_line_is_cut() {
        let mut text = Text(String::new());
        assert!(text.write_str(&"é".repeat(LINE)).is_err());
        assert!(text.0.len() <= LINE);
    }
}
