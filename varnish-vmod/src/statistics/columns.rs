//! What there is to show: one table, from which varnishd's documentation of it is made.

use std::ffi::CString;
use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use kafkalog::counters::{Counter, Counters, LossCause, SaltCounters, StreamCounters};

/// How a number behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// A counter of bytes.
    Bytes,
    /// Goes up and down.
    Gauge,
    /// A gauge of bytes.
    BytesNow,
}

/// One number of a segment, and how it is read from `T`.
pub(super) struct Column<T> {
    pub(super) name: String,
    kind: Kind,
    oneliner: String,
    pub(super) read: Box<dyn Fn(&T) -> u64 + Send + Sync>,
}

impl<T> fmt::Debug for Column<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

fn counter<T>(name: &str, oneliner: &str, of: fn(&T) -> &Counter) -> Column<T>
where
    T: 'static,
{
    column(Kind::Counter, name, oneliner, move |counters| of(counters).get())
}

fn salt(kind: Kind, name: &str, oneliner: &str, of: fn(&SaltCounters) -> u64) -> Column<Own> {
    column(kind, name, oneliner, move |own: &Own| of(&own.salt))
}

fn column<T>(
    kind: Kind,
    name: impl Into<String>,
    oneliner: impl Into<String>,
    read: impl Fn(&T) -> u64 + Send + Sync + 'static,
) -> Column<T> {
    Column { name: name.into(), kind, oneliner: oneliner.into(), read: Box::new(read) }
}

/// The numbers of this module rather than of an engine.
#[derive(Debug, Clone, Default)]
pub(super) struct Own {
    pub(super) healthy: bool,
    pub(super) starts: u64,
    pub(super) engines: u64,
    /// There is one for all engines.
    pub(super) salt: Arc<SaltCounters>,
}

/// All numbers.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) engine: Vec<Column<Counters>>,
    /// Behind the engine's in its segment.
    pub(super) own: Vec<Column<Own>>,
    pub(super) stream: Vec<Column<StreamCounters>>,
    pub(super) engine_documentation: CString,
    pub(super) stream_documentation: CString,
}

pub(super) static COLUMNS: LazyLock<Columns> = LazyLock::new(|| {
    let engine = vec![
        counter("transactions", "Transactions that ended", |counters: &Counters| &counters.transactions),
        counter("incomplete", "Transactions cut before their end", |counters| &counters.incomplete),
        counter("overruns", "Times the log was overwritten unread", |counters| &counters.overruns),
        counter("overrun_segments", "Segments of the log lost to overruns", |counters| &counters.overrun_segments),
        counter("throttled_milliseconds", "Milliseconds of throttling by Kafka's quotas", |counters| {
            &counters.throttled_milliseconds
        }),
        counter("reacquired", "New logs attached to", |counters| &counters.reacquired),
        counter("panics", "Panics caught in a thread", |counters| &counters.panics),
        column(Kind::BytesNow, "backlog_bytes", "Bytes not acknowledged yet", |counters: &Counters| {
            counters.backlog_bytes.load(Ordering::Relaxed)
        }),
    ];
    let own = vec![
        column(Kind::Gauge, "healthy", "Lines are acknowledged, or none wait", |own: &Own| own.healthy.into()),
        column(Kind::Counter, "starts", "Engines started", |own: &Own| own.starts),
        column(Kind::Gauge, "engines", "Engines, with those that finish", |own: &Own| own.engines),
        salt(Kind::Counter, "salt_refused", "Messages of the salt by strangers", |salt| salt.refused.get()),
        salt(Kind::Counter, "salt_proposed", "Salts made here for all nodes", |salt| salt.proposed.get()),
        salt(Kind::Counter, "salt_received", "Salts received from other nodes", |salt| salt.received.get()),
        salt(Kind::Counter, "salt_answered", "Salts given to other nodes", |salt| salt.answered.get()),
        salt(Kind::Gauge, "salt_shared", "The salt is the one that all nodes have", |salt| salt.shared.get()),
        salt(Kind::Gauge, "salt_epoch", "The salt's epoch", |salt| salt.epoch.get()),
        salt(Kind::Gauge, "salt_generation", "The shared salt's generation", |salt| salt.generation.get()),
        salt(Kind::Gauge, "salt_age_seconds", "Seconds since the epoch began", |salt| salt.age_seconds.get()),
        salt(Kind::Gauge, "salt_rotation_seconds", "Seconds until the next epoch", |salt| salt.rotation_seconds.get()),
        salt(
            Kind::Gauge,
            "salt_clock_skew_milliseconds",
            "How far this machine's clock and ZooKeeper's are apart at least",
            |salt| salt.clock_skew_milliseconds.get(),
        ),
        salt(Kind::Gauge, "salt_connected", "There is a session with ZooKeeper", |salt| salt.connected.get()),
    ];
    let mut stream = vec![
        counter("lines", "Lines numbered", |stream: &StreamCounters| &stream.lines),
        counter("acknowledged", "Lines acknowledged by Kafka", |stream| &stream.acknowledged),
        Column {
            kind: Kind::Bytes,
            ..counter("acknowledged_bytes", "Bytes acknowledged by Kafka", |stream: &StreamCounters| {
                &stream.acknowledged_bytes
            })
        },
        counter("unnumbered", "Lines in Kafka without their number", |stream| &stream.unnumbered),
    ];
    stream.extend(LossCause::ALL.map(|cause| {
        let name = format!("lost_{}", cause.name());
        let oneliner = format!("Lines lost: {}", cause.name().replace('_', " "));
        column(Kind::Counter, name, oneliner, move |stream: &StreamCounters| stream.lost(cause))
    }));
    let engine_rows = engine.iter().map(Column::row).chain(own.iter().map(Column::row)).collect();
    let engine_documentation = documentation("kafkalog: the engine", engine_rows);
    let stream_documentation = documentation("kafkalog: a stream", stream.iter().map(Column::row).collect());
    Columns { engine, own, stream, engine_documentation, stream_documentation }
});

