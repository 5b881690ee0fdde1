//! The daemon beside a real varnishd: what ends, what dies, what is late, and what is never there.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

mod machine;

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kafkalog_tests::load::CONNECTIONS;

use machine::*;

#[test]
fn sigterm_sends_all_that_varnishd_counted() {
    let machine = Machine::new();
    let (_broker, bootstrap) = machine.kafka();
    let mut varnishd = machine.varnishd();
    let mut daemon = machine.daemon("daemon", &bootstrap, &[]);
    attached(&mut daemon);
    load(&varnishd, 0, 600).run(&AtomicU64::new(0), &STOP).unwrap();
    let [counted, resumed] = counted(&mut varnishd, 600);
    daemon.terminate(LIMIT).unwrap();

    let topic = machine.arrived(&bootstrap, &varnishd);
    assert_eq!(topic.missing(0..600), NONE);
    assert_eq!(topic.unnumbered, 0);
    // One more time for each request that waited for another one's fetch.
    assert!((600..=600 + resumed).contains(&counted), "{counted} counted, {resumed} resumed");
    let (origin, sequences) = topic.sequences.first_key_value().unwrap();
    assert_eq!((origin.host.as_str(), origin.stream.as_str(), topic.sequences.len()), ("edge1", "webrequest", 1));
    assert!(sequences.keys().copied().eq(0..600), "{sequences:?}");
    let done = done(&daemon);
    assert_eq!(["lines", "acknowledged", "lost"].map(|name| done[name].as_u64().unwrap()), [600, 600, 0]);
}

#[test]
fn sigterm_sends_what_is_in_the_log_and_was_not_read_yet() {
    let machine = Machine::new();
    let (_broker, bootstrap) = machine.kafka();
    let mut varnishd = machine.varnishd();
    let mut daemon = machine.daemon("daemon", &bootstrap, &[]);
    attached(&mut daemon);
    daemon.pause();
    load(&varnishd, 0, 2_000).run(&AtomicU64::new(0), &STOP).unwrap();
    counted(&mut varnishd, 2_000);
    daemon.terminate(LIMIT).unwrap();

    let topic = machine.arrived(&bootstrap, &varnishd);
    assert_eq!(topic.missing(0..2_000), NONE);
}

#[test]
fn old_and_new_run_side_by_side() {
    let machine = Machine::new();
    let (_broker, bootstrap) = machine.kafka();
    let mut varnishd = machine.varnishd();
    let file = machine.configuration(&bootstrap);
    let log = machine.output().join("access.log");
    let text = fs::read_to_string(&file).unwrap();
    let more = format!(
        "[[stream]]\nname = \"shown\"\noutput = \"stdout\"\nline = \"SHOWN %n\"\nquery = \"ReqMethod eq GET\"\n\
         [[stream]]\nname = \"access\"\noutput = \"file:{}\"\nformat = \"ncsa\"\nsample = 10\n",
        log.display()
    );
    // They are done after Kafka's, although they come first.
    fs::write(&file, text.replace("[[stream]]", &format!("{more}[[stream]]"))).unwrap();
    let mut daemon = machine.daemon_with("daemon", &file, &[]);
    attached(&mut daemon);
    load(&varnishd, 0, 600).run(&AtomicU64::new(0), &STOP).unwrap();
    counted(&mut varnishd, 600);
    daemon.terminate(LIMIT).unwrap();

    let topic = machine.arrived(&bootstrap, &varnishd);
    assert_eq!(topic.missing(0..600), NONE);
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 60);
    let output = daemon.output().unwrap();
    let numbers: Vec<u64> =
        output.lines().filter_map(|line| line.strip_prefix("SHOWN ")).map(|number| number.parse().unwrap()).collect();
    assert!(numbers.len() > 100 && numbers.iter().copied().eq(0..numbers.len() as u64), "{numbers:?}");
}

