//! What becomes of messages: names, hours, contents, rotation.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what they call.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use kafkalog::message::Boot;
use kafkalog_sink::accounting::Counts;
use kafkalog_sink::chunk::MOST_HOURS;
use rdkafka::message::{Header, OwnedHeaders};
use support::*;
use tempfile::TempDir;

#[test]
fn lines_are_in_the_hour_of_their_timestamp() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("hours");
    cluster.topic("hours", 3);
    // Three hours, three partitions, with the hours mixed.
    let lines: Vec<Line> = (0..3_000)
        .map(|n| Line::new(n % 3, HOUR_14 + HOUR * i64::from(n / 7 % 3) + i64::from(n), format!("{{\"n\":{n}}}")))
        .collect();
    cluster.produce("hours", &lines);
    let sink = run(&configuration(&cluster, directory.path(), "hours", "rotate = { every = \"1s\" }"));
    // While it works, whatever can be seen in an hour's directory is complete: `files` reads it to its end.
    wait_until("all lines are in files", || counts(&table).len() == lines.len());
    let outcome = sink.stop();

    assert_exactly(&table, &lines);
    assert_eq!(outcome[0].1.counts, Counts { written: 3_000, unnumbered: 3_000, ..Counts::default() });
    assert_eq!(temporary(&table), [] as [std::path::PathBuf; 0]);
    assert_eq!(cluster.committed("hours", "hours", 3), [Some(1_000); 3]);

    let found = files(&table);
    for file in &found {
        let hour = (0..3).find(|hour| file.path.starts_with(&format!("year=2013/month=03/day=01/hour={}/", 14 + hour)));
        let hour = hour.unwrap_or_else(|| panic!("{}", file.path));
        assert!(file.path.ends_with(&format!("hours+{}+{:020}+{:020}.json.gz", file.partition, file.first, file.last)));
        // Offset o of partition p is line 3 o + p; the file holds those of its hour, in order.
        let expected: Vec<String> = (file.first..=file.last)
            .map(|offset| offset * 3 + i64::from(file.partition))
            .filter(|n| n / 7 % 3 == hour)
            .map(|n| format!("{{\"n\":{n}}}"))
            .collect();
        assert_eq!(file.lines, expected, "{}", file.path);
        let path = table.join(&file.path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o750);
    }
    assert!(found.len() >= 9, "{found:?}");
}

#[test]
fn a_quiet_topic_is_closed_by_time() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("quiet");
    cluster.topic("quiet", 1);
    let config = configuration(
        &cluster,
        directory.path(),
        "quiet",
        "format = \"text\"\ncompression = \"none\"\nrotate = { every = \"2s\" }",
    );
    let sink = run(&config);
    cluster.produce("quiet", &[Line::new(0, HOUR_14, "only")]);
    wait_until("the file is open", || !temporary(&table).is_empty());
    assert_eq!(files(&table), []);
    wait_until("the file is closed", || !files(&table).is_empty());
    wait_until("and committed", || cluster.committed("quiet", "quiet", 1) == [Some(1)]);
    let name = "year=2013/month=03/day=01/hour=14/quiet+0+00000000000000000000+00000000000000000000.text";
    assert_eq!(files(&table)[0].path, name);
    assert_eq!(fs::read_to_string(table.join(name)).unwrap(), "only\n");
    sink.stop();
}

#[test]
fn a_large_file_is_closed_by_size() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("large");
    cluster.topic("large", 1);
    let lines: Vec<Line> = (0..1_000).map(|n| Line::new(0, HOUR_14, format!("{n:01000}"))).collect();
    let config = configuration(
        &cluster,
        directory.path(),
        "large",
        "compression = \"none\"\nrotate = { bytes = \"200KiB\", every = \"1h\" }",
    );
    let sink = run(&config);
    cluster.produce("large", &lines);
    wait_until("full files", || files(&table).len() == 3);
    sink.stop();
    assert_exactly(&table, &lines);
    let found = files(&table);
    // Lines are gathered 64 KiB at a time before the store gets them, so that a file has up to that much more.
    let sizes: Vec<u64> = found.iter().map(|file| fs::metadata(table.join(&file.path)).unwrap().len()).collect();
    assert!(sizes[..3].iter().all(|size| (200 << 10..=(264 << 10)).contains(size)), "{sizes:?}");
    assert!(found.windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
}

#[test]
fn many_hours_close_a_chunk() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("many");
    cluster.topic("many", 1);
    let lines: Vec<Line> = (0..60).map(|n| Line::new(0, HOUR_14 + n * HOUR, n.to_string())).collect();
    cluster.produce("many", &lines);
    let sink = run(&configuration(&cluster, directory.path(), "many", "rotate = { every = \"1h\" }"));
    wait_until("two chunks", || files(&table).len() == 2 * MOST_HOURS);
    wait_until("and a third one that is open", || temporary(&table).len() == 60 - 2 * MOST_HOURS);
    sink.stop();
    assert_exactly(&table, &lines);
}