impl<T> Column<T> {
    fn row(&self) -> (&str, Kind, &str) {
        (&self.name, self.kind, &self.oneliner)
    }

    /// What remains of an engine's number once it has finished.
    pub(super) fn settled(&self, of: &T) -> u64 {
        match self.kind {
            Kind::Counter | Kind::Bytes => (self.read)(of),
            Kind::Gauge | Kind::BytesNow => 0,
        }
    }
}

/// The description that varnishd publishes with a segment: the JSON that vsctool.py makes of a `.vsc` file, in its fields.
fn documentation(oneliner: &str, rows: Vec<(&str, Kind, &str)>) -> CString {
    let mut text = format!(
        r#"{{"version":"1","name":"kafkalog","oneliner":"{oneliner}","order":70,"docs":"","elements":{},"elem":{{"#,
        rows.len()
    );
    for (index, (name, kind, oneliner)) in rows.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let (semantics, format) = match kind {
            Kind::Counter => ("counter", "integer"),
            Kind::Bytes => ("counter", "bytes"),
            Kind::Gauge => ("gauge", "integer"),
            Kind::BytesNow => ("gauge", "bytes"),
        };
        let _ = write!(
            text,
            r#"{comma}"{name}":{{"type":"{semantics}","ctype":"uint64_t","level":"info","oneliner":"{oneliner}","format":"{format}","index":{},"name":"{name}","docs":""}}"#,
            index * size_of::<u64>()
        );
    }
    text.push_str("}}");
    CString::new(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_what_varnishstat_asserts() {
        for (text, columns) in [
            (&COLUMNS.engine_documentation, COLUMNS.engine.len() + COLUMNS.own.len()),
            (&COLUMNS.stream_documentation, COLUMNS.stream.len()),
        ] {
            let json: serde_json::Value = serde_json::from_slice(text.to_bytes()).expect("it is JSON");
            assert_eq!(json["elements"], columns);
            let elements = json["elem"].as_object().expect("it is an object");
            assert_eq!(elements.len(), columns, "no name twice");
            for (name, element) in elements {
                assert_eq!(element["name"], name.as_str());
                for key in ["type", "ctype", "level", "oneliner", "format", "docs"] {
                    assert!(element[key].is_string(), "{name}.{key}");
                }
                assert!(element["index"].as_u64().expect("a number") < columns as u64 * 8);
                assert!(!name.contains('%'));
            }
        }
    }
}