#[test]
fn a_daemon_is_stopped_and_started_under_traffic() {
    let machine = Machine::new();
    let (_broker, bootstrap) = machine.kafka();
    let mut varnishd = machine.varnishd();
    let mut first = machine.daemon("daemon", &bootstrap, &[]);
    attached(&mut first);
    let ((answered, mut second), sent) = under_traffic(load(&varnishd, 0, 20), |traffic| {
        traffic.await_answers(300);
        let answered = traffic.answered.load(Ordering::Relaxed);
        first.terminate(LIMIT).unwrap();
        let mut second = machine.daemon("daemon-again", &bootstrap, &[]);
        attached(&mut second);
        load(&varnishd, 2_000_000, 300).run(&AtomicU64::new(0), &STOP).unwrap();
        (answered, second)
    });
    counted(&mut varnishd, sent.unwrap() + 300);
    second.terminate(LIMIT).unwrap();

    let topic = machine.arrived(&bootstrap, &varnishd);
    assert_eq!(topic.missing(2_000_000..2_000_300), NONE);
    let lines: Vec<_> = topic.sequences.values().map(|sequences| sequences.len() as u64).collect();
    assert_eq!(lines.len(), 2, "two boots");
    // A request is in the log, at the latest, when the next one on its connection begins.
    assert!(lines[0] + CONNECTIONS >= answered, "{lines:?}, {answered} answered");
}

#[test]
fn a_killed_child_takes_nothing_with_it_but_what_it_was_doing() {
    let machine = Machine::new();
    let (_broker, bootstrap) = machine.kafka();
    let mut varnishd = machine.varnishd();
    let mut daemon = machine.daemon("daemon", &bootstrap, &[]);
    attached(&mut daemon);
    // Traffic ends with an error, unless it has no connection at that moment.
    let (answered, _) = under_traffic(load(&varnishd, 0, 20), |traffic| {
        traffic.await_answers(300);
        varnishd.kill_child(&STOP).unwrap();
        traffic.answered.load(Ordering::Relaxed)
    });
    // The new child's log is read from its beginning, whenever the daemon finds it.
    load(&varnishd, 2_000_000, 300).run(&AtomicU64::new(0), &STOP).unwrap();
    counted(&mut varnishd, 300);
    reattached(&mut daemon);
    daemon.terminate(LIMIT).unwrap();

    let topic = machine.arrived(&bootstrap, &varnishd);
    assert_eq!(topic.missing(2_000_000..2_000_300), NONE);
    // A request is in the log, at the latest, when the next one on its connection begins.
    let before = topic.seen.range(..1_000_000).count() as u64;
    assert!(before + CONNECTIONS >= answered, "{before} of {answered}");
    assert_eq!(topic.sequences.len(), 1);
}

#[test]
fn a_varnishd_that_ends_and_starts_again_is_followed() {
    let machine = Machine::new();
    let (_broker, bootstrap) = machine.kafka();
    let mut varnishd = machine.varnishd();
    let mut daemon = machine.daemon("daemon", &bootstrap, &[]);
    attached(&mut daemon);
    load(&varnishd, 0, 300).run(&AtomicU64::new(0), &STOP).unwrap();
    counted(&mut varnishd, 300);
    varnishd.stop(LIMIT).unwrap();
    let mut varnishd = machine.varnishd();
    load(&varnishd, 300, 300).run(&AtomicU64::new(0), &STOP).unwrap();
    counted(&mut varnishd, 300);
    reattached(&mut daemon);
    daemon.terminate(LIMIT).unwrap();

    let topic = machine.arrived(&bootstrap, &varnishd);
    assert_eq!(topic.missing(0..600), NONE);
    assert_eq!(topic.sequences.len(), 1);
}

