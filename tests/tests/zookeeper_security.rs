//! A ZooKeeper that is spoken to by TLS, and as a user.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kafkalog::config::{Config, Source};
use kafkalog::salt::Keeper;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::servers::{self, Release, ZooKeeper};
use kafkalog_tests::{certificates, wait};

static STOP: AtomicBool = AtomicBool::new(false);

const USER: &str = "edge";
const PASSWORD: &str = "not-to-be-shown-1846";

/// For what takes a second or two.
const SOON: Duration = Duration::from_secs(30);

/// Writes a configuration whose salt is agreed on in this ensemble.
fn configure(directory: &Path, ensemble: &str) -> PathBuf {
    let (file, key) = (directory.join("kafkalog.toml"), directory.join("cluster.key"));
    fs::write(&key, [0x5a; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "[kafka]\nzookeeper = {ensemble}\n[anonymize]\nzookeeper = {ensemble}\ncluster_key = \"{}\"\n\
         [[stream]]\nname = \"w\"\ntopic = \"t\"\nformat = \"webrequest\"\n",
        key.display()
    );
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn tls_and_a_user_are_spoken_and_insisted_on() {
    let Some(jars) = servers::had(Release::named("3.9"), "tls_and_a_user_are_spoken_and_insisted_on") else { return };
    let directory = tempfile::tempdir().unwrap();
    let work = directory.path();
    certificates::make(work).unwrap();
    let (_zookeeper, address) = ZooKeeper::secured(&jars, work, (USER, PASSWORD), &STOP).unwrap();
    let kafkalog = Programs::build().unwrap().kafkalog();
    let run = |arguments: &[&str], ensemble: &str| {
        let output = Command::new(&kafkalog).args(arguments).arg("--config").arg(configure(work, ensemble)).output();
        let output = output.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!said.contains(PASSWORD) && !said.contains("wrong-4711"), "{said}");
        (output.status.success(), said)
    };
    let at = |name: &str| work.join(name).display().to_string();
    let identity = format!("certificate = \"{}\", key = \"{}\"", at("client.crt"), at("client.key"));
    let tls = format!("tls = {{ ca = \"{}\", {identity} }}", at("authority.pem"));
    let sasl = |password: &str| format!("sasl = {{ user = \"{USER}\", password = \"{password}\" }}");
    let servers = format!("servers = \"{address}/kafkalog\"");
    let right = format!("{{ {servers}, {tls}, {} }}", sasl(PASSWORD));

    let source = Source::read(&configure(work, &right)).unwrap();
    let config = Config::parse(&source).unwrap();
    let keeper = Keeper::get(&config.anonymize, "edge1").unwrap();
    wait::until("a shared salt", SOON, &STOP, || Ok((keeper.counters().shared.get() == 1).then_some(()))).unwrap();
    let (done, said) = run(&["salt", "status"], &right);
    assert!(done && said.contains("members 1: edge1"), "{said}");
    // The same for Kafka's, which is told of no broker there.
    let (done, said) = run(&["brokers"], &right);
    assert!(!done && !said.contains("no ZooKeeper server answers"), "{said}");

    for wrong in [
        // In the clear; without a certificate; with another authority; with a wrong password; as nobody.
        format!("{{ {servers}, {} }}", sasl(PASSWORD)),
        format!("{{ {servers}, tls = {{ ca = \"{}\" }}, {} }}", at("authority.pem"), sasl(PASSWORD)),
        format!(
            "{{ {servers}, tls = {{ ca = \"/etc/ssl/certs/ca-certificates.crt\", {identity} }}, {} }}",
            sasl(PASSWORD)
        ),
        format!("{{ {servers}, {tls}, {} }}", sasl("wrong-4711")),
        format!("{{ {servers}, {tls} }}"),
    ] {
        let (done, said) = run(&["salt", "status"], &wrong);
        assert!(!done && said.contains("ZooKeeper"), "{wrong}: {said}");
    }

    // A node that ends in order is gone at once, and not when ZooKeeper has missed it for a session's time-out.
    drop(keeper);
    let (done, said) = run(&["salt", "status"], &right);
    assert!(!done && said.contains("no node holds the current salt"), "{said}");
}
