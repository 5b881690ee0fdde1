//! Artifacts from Maven, kept in `target/servers`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::process::Running;
use crate::wait;

/// For Maven to fetch a release, some 50 MB.
const LIMIT: Duration = Duration::from_secs(300);

/// Where everything is kept: beside what cargo builds, which git ignores.
pub(super) fn directory() -> anyhow::Result<PathBuf> {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/servers"));
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    Ok(directory)
}

/// The directory with these artifacts and all that they need.
pub(super) fn fetch(plugin: &str, version: &str, artifacts: &[String]) -> anyhow::Result<PathBuf> {
    let servers = directory()?;
    let jars = servers.join(format!("kafka-{version}"));
    let list = artifacts.join("\n");
    let is_there = || fs::read_to_string(jars.join("artifacts")).is_ok_and(|there| there == list);
    if is_there() {
        return Ok(jars);
    }
    // Tests run at the same time, and one of them fetches.
    let lock = File::create(servers.join("lock")).context("creating target/servers/lock")?;
    lock.lock().context("waiting for target/servers/lock")?;
    if is_there() {
        return Ok(jars);
    }
    let work = tempfile::Builder::new().prefix("fetch-").tempdir_in(&servers).context("making a directory")?;
    let pom = work.path().join("pom.xml");
    fs::write(&pom, project(artifacts)?).with_context(|| format!("writing {}", pom.display()))?;
    let new = work.path().join("jars");
    let mut command = Command::new("mvn");
    command
        .args(["--quiet", "--batch-mode", "-DincludeScope=runtime"])
        // For a server that does not answer: up to Maven 3.8, and later.
        .args(["-Dmaven.wagon.rto=60000", "-Daether.connector.requestTimeout=60000"])
        .arg("-f")
        .arg(&pom)
        .arg(format!("{plugin}:copy-dependencies"))
        .arg(format!("-DoutputDirectory={}", new.display()));
    let mut maven = Running::start("maven", &mut command, work.path()).context("`make setup` installs Maven")?;
    match wait::until("Maven", LIMIT, &AtomicBool::new(false), || maven.status())? {
        status if status.success() => (),
        status => bail!("Maven: {status}\n{}", maven.output()?),
    }
    fs::write(new.join("artifacts"), &list).context("noting what was fetched")?;
    if jars.exists() {
        fs::remove_dir_all(&jars).with_context(|| format!("removing {}", jars.display()))?;
    }
    fs::rename(&new, &jars).with_context(|| format!("renaming to {}", jars.display()))?;
    Ok(jars)
}

/// A project that depends on them.
fn project(artifacts: &[String]) -> anyhow::Result<String> {
    let mut dependencies = String::new();
    for artifact in artifacts {
        let parts: Vec<_> = artifact.split(':').collect();
        let [group, name, version] = parts[..] else { bail!("`{artifact}` is not GROUP:ARTIFACT:VERSION") };
        dependencies += &format!(
            "<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        );
    }
    Ok(format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion><groupId>kafkalog</groupId>\
         <artifactId>servers</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies>{dependencies}</dependencies></project>"
    ))
}
