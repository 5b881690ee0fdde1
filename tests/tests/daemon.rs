//! The daemon beside a real varnishd: what ends, what dies, what is late, and what is never there.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kafkalog_tests::backend::Backend;
use kafkalog_tests::load::{CONNECTIONS, Load};
use kafkalog_tests::process::Running;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::topic::Topic;
use kafkalog_tests::varnishd::Varnishd;
use kafkalog_tests::{addresses, broker, wait};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use serde_json::Value;
use tempfile::TempDir;

/// For anything that takes a moment, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// No requests.
const NONE: [u64; 0] = [];

/// What may wait for Kafka: some 70,000 lines.
const BACKLOG: &str = "64MiB";

const TOPIC: &str = "webrequest_text";
const PARTITIONS: u16 = 4;

static PROGRAMS: LazyLock<Programs> = LazyLock::new(|| Programs::build().expect("the programs can be built"));

/// Nobody interrupts a test but its limits.
static STOP: AtomicBool = AtomicBool::new(false);

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
        (String::new(), "1:1", "missing field `kafka`", "1 | \n  | ^"),
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

/// What a scenario runs on: a backend, and directories for all that is written. Dropped last.
struct Machine {
    backend: Backend,
    directory: TempDir,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("output")).unwrap();
        Self { backend: Backend::start().unwrap(), directory }
    }

    /// Where what the programs print goes.
    fn output(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    /// varnishd's working directory.
    fn work(&self) -> PathBuf {
        self.directory.path().join("varnish")
    }

    fn kafka(&self) -> (Running, String) {
        broker::start(&PROGRAMS, TOPIC, PARTITIONS, &self.output(), &STOP).unwrap()
    }

    /// The demo's, without the module.
    fn varnishd(&self) -> Varnishd {
        let vcl = include_str!("../../examples/demo.vcl")
            .replace("import kafkalog;", "")
            .replace("kafkalog.start(\"CONFIGURATION\");", "")
            .replace("BACKEND_HOST", &self.backend.address().ip().to_string())
            .replace("BACKEND_PORT", &self.backend.address().port().to_string());
        let varnishd = Varnishd::start(&PROGRAMS, &vcl, self.directory.path(), &self.output(), &STOP).unwrap();
        assert_eq!(varnishd.directory(), self.work());
        varnishd
    }

    fn configuration(&self, bootstrap: &str) -> PathBuf {
        let file = self.directory.path().join("kafkalog.toml");
        let text = format!(
            "host = \"edge1\"\n[varnish]\nname = \"{}\"\n[kafka]\nbootstrap = [\"{bootstrap}\"]\n\n\
             [journal]\nmax_bytes = \"{BACKLOG}\"\n\n\
             [[stream]]\nname = \"webrequest\"\ntopic = \"{TOPIC}\"\nformat = \"webrequest\"\n",
            self.work().display()
        );
        fs::write(&file, text).unwrap();
        file
    }

    fn daemon(&self, name: &str, bootstrap: &str, arguments: &[&str]) -> Running {
        self.daemon_with(name, &self.configuration(bootstrap), arguments)
    }

    fn daemon_with(&self, name: &str, configuration: &Path, arguments: &[&str]) -> Running {
        let mut command = Command::new(PROGRAMS.kafkalog());
        command.arg("run").args(arguments).arg("--config").arg(configuration);
        Running::start(name, &mut command, &self.output()).unwrap()
    }

    fn topic(&self, bootstrap: &str) -> Topic {
        Topic::new(bootstrap, TOPIC, PARTITIONS).unwrap()
    }

    fn await_lines(&self, bootstrap: &str, lines: usize) {
        let mut topic = self.topic(bootstrap);
        wait::until("the first lines", LIMIT, &STOP, || {
            topic.read_to_end(&STOP)?;
            Ok((topic.seen.len() >= lines).then_some(()))
        })
        .unwrap();
    }

    /// All that is in Kafka: nothing twice, and no address.
    fn arrived(&self, bootstrap: &str, varnishd: &Varnishd) -> Topic {
        let mut topic = self.topic(bootstrap);
        topic.read_to_end(&STOP).unwrap();
        assert_eq!(topic.leaks, [""; 0]);
        assert_eq!(topic.doubled(), NONE);
        for (origin, sequences) in &topic.sequences {
            assert!(sequences.values().all(|times| *times == 1), "{origin:?}: {sequences:?}");
        }
        self.keeps_addresses(bootstrap, varnishd);
        topic
    }

    /// No program has told a client's address.
    fn keeps_addresses(&self, bootstrap: &str, varnishd: &Varnishd) {
        let listening = [bootstrap.to_owned(), self.backend.address().to_string(), varnishd.address().to_string()];
        let found = addresses::search(&[&self.output()], &listening).unwrap();
        assert_eq!(found.leaks, []);
        assert!(found.files >= 2, "{found:?}");
    }
}

