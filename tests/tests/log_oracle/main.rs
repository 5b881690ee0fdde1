//! The native log reader against libvarnishapi, record by record, on what a real varnishd writes; and what libvarnishapi
//! cannot judge: the death of a child, and logs that are overwritten too early.

#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

mod varnish;

use std::path::Path;
use std::time::{Duration, Instant};

use kafkalog::log::{ApiLog, Event, Filter, LiveLog, LogSource, Read, Record, Recording, Side, Start, Tag};

use varnish::{Client, Options, Varnish};

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A record, and what the log said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    tag: Tag,
    vxid: u64,
    side: Side,
    payload: Vec<u8>,
}

impl From<Record<'_>> for Owned {
    fn from(record: Record<'_>) -> Self {
        let Record { tag, vxid, side, payload } = record;
        Self { tag, vxid, side, payload: payload.to_vec() }
    }
}

/// Reads a recording to its end, or a live log until nothing more is there.
fn read_all(source: &mut dyn LogSource) -> Vec<Owned> {
    let mut records = Vec::new();
    loop {
        match source.read().unwrap() {
            Read::Records(run) => records.extend(run.map(Owned::from)),
            Read::Event(event) => panic!("{event:?} after {} records", records.len()),
            Read::Idle | Read::End => return records,
        }
    }
}

/// Two readings of a live log that has gone quiet. varnishd can have added a record of its own between them.
fn assert_same_start(one: &[Owned], other: &[Owned]) {
    let both = one.len().min(other.len());
    assert!(one.len().abs_diff(other.len()) < 20, "{} and {} records", one.len(), other.len());
    for (at, (one, other)) in one.iter().zip(other).enumerate() {
        assert_eq!(one, other, "record {at} of {both}");
    }
}

/// Requests of every kind that leaves different records.
fn varied_traffic(varnish: &Varnish, rounds: usize) {
    let mut client = Client::connect(varnish);
    for round in 0..rounds {
        client.get(&format!("/synth/{round}"), "");
        client.get("/object", "Accept-Encoding: gzip\r\n");
        client.get(&format!("/miss/{round}?query=%20%22"), &format!("Cookie: {}\r\n", "c".repeat(round * 37 % 3000)));
        client.get(&format!("/pass/{round}"), "X-Non-Ascii: \u{e4}\u{f6}\r\nReferer: http://example.com/\r\n");
        client.get(&format!("/restart/{round}"), "");
        client.get(&format!("/esi/{round}"), "");
        client.post(&format!("/post/{round}"), &"body".repeat(round % 50));
        if round % 10 == 0 {
            Client::connect(varnish).send_garbage();
        }
    }
}

#[test]
fn a_recording_is_read_as_libvarnishapi_reads_it() {
    let varnish = Varnish::start(&Options::DEFAULT);
    varied_traffic(&varnish, 100);
    let file = varnish.directory().join("recording");
    varnish.record(&file);
    let native = read_all(&mut Recording::open(&file).unwrap());
    let api = read_all(&mut ApiLog::open_file(&file).unwrap());
    assert!(native.len() > 10_000, "{}", native.len());
    assert_same_start(&native, &api);
    assert_eq!(native.len(), api.len());
}

#[test]
fn a_live_log_is_read_as_libvarnishapi_reads_it() {
    // In the second, batches are split and the log has been round several times.
    for (options, rounds) in [(Options::DEFAULT, 100), (Options::SMALL, 300)] {
        let varnish = Varnish::start(&options);
        varied_traffic(&varnish, rounds);
        varnish.settle();
        let native = read_all(&mut LiveLog::attach(varnish.directory(), Start::Head).unwrap());
        let api = read_all(&mut ApiLog::attach(varnish.directory(), Start::Head).unwrap());
        assert!(native.len() > 5_000, "{}", native.len());
        assert_same_start(&native, &api);
        let wanted = [Tag::REQ_URL, Tag::END];
        let mut selected = LiveLog::attach(varnish.directory(), Start::Head).unwrap();
        selected.select(Filter::of_tags(&wanted));
        let expected: Vec<Owned> = native.iter().filter(|record| wanted.contains(&record.tag)).cloned().collect();
        assert_same_start(&read_all(&mut selected), &expected);
        let file = varnish.directory().join("recording");
        varnish.record(&file);
        assert_same_start(&native, &read_all(&mut Recording::open(&file).unwrap()));
        let mut tail = LiveLog::attach(varnish.directory(), Start::Tail).unwrap();
        assert!(read_all(&mut tail).len() < 20, "the tail is behind what was written");
    }
}

