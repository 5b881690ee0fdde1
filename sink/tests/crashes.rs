//! Whatever dies wherever: each line is written once.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what they call.

mod support;

use std::fs;
use std::sync::Arc;

use kafkalog_sink::store;
use support::fault::{Fault, Faulty};
use support::*;
use tempfile::TempDir;

/// Lines of two hours in one partition, alternating, so that a chunk has two files.
fn lines() -> Vec<Line> {
    (0..40).map(|n| Line::new(0, HOUR_14 + n % 2 * HOUR, n.to_string())).collect()
}

#[test]
fn a_restart_goes_on_where_it_stopped() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("restart");
    cluster.topic("restart", 2);
    let config = configuration(&cluster, directory.path(), "restart", "rotate = { every = \"1h\" }");
    let mut all = Vec::new();
    for run_number in 0..3 {
        let lines: Vec<Line> =
            (0..500).map(|n| Line::new(n % 2, HOUR_14 + i64::from(n) * 30_000, format!("{run_number} {n}"))).collect();
        cluster.produce("restart", &lines);
        let sink = run(&config);
        wait_until("lines are being written", || !temporary(&table).is_empty());
        // Stopped at any point: what is open is closed and committed, the rest is for the next one.
        sink.stop();
        all.extend(lines);
    }
    let sink = run(&config);
    wait_until("all lines were read", || {
        let found = files(&table).iter().map(|file| file.lines.len()).sum::<usize>();
        found == all.len() || !temporary(&table).is_empty()
    });
    sink.stop();
    let committed: i64 = cluster.committed("restart", "restart", 2).into_iter().flatten().sum();
    assert_eq!(committed, counts(&table).len() as i64);
    let sink = run(&configuration(&cluster, directory.path(), "restart", "rotate = { every = \"1s\" }"));
    wait_until("all are committed", || cluster.committed("restart", "restart", 2) == [Some(750), Some(750)]);
    sink.stop();
    assert_exactly(&table, &all);
    assert!(temporary(&table).is_empty());
}

#[test]
fn a_death_at_any_rename_loses_and_doubles_nothing() {
    let cluster = Cluster::start();
    let lines = lines();
    // A chunk of two files takes three renames: the record, and each file. The last one is a chunk of one file.
    let mut cases: Vec<(Fault, &[Line])> = (0..3)
        .flat_map(|number| [Fault::DiesBeforeRename(number), Fault::DiesAfterRename(number)])
        .chain([Fault::DiesBeforeDelete])
        .map(|fault| (fault, &lines[..]))
        .collect();
    cases.extend([(Fault::DiesBeforeRename(0), &lines[..1]), (Fault::DiesAfterRename(0), &lines[..1])]);
    // Each waits for the group most of the time, so all at once.
    std::thread::scope(|scope| {
        for (number, (fault, lines)) in cases.into_iter().enumerate() {
            let cluster = &cluster;
            std::thread::Builder::new()
                .spawn_scoped(scope, move || die_and_go_on(cluster, &format!("death-{number}"), fault, lines))
                .unwrap();
        }
    });
}

fn die_and_go_on(cluster: &Cluster, name: &str, fault: Fault, lines: &[Line]) {
    let directory = TempDir::new().unwrap();
    let table = directory.path().join(name);
    cluster.topic(name, 1);
    // All lines are there before it starts, so that one chunk has them all.
    cluster.produce(name, lines);
    let config = configuration(cluster, directory.path(), name, "rotate = { every = \"1s\" }");
    let faulty = Faulty::new(store::open(&config.store), fault);
    let error = run_with(&config, Arc::clone(&faulty) as Arc<_>).failure();
    assert!(faulty.is_dead(), "{fault:?}: {error}");
    assert_eq!(cluster.committed(name, name, 1), [None], "{fault:?}");

    // What is decided is committed even if nothing new comes.
    let decided = !matches!(fault, Fault::DiesBeforeRename(0));
    let end = lines.len() as i64;
    let sink = run(&config);
    wait_until("the next one catches up", || cluster.committed(name, name, 1) == [Some(end)]);
    let more = Line::new(0, HOUR_14 + 2 * HOUR, "more");
    cluster.produce(name, [&more]);
    wait_until("and goes on", || cluster.committed(name, name, 1) == [Some(end + 1)]);
    let outcome = sink.stop();
    assert_exactly(&table, lines.iter().chain([&more]));
    assert!(temporary(&table).is_empty(), "{fault:?}: {:?}", temporary(&table));
    // With several files it is decided by the record's rename, with one by that file's.
    let written = outcome[0].1.counts.written as i64;
    assert_eq!(written, if decided { 1 } else { end + 1 }, "{fault:?}");
}

#[test]
fn a_taken_name_is_left_as_it_is() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("taken");
    cluster.topic("taken", 1);
    cluster.produce("taken", &lines()[..1]);
    let config =
        configuration(&cluster, directory.path(), "taken", "compression = \"none\"\nrotate = { every = \"1s\" }");
    let faulty = Faulty::new(store::open(&config.store), Fault::NameTaken);
    let error = run_with(&config, faulty).failure().to_string();
    let file = &files(&table)[0];
    assert_eq!(file.lines, ["somebody else's"]);
    assert!(error.contains(&file.path) && error.contains("exists"), "{error}");
    assert_eq!(cluster.committed("taken", "taken", 1), [None]);
}

#[test]
fn a_full_disk_stops_the_sink_and_commits_nothing() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("full");
    cluster.topic("full", 1);
    let lines = lines();
    cluster.produce("full", &lines);
    let config = configuration(&cluster, directory.path(), "full", "rotate = { every = \"1s\" }");
    let faulty = Faulty::new(store::open(&config.store), Fault::DiskFull(30));
    let error = run_with(&config, faulty).failure().to_string();
    let place = directory.path().join("full/_tmp/full+0+");
    assert!(error.contains(place.to_str().unwrap()) && error.contains("no storage space"), "{error}");
    assert_eq!(files(&table), []);
    assert_eq!(cluster.committed("full", "full", 1), [None]);

    let sink = run(&config);
    wait_until("there is space again", || cluster.committed("full", "full", 1) == [Some(40)]);
    sink.stop();
    assert_exactly(&table, &lines);
    assert!(temporary(&table).is_empty());
}

#[test]
fn strangers_in_the_temporary_directory_are_left_alone() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("mine");
    cluster.topic("mine", 1);
    cluster.produce("mine", &lines());
    fs::create_dir_all(table.join("_tmp")).unwrap();
    // Of another topic (another sink's, say), of an operator, and of an earlier run.
    for name in ["theirs+0+00000000000000000000+2013-03-01T14+x.open", "notes", "mine+0+5+2013-03-01T14+x.open"] {
        fs::write(table.join("_tmp").join(name), "x").unwrap();
    }
    let sink = run(&configuration(&cluster, directory.path(), "mine", "rotate = { every = \"1s\" }"));
    wait_until("it is committed", || cluster.committed("mine", "mine", 1) == [Some(40)]);
    sink.stop();
    assert_exactly(&table, &lines());
    let mut left: Vec<_> = temporary(&table).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    left.sort();
    assert_eq!(left, ["notes", "theirs+0+00000000000000000000+2013-03-01T14+x.open"]);
}
