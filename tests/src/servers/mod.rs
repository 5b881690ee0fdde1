//! Real servers: Apache Kafka of several releases, and the ZooKeeper that they bring, on free ports of 127.0.0.1.
//!
//! [`Release::jars`] has Maven fetch what `tests/servers/releases.toml` names, once. Where there is no Maven, the environment
//! variable `KAFKALOG_KAFKA_3_9_HOME` (and so on) may name a directory with the release unpacked. A test that needs servers
//! begins with [`had`]: where they cannot be had, it fails in CI (`CI` is set), and elsewhere does not run and says so.

mod kafka;
mod kerberos;
mod maven;
mod metadata;
mod ports;
mod zookeeper;

pub use kafka::{Cluster, Options};
pub use kerberos::Kerberos;
pub use zookeeper::ZooKeeper;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

/// For a server of a Java program to answer, on a busy machine.
const START: Duration = Duration::from_secs(30);

/// For it to end.
const STOP: Duration = Duration::from_secs(20);

/// A release of Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// As people say it: `0.8`, `3.9`.
    pub name: String,
    version: String,
    artifacts: Vec<String>,
}

static FILE: LazyLock<Value> =
    LazyLock::new(|| toml::from_str(include_str!("../../servers/releases.toml")).expect("tests/servers/releases.toml"));

static RELEASES: LazyLock<Vec<Release>> = LazyLock::new(|| {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let release = |value: &Value| Release {
        name: text(&value["name"]),
        version: text(&value["version"]),
        artifacts: value["artifacts"].as_array().expect("a list").iter().map(text).collect(),
    };
    FILE["release"].as_array().expect("releases").iter().map(release).collect()
});

impl Release {
    /// All of them, the oldest first.
    #[must_use]
    pub fn all() -> &'static [Self] {
        &RELEASES
    }

    /// The one of this name.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn named(name: &str) -> &'static Self {
        RELEASES.iter().find(|release| release.name == name).expect("a release of tests/servers/releases.toml")
    }

    /// Whether its brokers need a ZooKeeper.
    #[must_use]
    pub fn has_zookeeper(&self) -> bool {
        !self.name.starts_with('4')
    }

    /// Whether its messages have headers, and it knows idempotent producers: from 0.11 on.
    #[must_use]
    pub fn has_headers(&self) -> bool {
        !self.name.starts_with("0.")
    }

    /// Whether its brokers tell what they know: from 0.10 on.
    #[must_use]
    pub fn tells_versions(&self) -> bool {
        self.name != "0.8"
    }

    /// A directory with all jars, which are fetched first if they are not there.
    ///
    /// # Errors
    ///
    /// When there is no Java, or they cannot be fetched.
    pub fn jars(&self) -> anyhow::Result<PathBuf> {
        let java = Command::new(java_program()).arg("-version").output();
        java.context("there is no Java: `make setup` installs it")?;
        let variable = format!("KAFKALOG_KAFKA_{}_HOME", self.name.replace('.', "_"));
        match std::env::var_os(&variable) {
            Some(home) => Ok(Path::new(&home).join("libs")),
            None => {
                let plugin = FILE["plugin"].as_str().context("tests/servers/releases.toml names no plugin")?;
                maven::fetch(plugin, &self.version, &self.artifacts)
            }
        }
    }
}

/// Whether the servers of a release can be had for this scenario, with its jars.
///
/// # Panics
///
/// In CI, when they cannot.
#[must_use]
pub fn had(release: &Release, scenario: &str) -> Option<PathBuf> {
    let error = match release.jars() {
        Ok(jars) => return Some(jars),
        // Notes are read line by line.
        Err(error) => format!("Kafka {}: {error:#}", release.name).replace('\n', " "),
    };
    assert!(std::env::var_os("CI").is_none(), "{scenario} cannot run: {error}");
    let note = maven::directory().and_then(|directory| {
        let file = File::options().append(true).create(true).open(directory.join("skipped"));
        writeln!(file?, "{scenario} did not run: {error}").context("noting it")
    });
    // The test's own output is shown by `--nocapture` only.
    let _ = writeln!(std::io::stderr(), "{scenario} did not run: {error}\n{note:?}");
    None
}

/// A small Java program of these jars. What it logs goes to standard output, what it needs for itself to `work`.
fn java(jars: &Path, work: &Path, main: &str) -> anyhow::Result<Command> {
    let temporary = work.join("tmp");
    fs::create_dir_all(&temporary).with_context(|| format!("creating {}", temporary.display()))?;
    let mut command = Command::new(java_program());
    // Without UsePerfData nothing is left in /tmp/hsperfdata_USER by a program that is killed.
    command
        .args(["-Xmx384m", "-Xshare:auto", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"])
        .arg("-Djava.net.preferIPv4Stack=true")
        .arg(format!("-Djava.io.tmpdir={}", temporary.display()));
    // The second is of log4j 2, which Kafka has from 4.0 on.
    for (property, name, text) in [
        ("log4j.configuration", "log4j.properties", include_str!("../../servers/log4j.properties")),
        ("log4j2.configurationFile", "log4j2.properties", include_str!("../../servers/log4j2.properties")),
    ] {
        let file = work.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        command.arg(format!("-D{property}=file:{}", file.display()));
    }
    command.arg("-cp").arg(jars.join("*")).arg(main).current_dir(work);
    Ok(command)
}

/// The Java of `JAVA_HOME`, otherwise the one in the search path.
fn java_program() -> PathBuf {
    match std::env::var_os("JAVA_HOME") {
        Some(home) => Path::new(&home).join("bin/java"),
        None => PathBuf::from("java"),
    }
}