#[test]
fn a_reader_resumes_at_a_position_and_stops_at_the_boundary() {
    let varnish = Varnish::start(&Options::DEFAULT);
    let mut first = LiveLog::attach(varnish.directory(), Start::Tail).unwrap();
    let from = first.position().unwrap();
    varied_traffic(&varnish, 20);
    varnish.settle();
    let before = read_all(&mut first);
    let boundary = first.position().unwrap();
    varied_traffic(&varnish, 20);
    varnish.settle();
    let after = read_all(&mut first);

    let mut second = LiveLog::resume(varnish.directory(), from, boundary).unwrap();
    let mut again = Vec::new();
    while !second.boundary_passed() {
        let Read::Records(run) = second.read().unwrap() else { panic!("there are records up to the boundary") };
        again.extend(run.map(Owned::from));
    }
    assert_eq!(second.position(), Some(boundary));
    assert_eq!(again, before);
    assert_same_start(&read_all(&mut second), &after);
}

/// Notes the URLs of client transactions in the order in which they end, and between them what breaks the sequence.
struct Watch<S> {
    source: S,
    urls: std::collections::HashMap<u64, String>,
    ended: Vec<Seen>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Request(String),
    Event(Event),
}

impl<S: LogSource> Watch<S> {
    fn new(source: S) -> Self {
        Self { source, urls: Default::default(), ended: Vec::new() }
    }

    /// Returns whether anything was there.
    fn read(&mut self) -> bool {
        match self.source.read().unwrap() {
            Read::Records(records) => {
                for record in records.filter(|record| record.side == Side::Client) {
                    if record.tag == Tag::REQ_URL {
                        let url = String::from_utf8_lossy(record.payload).trim_end_matches('\0').to_owned();
                        self.urls.insert(record.vxid, url);
                    } else if record.tag == Tag::END {
                        self.ended.extend(self.urls.remove(&record.vxid).map(Seen::Request));
                    }
                }
                true
            }
            Read::Event(event) => {
                self.urls.clear();
                self.ended.push(Seen::Event(event));
                true
            }
            Read::Idle => false,
            Read::End => panic!("a live log has no end"),
        }
    }