#[test]
fn a_daemon_that_is_first_waits_and_then_reads_from_the_beginning() {
    let machine = Machine::new();
    let (_broker, bootstrap) = machine.kafka();
    let mut daemon = machine.daemon("daemon", &bootstrap, &["--wait", "60"]);
    says(&mut daemon, "waiting for varnishd");
    // It looks again when requests have been served already.
    daemon.pause();
    let mut varnishd = machine.varnishd();
    load(&varnishd, 0, 300).run(&AtomicU64::new(0), &STOP).unwrap();
    counted(&mut varnishd, 300);
    daemon.resume();
    attached(&mut daemon);
    daemon.terminate(LIMIT).unwrap();

    let topic = machine.arrived(&bootstrap, &varnishd);
    assert_eq!(topic.missing(0..300), NONE);
}

#[test]
fn a_daemon_that_waits_for_varnishd_can_be_stopped() {
    let machine = Machine::new();
    let mut daemon = machine.daemon("daemon", "127.0.0.1:1", &["--wait", "3600"]);
    says(&mut daemon, "waiting for varnishd");
    daemon.terminate(LIMIT).unwrap();
}

#[test]
fn a_varnishd_that_does_not_come_is_named() {
    let machine = Machine::new();
    let file = machine.configuration("127.0.0.1:1");
    let told = refused(&["run", "--wait", "0", "--config", file.to_str().unwrap()]);
    assert!(told.contains(&format!("no varnishd is running in {}", machine.work().display())), "{told}");
}

#[test]
fn without_kafka_requests_are_served_and_every_lost_line_is_counted() {
    let machine = Machine::new();
    let (_closed, bootstrap) = closed_port();
    let file = machine.configuration(&bootstrap);
    let text = fs::read_to_string(&file).unwrap().replace(BACKLOG, "4MiB");
    fs::write(&file, text).unwrap();
    let mut varnishd = machine.varnishd();
    let mut daemon = machine.daemon_with("daemon", &file, &["--finish", "1"]);
    attached(&mut daemon);
    // More than there is room for: the reader goes on, and drops.
    load(&varnishd, 0, 10_000).run(&AtomicU64::new(0), &STOP).unwrap();
    counted(&mut varnishd, 10_000);
    // Far less than what it would wait by default.
    let status = daemon.stop(Duration::from_secs(20)).unwrap();
    let told = daemon.output().unwrap();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("kafkalog: lines were lost, as counted above"), "{told}");
    let done = done(&daemon);
    let count = |name: &str| done[name].as_u64().unwrap();
    assert_eq!([count("lines"), count("acknowledged"), count("lost")], [10_000, 0, 10_000], "{told}");
    let causes = done["causes"].as_str().unwrap();
    let cause = |name: &str| -> u64 {
        let word = causes.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        word.unwrap_or_else(|| panic!("{name}: {causes}")).parse().unwrap()
    };
    assert_eq!(cause("backlog") + cause("shutdown"), 10_000, "{causes}");
    machine.keeps_addresses(&bootstrap, &varnishd);
}

#[test]
fn a_broker_that_stands_still_for_a_while_costs_nothing() {
    /// How long it does.
    const STILL: Duration = Duration::from_secs(3);
    let machine = Machine::new();
    let (broker, bootstrap) = machine.kafka();
    let mut varnishd = machine.varnishd();
    let mut daemon = machine.daemon("daemon", &bootstrap, &[]);
    attached(&mut daemon);
    let ((), sent) = under_traffic(load(&varnishd, 0, 20), |traffic| {
        // Some lines are acknowledged when it stops, and others are with it.
        machine.await_lines(&bootstrap, 200);
        broker.pause();
        let began = Instant::now();
        traffic.await_answers(200);
        thread::sleep(STILL.saturating_sub(began.elapsed()));
        broker.resume();
        traffic.await_answers(200);
    });
    let sent = sent.unwrap();
    counted(&mut varnishd, sent);
    daemon.terminate(LIMIT).unwrap();

    let topic = machine.arrived(&bootstrap, &varnishd);
    assert_eq!(topic.missing(0..sent), NONE);
}