#[test]
fn lines_that_come_twice_are_dropped_and_counted() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("twice");
    cluster.topic("twice", 2);
    let boot = Boot::begin();
    let line = |partition, sequence: u64| {
        Line::new(partition, HOUR_14, format!("a {sequence}")).numbered("cp3030", boot, sequence)
    };
    let first: Vec<Line> = (0..100).map(|sequence| line(0, sequence)).chain((100..150).map(|n| line(1, n))).collect();
    let sink = run(&configuration(&cluster, directory.path(), "twice", "rotate = { every = \"1s\" }"));
    cluster.produce("twice", &first);
    wait_until("the first chunk is closed", || counts(&table).len() == 150);

    // A restarted producer sends again what it has no acknowledgement for. Another boot, another host and what bears no
    // number are not taken for copies.
    let other_boot = Line::new(0, HOUR_14, "b 5").numbered("cp3030", Boot::begin(), 5);
    let other_host = Line::new(0, HOUR_14, "c 5").numbered("cp3031", boot, 5);
    let unnumbered = Line::new(0, HOUR_14, "d");
    let mut wrong = Line::new(0, HOUR_14, "e");
    wrong.headers = Some(OwnedHeaders::new().insert(Header { key: "kl-\u{7f}seq", value: Some("1") }));
    let second: Vec<Line> = (90..120).map(|sequence| line(0, sequence)).collect();
    cluster.produce("twice", &second);
    cluster.produce("twice", [&other_boot, &other_host, &unnumbered, &wrong]);
    cluster.produce_nothing("twice", 0);
    wait_until("the second chunk is closed", || cluster.committed("twice", "twice", 2) == [Some(135), Some(50)]);
    let outcome = sink.stop();

    let new: Vec<&Line> = first.iter().chain([&other_boot, &other_host, &unnumbered, &wrong]).collect();
    // 100 to 119 come through both partitions, which the rule of block and partition excludes: nothing is lost for it.
    let mut counted = counts(&table);
    for line in new {
        let expected = if second[10..].iter().any(|other| other.text == line.text) { 2 } else { 1 };
        assert_eq!(counted.remove(&line.text), Some(expected), "{}", line.text);
    }
    assert!(counted.is_empty());
    let totals = &outcome[0].1;
    assert_eq!(totals.counts, Counts { written: 150 + 20 + 4, doubled: 10, unnumbered: 2, empty: 1 });
    assert_eq!((totals.distinct(), totals.overlapping, totals.missing()), (152, 20, 0));
}

#[test]
fn a_chunk_of_nothing_but_copies_is_committed_without_a_file() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("copies");
    cluster.topic("copies", 1);
    let boot = Boot::begin();
    let lines: Vec<Line> = (0..10).map(|n| Line::new(0, HOUR_14, n.to_string()).numbered("cp3030", boot, n)).collect();
    let sink = run(&configuration(&cluster, directory.path(), "copies", "rotate = { every = \"1s\" }"));
    cluster.produce("copies", &lines);
    wait_until("the first chunk", || cluster.committed("copies", "copies", 1) == [Some(10)]);
    cluster.produce("copies", &lines);
    wait_until("the copies are committed", || cluster.committed("copies", "copies", 1) == [Some(20)]);
    assert_eq!(sink.stop()[0].1.counts.doubled, 10);
    assert_exactly(&table, &lines);
    assert_eq!(files(&table).len(), 1);
}

#[test]
fn what_kafka_has_deleted_is_counted() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("deleted");
    cluster.topic("deleted", 1);
    let config = configuration(&cluster, directory.path(), "deleted", "rotate = { every = \"1s\" }");
    let early = [Line::new(0, HOUR_14, "early")];
    cluster.produce("deleted", &early);
    let sink = run(&config);
    wait_until("the first line", || cluster.committed("deleted", "deleted", 1) == [Some(1)]);
    assert_eq!(sink.stop()[0].1.out_of_range, 0);

    // The mock cluster keeps 5 MiB of a partition.
    let lines: Vec<Line> = (0..180).map(|n| Line::new(0, HOUR_14, format!("{n:050000}"))).collect();
    for line in &lines {
        cluster.produce("deleted", [line]);
    }
    let sink = run(&config);
    let last = &lines[179].text;
    wait_until("the last line", || counts(&table).contains_key(last));
    let outcome = sink.stop();
    let (totals, written) = (&outcome[0].1, outcome[0].1.counts.written);
    assert_eq!((totals.out_of_range, totals.skipped_offsets), (1, 180 - written));
    assert!((80..120).contains(&written), "{written}");
}