fn load(varnishd: &Varnishd, first: u64, requests: u64) -> Load {
    Load { address: varnishd.address(), first, requests, seed: 11 }
}

/// Requests that are sent, and how many have been answered.
struct Traffic {
    answered: AtomicU64,
    enough: AtomicBool,
}

impl Traffic {
    fn await_answers(&self, more: u64) {
        let enough = self.answered.load(Ordering::Relaxed) + more;
        let answered = || Ok((self.answered.load(Ordering::Relaxed) >= enough).then_some(()));
        wait::until("some traffic", LIMIT, &STOP, answered).unwrap();
    }

    /// One part after the other, until there are enough requests. How many they were.
    fn send(&self, mut part: Load) -> anyhow::Result<u64> {
        while !self.enough.load(Ordering::Relaxed) {
            part.run(&self.answered, &STOP)?;
            part.first += part.requests;
            // Kafka's mock does not keep much.
            thread::sleep(Duration::from_millis(5));
        }
        Ok(part.first)
    }
}

/// Runs `body` while requests are sent, this part and then those that follow; gives what it gives, and how many were sent.
fn under_traffic<T>(part: Load, body: impl FnOnce(&Traffic) -> T) -> (T, anyhow::Result<u64>) {
    /// Also ends the traffic when `body` panics.
    struct Enough<'a>(&'a Traffic);
    impl Drop for Enough<'_> {
        fn drop(&mut self) {
            self.0.enough.store(true, Ordering::Relaxed);
        }
    }
    let traffic = Traffic { answered: AtomicU64::new(0), enough: AtomicBool::new(false) };
    thread::scope(|scope| {
        let sending = scope.spawn(|| traffic.send(part));
        let given = {
            let _enough = Enough(&traffic);
            body(&traffic)
        };
        (given, sending.join().unwrap())
    })
}

/// Waits until the daemon misses nothing that comes.
fn attached(daemon: &mut Running) {
    says(daemon, "reading varnishd's log");
}

/// Waits until the daemon has found that varnishd has another child.
fn reattached(daemon: &mut Running) {
    says(daemon, "attached to the log of a new child");
}

fn says(daemon: &mut Running, what: &str) {
    wait::until(what, LIMIT, &STOP, || {
        daemon.check()?;
        Ok(daemon.output()?.contains(what).then_some(()))
    })
    .unwrap();
}

/// Waits until varnishd has counted so many requests, which are in the log then; and gives how many it has counted, and how
/// many of them for a second time.
fn counted(varnishd: &mut Varnishd, requests: u64) -> [u64; 2] {
    wait::until("varnishd to count the requests", LIMIT, &STOP, || {
        let counters = varnishd.counters()?;
        let [counted, resumed] =
            ["MAIN.client_req", "MAIN.busy_wakeup"].map(|name| counters.get(name).copied().unwrap_or(0));
        Ok((counted >= requests).then_some([counted, resumed]))
    })
    .unwrap()
}

/// What the daemon says, at its end, of its only stream.
fn done(daemon: &Running) -> Value {
    let output = daemon.output().unwrap();
    let mut events = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.find(|event| event["message"] == "done").unwrap_or_else(|| panic!("it does not say:\n{output}"))
}

/// A port of 127.0.0.1 that is taken, and nobody listens on.
fn closed_port() -> (OwnedFd, String) {
    let taken = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&taken, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = SocketAddr::try_from(getsockname(&taken).unwrap()).unwrap();
    (taken, address.to_string())
}

/// Runs `kafkalog` with these arguments, which must end it with 1; gives what it says then.
fn refused(arguments: &[&str]) -> String {
    // It must end by itself; `timeout` sees to it that the test ends if it does not.
    let output = Command::new("timeout").arg("60").arg(PROGRAMS.kafkalog()).args(arguments).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    told
}
