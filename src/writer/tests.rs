use std::fs;
use std::net::UdpSocket;

use super::*;
use crate::config::{Config, Source};
use crate::producer::{Outlet, channel};

/// A writer for one stream, and what leads to it.
fn writer(output: &str) -> Result<(Outlet, Writer, Arc<Counters>), WriterError> {
    let text = format!("[[stream]]\nname = \"s\"\noutput = \"{output}\"\nline = \"%U\"\n");
    let config = Config::parse(&Source::from_text("k.toml", text)).expect("it is complete");
    let counters = Arc::new(Counters::new(1));
    let (outlet, inlet) = channel(MEMORY, Arc::clone(&counters));
    let writer = Writer::new(0, config.streams.get_ref(), Arc::clone(&counters), inlet)?;
    Ok((outlet, writer, counters))
}

fn send(outlet: &mut Outlet, lines: &[&str]) {
    let mut batch = outlet.take().expect("there is room");
    batch.begin(0, 0, None);
    for line in lines {
        batch.arena().extend_from_slice(line.as_bytes());
        batch.commit(0, false);
    }
    outlet.send(batch);
}

/// Runs the writer to the end of what was sent, or for as long as it may.
fn run(writer: &mut Writer, limit: Duration) {
    let stop = Stop::default();
    stop.ask(Instant::now() + limit);
    writer.run(&stop);
}

#[test]
fn a_file_gets_lines_and_is_opened_again_when_it_was_moved() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    fs::write(&path, "before\n").unwrap();
    let (mut outlet, mut writer, counters) = writer(&format!("file:{}", path.display())).unwrap();
    send(&mut outlet, &["one", "two"]);
    run(&mut writer, Duration::from_secs(60));
    fs::rename(&path, directory.path().join("old")).unwrap();
    writer.look_at = Instant::now();
    writer.look_for_moved_files();
    send(&mut outlet, &["three"]);
    run(&mut writer, Duration::from_secs(60));
    assert_eq!(fs::read_to_string(directory.path().join("old")).unwrap(), "before\none\ntwo\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    assert_eq!((counters.streams[0].acknowledged.get(), counters.streams[0].acknowledged_bytes.get()), (3, 11));
    assert_eq!(counters.backlog_bytes.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn what_a_full_disk_does_not_take_waits_and_is_counted_in_the_end() {
    let (mut outlet, mut writer, counters) = writer("file:/dev/full").unwrap();
    send(&mut outlet, &["one", "two"]);
    run(&mut writer, Duration::from_millis(50));
    assert_eq!(counters.streams[0].acknowledged.get(), 0);
    assert_eq!(counters.streams[0].lost(LossCause::Shutdown), 2);
}

#[test]
fn what_cannot_be_opened_is_told() {
    let error = writer("file:/nonexistent/x").expect_err("there is no such directory").to_string();
    assert!(error.starts_with("the output of the stream `s`: opening /nonexistent/x: No such file"), "{error}");
}

#[test]
fn datagrams_have_a_line_each() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let (mut outlet, mut writer, counters) = writer(&format!("udp://{}", receiver.local_addr().unwrap())).unwrap();
    let long = "x".repeat(70_000);
    send(&mut outlet, &["one", &long, "two"]);
    run(&mut writer, Duration::from_secs(60));
    let mut buffer = [0; 64];
    for expected in ["one\n", "two\n"] {
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], expected.as_bytes());
    }
    let counts = &counters.streams[0];
    assert_eq!((counts.acknowledged.get(), counts.lost(LossCause::TooLarge)), (2, 1));
}

#[test]
fn datagrams_that_nobody_takes_are_counted() {
    // Taken, so that nobody else has it, but not by UDP.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut outlet, mut writer, counters) = writer(&format!("udp://{}", port.local_addr().unwrap())).unwrap();
    send(&mut outlet, &["line"; 20]);
    run(&mut writer, Duration::from_secs(60));
    let counts = &counters.streams[0];
    assert!(counts.lost(LossCause::Refused) > 0, "the system tells of the first by refusing another");
    assert_eq!(counts.acknowledged.get() + counts.lost(LossCause::Refused), 20);
}