    fn read_until(&mut self, done: impl Fn(&[Seen]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(&self.ended) {
            assert!(Instant::now() < deadline, "it does not come after {:?}", self.ended.last());
            if !self.read() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    fn requests(&self) -> Vec<&str> {
        let requests = self.ended.iter().map(|seen| match seen {
            Seen::Request(url) => Some(url.as_str()),
            Seen::Event(_) => None,
        });
        requests.flatten().collect()
    }
}

fn killed_child(attach: impl Fn(&Path) -> Box<dyn LogSource>) {
    const REQUESTS: usize = 100;
    let varnish = Varnish::start(&Options::DEFAULT);
    let mut watch = Watch::new(attach(varnish.directory()));
    let mut client = Client::connect(&varnish);
    for number in 0..REQUESTS {
        client.get(&format!("/synth/old/{number}"), "");
    }
    varnish.kill_child();
    varnish.wait_for_new_child();
    let mut client = Client::connect(&varnish);
    for number in 0..REQUESTS {
        client.get(&format!("/synth/new/{number}"), "");
    }
    drop(client);
    let last = Seen::Request(format!("/synth/new/{}", REQUESTS - 1));
    watch.read_until(|seen| seen.contains(&last));

    let events: Vec<_> = watch.ended.iter().filter(|seen| matches!(seen, Seen::Event(_))).collect();
    assert_eq!(events, [&Seen::Event(Event::Abandoned), &Seen::Event(Event::Reacquired)]);
    // The answer to a request is sent before its records are in the log: the last one before the kill may be lost.
    let requests = watch.requests();
    let old = requests.iter().filter(|url| url.contains("old")).count();
    assert!((REQUESTS - 1..=REQUESTS).contains(&old), "{old}");
    let expected = (0..old).map(|number| format!("/synth/old/{number}"));
    let expected: Vec<_> = expected.chain((0..REQUESTS).map(|number| format!("/synth/new/{number}"))).collect();
    assert_eq!(requests, expected);
    let old_ended = watch.ended.iter().position(|seen| *seen == Seen::Event(Event::Abandoned)).unwrap();
    assert_eq!(old_ended, old, "the old log is read to its end first");
}

#[test]
fn a_killed_child_costs_nothing_that_was_written() {
    killed_child(|directory| Box::new(LiveLog::attach(directory, Start::Tail).unwrap()));
}

#[test]
fn libvarnishapi_gets_over_a_killed_child_too() {
    killed_child(|directory| Box::new(ApiLog::attach(directory, Start::Tail).unwrap()));
}

/// A request number from a URL.
fn number(url: &str) -> usize {
    url.rsplit('/').next().unwrap().parse().unwrap()
}

#[test]
fn a_reader_that_sleeps_is_told_of_the_overrun_and_goes_on() {
    let varnish = Varnish::start(&Options::SMALL);
    let mut watch = Watch::new(LiveLog::attach(varnish.directory(), Start::Tail).unwrap());
    let mut client = Client::connect(&varnish);
    let mut next = 0;
    for round in 1..=3 {
        // A request is more than 1 kB in the log.
        for _ in 0..2000 {
            client.get(&format!("/synth/{next}"), "");
            next += 1;
        }
        let last = Seen::Request(format!("/synth/{}", next - 1));
        // The last one may be in a batch that is not written yet.
        client.get("/synth/0/x", "");
        watch.read_until(|seen| seen.contains(&last));
        let overruns = watch.ended.iter().filter(|seen| matches!(seen, Seen::Event(Event::Overrun { segments: 1.. })));
        assert_eq!(overruns.count(), round, "one overrun for each sleep");
    }
    let numbers: Vec<_> = watch.requests().into_iter().filter(|url| !url.ends_with('x')).map(number).collect();
    assert!(numbers.is_sorted_by(|one, other| one < other), "in order, and none twice");
    // A log of 1 MB at five segments' distance.
    assert!(numbers.len() > 3 * 300, "{}", numbers.len());
}

#[test]
fn a_small_log_at_full_speed_loses_nothing_in_silence() {
    const CLIENTS: usize = 3;
    const REQUESTS: usize = 3000;
    let varnish = Varnish::start(&Options::SMALL);
    let mut watch = Watch::new(LiveLog::attach(varnish.directory(), Start::Tail).unwrap());
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let varnish = &varnish;
                scope.spawn(move || {
                    let mut connection = Client::connect(varnish);
                    for number in 0..REQUESTS {
                        connection.get(&format!("/synth/{client}/{number}"), "");
                    }
                })
            })
            .collect();
        let mut pace = 0_u32;
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            watch.read();
            // At times too slow.
            pace = pace.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            std::thread::sleep(Duration::from_millis(u64::from(pace >> 24)));
        }
    });
    varnish.settle();
    while watch.read() {}

    for client in 0..CLIENTS {
        let prefix = format!("/synth/{client}/");
        let (mut expected, mut overrun) = (0, false);
        for seen in &watch.ended {
            match seen {
                Seen::Event(_) => overrun = true,
                Seen::Request(url) if url.starts_with(&prefix) => {
                    let number = number(url);
                    let in_order = if overrun { number >= expected } else { number == expected };
                    assert!(in_order, "client {client}: {number} where {expected} was to come, overrun: {overrun}");
                    (expected, overrun) = (number + 1, false);
                }
                Seen::Request(_) => {}
            }
        }
        assert!(overrun || expected == REQUESTS, "the last one is missing");
    }
}
