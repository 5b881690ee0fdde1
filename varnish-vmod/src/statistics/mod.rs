//! `varnishstat`'s view: `KAFKALOG.engine.*` and `KAFKALOG.<stream>.*`.
//!
//! A counter shows the sum over all engines that have run in this process under this build of the library, so it goes on
//! when an engine is replaced: an engine that has finished leaves its numbers in a base. A stream that no configuration has
//! any more keeps showing what it came to: a number that vanished would hide a loss.

mod columns;

use std::ffi::CStr;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use kafkalog::counters::{Counters, StreamCounters};

use crate::host::Segment;

use columns::{COLUMNS, Own};

/// Gives a segment: name, counters, documentation.
pub(crate) type MakeSegment = Box<dyn Fn(&str, usize, &'static CStr) -> Segment + Send>;

/// The segments, and the engines that they are filled from.
#[derive(Debug)]
pub(crate) struct Statistics(Mutex<Inner>);

struct Inner {
    make: MakeSegment,
    engine: Segment,
    engine_base: Vec<u64>,
    streams: Vec<Stream>,
    sources: Vec<Source>,
    starts: u64,
    visible: bool,
}

impl fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Inner").field("streams", &self.streams).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Stream {
    name: String,
    segment: Segment,
    base: Vec<u64>,
}

#[derive(Debug)]
struct Source {
    /// By stream, in the order of the configuration.
    names: Vec<String>,
    counters: Arc<Counters>,
}

