//! What the scenarios run on: a backend, varnishd, Kafka, the daemon, and traffic.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use kafkalog_tests::backend::Backend;
use kafkalog_tests::load::Load;
use kafkalog_tests::process::Running;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::topic::Topic;
use kafkalog_tests::varnishd::Varnishd;
use kafkalog_tests::{addresses, broker, wait};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use serde_json::Value;
use tempfile::TempDir;

/// For anything that takes a moment, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// No requests.
pub(crate) const NONE: [u64; 0] = [];

/// What may wait for Kafka: some 70,000 lines.
pub(crate) const BACKLOG: &str = "64MiB";

pub(crate) const TOPIC: &str = "webrequest_text";
pub(crate) const PARTITIONS: u16 = 4;

pub(crate) static PROGRAMS: LazyLock<Programs> =
    LazyLock::new(|| Programs::build().expect("the programs can be built"));

/// Nobody interrupts a test but its limits.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

/// What a scenario runs on: a backend, and directories for all that is written. Dropped last.
pub(crate) struct Machine {
    backend: Backend,
    directory: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("output")).unwrap();
        Self { backend: Backend::start().unwrap(), directory }
    }

    /// Where what the programs print goes.
    pub(crate) fn output(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    /// varnishd's working directory.
    pub(crate) fn work(&self) -> PathBuf {
        self.directory.path().join("varnish")
    }

    pub(crate) fn kafka(&self) -> (Running, String) {
        broker::start(&PROGRAMS, TOPIC, PARTITIONS, &self.output(), &STOP).unwrap()
    }

    /// The demo's, without the module.
    pub(crate) fn varnishd(&self) -> Varnishd {
        let vcl = include_str!("../../../examples/demo.vcl")
            .replace("import kafkalog;", "")
            .replace("kafkalog.start(\"CONFIGURATION\");", "")
            .replace("BACKEND_HOST", &self.backend.address().ip().to_string())
            .replace("BACKEND_PORT", &self.backend.address().port().to_string());
        let varnishd = Varnishd::start(&PROGRAMS, &vcl, self.directory.path(), &self.output(), &STOP).unwrap();
        assert_eq!(varnishd.directory(), self.work());
        varnishd
    }

    pub(crate) fn configuration(&self, bootstrap: &str) -> PathBuf {
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

    pub(crate) fn daemon(&self, name: &str, bootstrap: &str, arguments: &[&str]) -> Running {
        self.daemon_with(name, &self.configuration(bootstrap), arguments)
    }

    pub(crate) fn daemon_with(&self, name: &str, configuration: &Path, arguments: &[&str]) -> Running {
        let mut command = Command::new(PROGRAMS.kafkalog());
        command.arg("run").args(arguments).arg("--config").arg(configuration);
        Running::start(name, &mut command, &self.output()).unwrap()
    }

    pub(crate) fn topic(&self, bootstrap: &str) -> Topic {
        Topic::new(bootstrap, TOPIC, PARTITIONS).unwrap()
    }

    pub(crate) fn await_lines(&self, bootstrap: &str, lines: usize) {
        let mut topic = self.topic(bootstrap);
        wait::until("the first lines", LIMIT, &STOP, || {
            topic.read_to_end(&STOP)?;
            Ok((topic.seen.len() >= lines).then_some(()))
        })
        .unwrap();
    }

    /// All that is in Kafka: nothing twice, and no address.
    pub(crate) fn arrived(&self, bootstrap: &str, varnishd: &Varnishd) -> Topic {
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
    pub(crate) fn keeps_addresses(&self, bootstrap: &str, varnishd: &Varnishd) {
        let listening = [bootstrap.to_owned(), self.backend.address().to_string(), varnishd.address().to_string()];
        let found = addresses::search(&[&self.output()], &listening).unwrap();
        assert_eq!(found.leaks, []);
        assert!(found.files >= 2, "{found:?}");
    }
}

pub(crate) fn load(varnishd: &Varnishd, first: u64, requests: u64) -> Load {
    Load { address: varnishd.address(), first, requests, seed: 11 }
}

/// Requests that are sent, and how many have been answered.
pub(crate) struct Traffic {
    pub(crate) answered: AtomicU64,
    enough: AtomicBool,
}

impl Traffic {
    pub(crate) fn await_answers(&self, more: u64) {
        let enough = self.answered.load(Ordering::Relaxed) + more;
        let answered = || Ok((self.answered.load(Ordering::Relaxed) >= enough).then_some(()));
        wait::until("some traffic", LIMIT, &STOP, answered).unwrap();
    }

    /// One part after the other, until there are enough requests. How many they were.
    pub(crate) fn send(&self, mut part: Load) -> anyhow::Result<u64> {
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
pub(crate) fn under_traffic<T>(part: Load, body: impl FnOnce(&Traffic) -> T) -> (T, anyhow::Result<u64>) {
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
pub(crate) fn attached(daemon: &mut Running) {
    says(daemon, "reading varnishd's log");
}

/// Waits until the daemon has found that varnishd has another child.
pub(crate) fn reattached(daemon: &mut Running) {
    says(daemon, "attached to the log of a new child");
}

pub(crate) fn says(daemon: &mut Running, what: &str) {
    wait::until(what, LIMIT, &STOP, || {
        daemon.check()?;
        Ok(daemon.output()?.contains(what).then_some(()))
    })
    .unwrap();
}

/// Waits until varnishd has counted so many requests, which are in the log then; and gives how many it has counted, and how
/// many of them for a second time.
pub(crate) fn counted(varnishd: &mut Varnishd, requests: u64) -> [u64; 2] {
    wait::until("varnishd to count the requests", LIMIT, &STOP, || {
        let counters = varnishd.counters()?;
        let [counted, resumed] =
            ["MAIN.client_req", "MAIN.busy_wakeup"].map(|name| counters.get(name).copied().unwrap_or(0));
        Ok((counted >= requests).then_some([counted, resumed]))
    })
    .unwrap()
}

/// What the daemon says, at its end, of its only stream.
pub(crate) fn done(daemon: &Running) -> Value {
    let output = daemon.output().unwrap();
    let mut events = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.find(|event| event["message"] == "done").unwrap_or_else(|| panic!("it does not say:\n{output}"))
}

/// A port of 127.0.0.1 that is taken, and nobody listens on.
pub(crate) fn closed_port() -> (OwnedFd, String) {
    let taken = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&taken, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = SocketAddr::try_from(getsockname(&taken).unwrap()).unwrap();
    (taken, address.to_string())
}

/// Runs `kafkalog` with these arguments, which must end it with 1; gives what it says then.
pub(crate) fn refused(arguments: &[&str]) -> String {
    // It must end by itself; `timeout` sees to it that the test ends if it does not.
    let output = Command::new("timeout").arg("60").arg(PROGRAMS.kafkalog()).args(arguments).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    told
}
