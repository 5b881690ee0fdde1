//! Several sinks share the partitions.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what they call.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kafkalog::config::Source;
use kafkalog_sink::{Config, store};
use support::fault::{Fault, Faulty};
use support::*;
use tempfile::TempDir;

#[test]
fn a_second_member_takes_its_share_and_nothing_is_doubled() {
    let (cluster, directory) = (Arc::new(Cluster::start()), TempDir::new().unwrap());
    let table = directory.path().join("shared");
    cluster.topic("shared", 4);
    let config = configuration(&cluster, directory.path(), "shared", "rotate = { every = \"1s\" }");

    // Lines keep coming over both rebalances.
    let stop = Arc::new(AtomicBool::new(false));
    let producer = {
        let (cluster, stop) = (Arc::clone(&cluster), Arc::clone(&stop));
        let produce = move || {
            let mut sent = Vec::new();
            while !stop.load(Ordering::Acquire) {
                let start = sent.len() as i32;
                let lines: Vec<Line> = (start..start + 40)
                    .map(|n| Line::new(n % 4, HOUR_14 + i64::from(n) * 1_000, format!("line {n}")))
                    .collect();
                cluster.produce("shared", &lines);
                sent.extend(lines);
                thread::sleep(Duration::from_millis(100));
            }
            sent
        };
        thread::Builder::new().spawn(produce).unwrap()
    };

    let first = run(&config);
    wait_until("the first one writes", || !files(&table).is_empty());
    let watched = Faulty::new(store::open(&config.store), Fault::None);
    let second = run_with(&config, Arc::clone(&watched) as Arc<_>);
    // The mock cluster hands over when the session time-out is nearly over.
    wait_until("the second one writes", || watched.created() > 0);
    thread::sleep(Duration::from_secs(2));
    stop.store(true, Ordering::Release);
    let lines = producer.join().unwrap();
    let seconds = second.stop();
    let ends: Vec<Option<i64>> =
        (0..4).map(|partition| Some(lines.iter().filter(|line| line.partition == partition).count() as i64)).collect();
    wait_until("the first one has the rest", || cluster.committed("shared", "shared", 4) == ends);
    let firsts = first.stop();
    assert_exactly(&table, &lines);
    assert!(temporary(&table).is_empty());
    let (firsts, seconds) = (firsts[0].1.counts.written, seconds[0].1.counts.written);
    assert!(seconds > 0, "the second member published nothing");
    assert_eq!(firsts + seconds, lines.len() as u64);
}

#[test]
fn a_member_that_was_taken_for_dead_discards_what_it_has() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("stalled");
    cluster.topic("stalled", 1);
    let lines: Vec<Line> = (0..100).map(|n| Line::new(0, HOUR_14, n.to_string())).collect();
    cluster.produce("stalled", &lines);
    let text = configuration_text(&cluster, directory.path(), "stalled", "rotate = { every = \"1s\" }")
        .replace("properties = {", "properties = { \"max.poll.interval.ms\" = \"6000\",");
    let config = Config::parse(&Source::from_text("sink.toml", text)).unwrap();
    // So long does a disk not answer. The chunk is due when it does, but the partition is not ours any more.
    let stalling = Faulty::new(store::open(&config.store), Fault::Stalls(9));
    let sink = run_with(&config, Arc::clone(&stalling) as Arc<_>);
    wait_until("the lines are committed", || cluster.committed("stalled", "stalled", 1) == [Some(100)]);
    assert_eq!(sink.stop()[0].1.counts.written, 100);
    assert_eq!(stalling.created(), 2, "the first chunk was published although the partition was lost");
    assert_exactly(&table, &lines);
    assert!(temporary(&table).is_empty());
}