impl Statistics {
    /// With the engine's segment. Must be called from varnishd's CLI thread.
    pub(crate) fn new(make: MakeSegment) -> Self {
        let columns = &*COLUMNS;
        let engine = make("engine", columns.engine.len() + columns.own.len(), &columns.engine_documentation);
        Self(Mutex::new(Inner {
            make,
            engine,
            engine_base: vec![0; columns.engine.len()],
            streams: Vec::new(),
            sources: Vec::new(),
            starts: 0,
            visible: true,
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // What a panic could leave behind is an old number.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the segments of these streams where they are not there yet. Must be called from varnishd's CLI thread.
    pub(crate) fn prepare<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let mut inner = self.lock();
        for name in names {
            if !inner.streams.iter().any(|stream| stream.name == name) {
                let segment = (inner.make)(name, COLUMNS.stream.len(), &COLUMNS.stream_documentation);
                segment.show(inner.visible);
                inner.streams.push(Stream { name: name.to_owned(), segment, base: vec![0; COLUMNS.stream.len()] });
            }
        }
    }

    /// Counts an engine in whose streams have these names.
    pub(crate) fn attach(&self, names: Vec<String>, counters: &Arc<Counters>) {
        let mut inner = self.lock();
        inner.starts += 1;
        inner.sources.push(Source { names, counters: Arc::clone(counters) });
    }

    /// Keeps the numbers of an engine that has finished.
    pub(crate) fn detach(&self, counters: &Arc<Counters>) {
        let mut inner = self.lock();
        let Inner { engine_base, streams, sources, .. } = &mut *inner;
        let Some(index) = sources.iter().position(|source| Arc::ptr_eq(&source.counters, counters)) else { return };
        let source = sources.swap_remove(index);
        for (base, column) in engine_base.iter_mut().zip(&COLUMNS.engine) {
            *base += column.settled(&source.counters);
        }
        for stream in streams {
            if let Some(counters) = source.stream(&stream.name) {
                for (base, column) in stream.base.iter_mut().zip(&COLUMNS.stream) {
                    *base += column.settled(counters);
                }
            }
        }
    }

    /// Copies the numbers to where varnishstat sees them.
    pub(crate) fn publish(&self, healthy: bool) {
        let inner = self.lock();
        let salt = inner.sources.last().map(|source| Arc::clone(&source.counters.salt)).unwrap_or_default();
        let own = Own { healthy, starts: inner.starts, engines: inner.sources.len() as u64, salt };
        let engine = COLUMNS.engine.iter().zip(&inner.engine_base).map(|(column, base)| {
            base + inner.sources.iter().map(|source| (column.read)(&source.counters)).sum::<u64>()
        });
        let own = COLUMNS.own.iter().map(|column| (column.read)(&own));
        store(&inner.engine, engine.chain(own));
        for stream in &inner.streams {
            let sources: Vec<&StreamCounters> =
                inner.sources.iter().filter_map(|source| source.stream(&stream.name)).collect();
            store(
                &stream.segment,
                COLUMNS
                    .stream
                    .iter()
                    .zip(&stream.base)
                    .map(|(column, base)| base + sources.iter().map(|counters| (column.read)(counters)).sum::<u64>()),
            );
        }
    }

    /// Shows the segments, or takes them out of varnishstat once no engine of this build is left: another build shows its
    /// own under the same names.
    pub(crate) fn show(&self, visible: bool) {
        let mut inner = self.lock();
        let visible = visible || !inner.sources.is_empty();
        if inner.visible != visible {
            inner.visible = visible;
            inner.engine.show(visible);
            inner.streams.iter().for_each(|stream| stream.segment.show(visible));
        }
    }
}

impl Source {
    fn stream(&self, name: &str) -> Option<&StreamCounters> {
        let index = self.names.iter().position(|own| own == name)?;
        self.counters.streams.get(index)
    }
}

fn store(segment: &Segment, values: impl Iterator<Item = u64>) {
    for (place, value) in segment.values.iter().zip(values) {
        place.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use kafkalog::counters::LossCause;

    use super::*;

    fn statistics() -> Statistics {
        Statistics::new(Box::new(|_, counters, _| Segment::detached(counters)))
    }

    fn shown(statistics: &Statistics, stream: &str, name: &str) -> u64 {
        statistics.publish(true);
        let inner = statistics.lock();
        let stream = inner.streams.iter().find(|other| other.name == stream).expect("it was prepared");
        let index = COLUMNS.stream.iter().position(|column| column.name == name).expect("it is a column");
        stream.segment.values[index].load(Ordering::Relaxed)
    }

    fn own(statistics: &Statistics, name: &str) -> u64 {
        statistics.publish(true);
        let names =
            COLUMNS.engine.iter().map(|column| &column.name).chain(COLUMNS.own.iter().map(|column| &column.name));
        let index = names.into_iter().position(|other| other == name).expect("it is a column");
        statistics.lock().engine.values[index].load(Ordering::Relaxed)
    }

    fn engine(statistics: &Statistics, streams: &[&str]) -> Arc<Counters> {
        let counters = Arc::new(Counters::new(streams.len()));
        statistics.prepare(streams.iter().copied());
        statistics.attach(streams.iter().map(|name| (*name).to_owned()).collect(), &counters);
        counters
    }

    #[test]
    fn numbers_go_on_when_an_engine_is_replaced() {
        let statistics = statistics();
        let old = engine(&statistics, &["web", "mobile"]);
        old.streams[0].lines.add(10);
        old.streams[0].lose(LossCause::Refused, 2);
        old.backlog_bytes.store(700, Ordering::Relaxed);
        assert_eq!(shown(&statistics, "web", "lines"), 10);

        let new = engine(&statistics, &["upload", "web"]);
        new.streams[1].lines.add(5);
        old.streams[0].lines.add(1);
        assert_eq!(shown(&statistics, "web", "lines"), 16);
        assert_eq!((own(&statistics, "engines"), own(&statistics, "backlog_bytes")), (2, 700));

        statistics.detach(&old);
        assert_eq!(shown(&statistics, "web", "lines"), 16);
        assert_eq!(shown(&statistics, "web", "lost_refused"), 2);
        assert_eq!((own(&statistics, "engines"), own(&statistics, "backlog_bytes")), (1, 0));
        assert_eq!(own(&statistics, "starts"), 2);
        assert_eq!(shown(&statistics, "upload", "lines"), 0);
    }

    #[test]
    fn every_cause_of_loss_is_shown() {
        for cause in LossCause::ALL {
            let statistics = statistics();
            engine(&statistics, &["web"]).streams[0].lose(cause, 3);
            assert_eq!(shown(&statistics, "web", &format!("lost_{}", cause.name())), 3);
        }
    }
}
