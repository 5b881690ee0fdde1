//! The program: exit codes, signals, `check`.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what they call.

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::*;
use tempfile::TempDir;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafkalog-sink"));
    command.stdin(Stdio::null());
    command
}

fn start(config: &Path) -> Child {
    program().arg("run").arg("--config").arg(config).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn write_config(directory: &TempDir, text: &str) -> PathBuf {
    let path = directory.path().join("kafkalog-sink.toml");
    fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    path
}

fn text(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn sigterm_closes_commits_and_exits_with_0() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("term");
    cluster.topic("term", 1);
    let lines: Vec<Line> = (0..100).map(|n| Line::new(0, HOUR_14 + n * 60_000, n.to_string())).collect();
    cluster.produce("term", &lines);
    let config = write_config(&directory, &configuration_text(&cluster, directory.path(), "term", ""));
    let child = start(&config);
    wait_until("it writes", || temporary(&table).len() == 2);
    signal(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    let (_, log) = text(&output);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert_exactly(&table, &lines);
    assert!(temporary(&table).is_empty());
    assert_eq!(cluster.committed("term", "term", 1), [Some(100)]);
    // JSON lines, since standard error is no terminal.
    let stopped = log.lines().find(|line| line.contains("\"message\":\"stopped\"")).unwrap();
    let event: serde_json::Value = serde_json::from_str(stopped).unwrap();
    assert_eq!((&event["written"], &event["doubled"], &event["unnumbered"]), (&100.into(), &0.into(), &100.into()));
}

#[test]
fn a_killed_process_leaves_work_to_the_next_one() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    let table = directory.path().join("killed");
    cluster.topic("killed", 2);
    let more = "rotate = { every = \"1s\" }";
    let config = write_config(&directory, &configuration_text(&cluster, directory.path(), "killed", more));
    let mut all = Vec::new();
    for round in 0..2 {
        let lines: Vec<Line> =
            (0..200).map(|n| Line::new(n % 2, HOUR_14 + i64::from(n) * 60_000, format!("{round} {n}"))).collect();
        cluster.produce("killed", &lines);
        all.extend(lines);
        let child = start(&config);
        wait_until("it writes", || !temporary(&table).is_empty());
        signal(&child, Signal::KILL);
        child.wait_with_output().unwrap();
    }
    // It gets the partitions when the killed one's session is over.
    let child = start(&config);
    wait_until("all is committed", || cluster.committed("killed", "killed", 2) == [Some(200), Some(200)]);
    signal(&child, Signal::INT);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert_exactly(&table, &all);
    assert!(temporary(&table).is_empty());
}

#[test]
fn what_cannot_be_done_exits_with_1_and_wrong_usage_with_2() {
    let directory = TempDir::new().unwrap();
    let config = write_config(&directory, "[kafka]\nbootstrp = [\"b:9092\"]\n");
    let output = program().arg("run").arg("--config").arg(&config).output().unwrap();
    let (_, errors) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors.contains("kafkalog-sink.toml:2:1: unknown field `bootstrp`") && errors.contains("^^^^^^^^"),
        "{errors}"
    );
    assert_eq!(program().arg("run").output().unwrap().status.code(), Some(2));
    assert_eq!(program().output().unwrap().status.code(), Some(2));
    assert_eq!(program().arg("--help").output().unwrap().status.code(), Some(0));
}

#[test]
fn check_tells_what_is_right_and_what_is_not() {
    let (cluster, directory) = (Cluster::start(), TempDir::new().unwrap());
    cluster.topic("there", 3);
    let right = configuration_text(&cluster, &directory.path().join("raw"), "there", "");
    let check =
        |text: &str| program().arg("check").arg("--config").arg(write_config(&directory, text)).output().unwrap();

    let output = check(&right);
    let (report, log) = text(&output);
    assert_eq!(output.status.code(), Some(0), "{report}{log}");
    assert_eq!(report.matches('✓').count(), 4, "{report}");
    assert!(report.contains("topic there has 3 partitions"), "{report}");
    assert!(temporary(&directory.path().join("raw/there")).is_empty());

    let output = check(&right.replace("topics = [\"there\"]", "topics = [\"there\", \"missing\"]"));
    let (report, _) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(report.contains("✗ topic missing: there is no such topic"), "{report}");

    // A file where the directory should be: root may write anywhere else.
    fs::write(directory.path().join("file"), "").unwrap();
    fs::set_permissions(directory.path().join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let output = check(&configuration_text(&cluster, &directory.path().join("file"), "there", ""));
    let (report, _) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(report.contains("✗ table there: making the directory"), "{report}");

    let output = check("[kafka]\n");
    let (report, errors) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(report.starts_with('✗') && errors.contains("missing field"), "{report}{errors}");
}