#[test]
fn a_killed_daemon_starts_again_and_doubles_nothing() {
    let machine = Machine::new();
    let (_broker, bootstrap) = machine.kafka();
    let mut varnishd = machine.varnishd();
    let mut first = machine.daemon("daemon", &bootstrap, &[]);
    attached(&mut first);
    let (mut second, sent) = under_traffic(load(&varnishd, 0, 20), |_| {
        // Some lines are acknowledged when it dies, and others are not.
        machine.await_lines(&bootstrap, 200);
        first.kill().unwrap();
        let mut second = machine.daemon("daemon-again", &bootstrap, &[]);
        attached(&mut second);
        load(&varnishd, 2_000_000, 300).run(&AtomicU64::new(0), &STOP).unwrap();
        second
    });
    counted(&mut varnishd, sent.unwrap() + 300);
    second.terminate(LIMIT).unwrap();

    let topic = machine.arrived(&bootstrap, &varnishd);
    assert_eq!(topic.missing(2_000_000..2_000_300), NONE);
    assert_eq!(topic.sequences.len(), 2, "two boots");
    let (_, sequences) = topic.sequences.last_key_value().unwrap();
    assert!(sequences.keys().copied().eq(0..sequences.len() as u64), "the second one's lines are all there");
}

#[test]
fn a_configuration_that_cannot_be_read_is_named_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kafkalog.toml");
    let file = file.to_str().unwrap();
    let run = |expected: &str| {
        let told = refused(&["run", "--config", file]);
        assert!(told.contains(&format!("reading the configuration {file}: {expected}")), "{told}");
        assert_eq!(told.matches(expected).count(), 1, "{told}");
    };
    run("No such file or directory");
    fs::create_dir(file).unwrap();
    run("Is a directory");
    fs::remove_dir(file).unwrap();
    fs::write(file, b"host = \"\xff\"\n").unwrap();
    run("stream did not contain valid UTF-8");
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
        run("Permission denied");
    }
}

#[test]
fn a_configuration_that_is_wrong_is_shown_with_its_place() {
    let machine = Machine::new();
    let file = machine.configuration("127.0.0.1:1");
    let right = fs::read_to_string(&file).unwrap();
    let format = "format = \"webrequest\"";
    let journal = "[journal]";
    let acks = "properties = { acks = \"1\" }";
    let unknown = "properties = { \"sasl.pasword\" = \"4711\" }";
    for (text, place, message, excerpt) in [
        (String::new(), "1:1", "missing field `stream`", "1 | \n  | ^"),
        (
            right.replace(format, "format = \"webrequests\""),
            "13:10",
            "there is no format `webrequests`, expected one of: webrequest",
            "13 | format = \"webrequests\"\n   |          ^^^^^^^^^^^^^",
        ),
        (
            right.replace(format, "json = \"%h@ip %{Host\""),
            "13:15",
            "`%{` ",
            "13 | json = \"%h@ip %{Host\"\n   |               ^",
        ),
        (
            right.replace(journal, &format!("{acks}\n{journal}")),
            "7:16",
            "kafka.properties: `acks`: it cannot be changed: with less, a broker that fails",
            "7 | properties = { acks = *** }\n  |                ^^^^",
        ),
        (
            right.replace(journal, &format!("{unknown}\n{journal}")),
            "7:16",
            "kafka.properties: `sasl.pasword`: No such configuration property",
            "7 | properties = { \"sasl.pasword\" = ****** }\n  |                ^^^^^^^^^^^^^^",
        ),
    ] {
        fs::write(&file, &text).unwrap();
        let told = refused(&["run", "--config", file.to_str().unwrap()]);
        assert!(told.starts_with(&format!("kafkalog: {}:{place}: {message}", file.display())), "{told}");
        assert!(told.contains(excerpt), "{told}");
    }
}
