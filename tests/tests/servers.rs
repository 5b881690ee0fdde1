//! The servers that other tests run against: every release starts, takes messages and gives them back.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kafkalog_tests::messages::{Message, Reader};
use kafkalog_tests::servers::{self, Cluster, Options, Release, ZooKeeper};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

static STOP: AtomicBool = AtomicBool::new(false);

/// Servers are large: one scenario at a time.
static ONE: Mutex<()> = Mutex::new(());

const PARTITIONS: u16 = 2;

fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends so many messages, with headers if the release has them, and returns when all were acknowledged.
fn produce(cluster: &Cluster, release: &Release, topic: &str, count: usize) {
    let producer: BaseProducer = cluster.client().set("message.timeout.ms", "20000").create().unwrap();
    for number in 0..count {
        let (key, payload) = (format!("key {number}"), format!("message {number}"));
        let mut record =
            BaseRecord::to(topic).partition((number % usize::from(PARTITIONS)) as i32).key(&key).payload(&payload);
        if release.has_headers() {
            record = record.headers(OwnedHeaders::new().insert(Header { key: "number", value: Some(&key) }));
        }
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// Looks at messages that were sent to an empty topic, in any number of rounds.
fn assert_there(messages: &[Message], release: &Release, rounds: usize, count: usize) {
    let name = &release.name;
    let mut payloads: Vec<_> = messages.iter().map(|message| text(&message.payload)).collect();
    payloads.sort();
    let mut expected: Vec<_> = (0..count).flat_map(|number| vec![format!("message {number}"); rounds]).collect();
    expected.sort();
    assert_eq!(payloads, expected, "Kafka {name}");
    for message in messages {
        let number = text(&message.payload).replace("message ", "");
        assert_eq!(message.partition, number.parse::<i32>().unwrap() % i32::from(PARTITIONS), "Kafka {name}");
        let key = message.key.clone().expect("messages have keys");
        assert_eq!(text(&key), format!("key {number}"), "Kafka {name}");
        assert_eq!(message.headers.get("number"), release.has_headers().then_some(&key), "Kafka {name}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_release_gives_back_what_it_took_and_outlives_a_kill() {
    for release in Release::all() {
        let scenario = format!("every_release_gives_back_what_it_took_and_outlives_a_kill ({})", release.name);
        let Some(jars) = servers::had(release, &scenario) else { continue };
        let _one = one_at_a_time();
        let work = tempfile::tempdir().unwrap();
        let options = Options { chroot: "/kafka/one".to_owned(), ..Options::default() };
        let began = Instant::now();
        let mut cluster = Cluster::start(release, &jars, 1, options, work.path(), &STOP).unwrap();
        let started = began.elapsed();
        cluster.create_topic("one", PARTITIONS, 1, &[("retention.bytes", "1000000000")], &STOP).unwrap();
        let created = began.elapsed();
        produce(&cluster, release, "one", 10);
        let mut reader = Reader::new(cluster.client(), "one", PARTITIONS).unwrap();
        assert_there(&reader.read_to_end(&STOP).unwrap(), release, 1, 10);
        assert_eq!(reader.read_to_end(&STOP).unwrap(), []);

        let again = Instant::now();
        cluster.kill(1).unwrap();
        cluster.start_broker(1).unwrap();
        cluster.await_brokers(1, &STOP).unwrap();
        let restarted = again.elapsed();
        produce(&cluster, release, "one", 10);
        let mut reader = Reader::new(cluster.client(), "one", PARTITIONS).unwrap();
        assert_there(&reader.read_to_end(&STOP).unwrap(), release, 2, 10);
        eprintln!(
            "Kafka {}: started in {started:.1?}, topic after {created:.1?}, again after a kill in {restarted:.1?}",
            release.name
        );
    }
}

/// One that has joined takes the place of another. Of two brokers without ZooKeeper, only the first is of the quorum.
#[test]
fn brokers_come_and_go() {
    for name in ["0.8", "4.1"] {
        let release = Release::named(name);
        let Some(jars) = servers::had(release, &format!("brokers_come_and_go ({name})")) else { continue };
        let _one = one_at_a_time();
        let work = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(release, &jars, 2, Options::default(), work.path(), &STOP).unwrap();
        cluster.create_topic("two", PARTITIONS, 2, &[], &STOP).unwrap();
        produce(&cluster, release, "two", 10);
        cluster.add_broker(3).unwrap();
        cluster.await_brokers(3, &STOP).unwrap();
        cluster.stop_broker(2).unwrap();
        cluster.await_brokers(2, &STOP).unwrap();
        produce(&cluster, release, "two", 10);
        cluster.create_topic("three", PARTITIONS, 2, &[], &STOP).unwrap();
        produce(&cluster, release, "three", 10);
        for (topic, rounds) in [("two", 2), ("three", 1)] {
            let mut reader = Reader::new(cluster.client(), topic, PARTITIONS).unwrap();
            assert_there(&reader.read_to_end(&STOP).unwrap(), release, rounds, 10);
        }
    }
}

/// Of the releases with and without ZooKeeper.
#[test]
fn two_of_three_brokers_go_on() {
    for name in ["3.9", "4.1"] {
        let release = Release::named(name);
        let Some(jars) = servers::had(release, &format!("two_of_three_brokers_go_on ({name})")) else { continue };
        let _one = one_at_a_time();
        let work = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let mut cluster = Cluster::start(release, &jars, 3, Options::default(), work.path(), &STOP).unwrap();
        let started = began.elapsed();
        cluster.create_topic("three", PARTITIONS, 3, &[], &STOP).unwrap();
        produce(&cluster, release, "three", 10);

        let again = Instant::now();
        cluster.kill(1).unwrap();
        assert!(cluster.kill(1).is_err() && cluster.stop_broker(1).is_err());
        cluster.await_brokers(2, &STOP).unwrap();
        let noticed = again.elapsed();
        produce(&cluster, release, "three", 10);
        cluster.start_broker(1).unwrap();
        cluster.await_brokers(3, &STOP).unwrap();
        let complete = again.elapsed();
        cluster.stop_broker(2).unwrap();
        produce(&cluster, release, "three", 10);
        let mut reader = Reader::new(cluster.client(), "three", PARTITIONS).unwrap();
        assert_there(&reader.read_to_end(&STOP).unwrap(), release, 3, 10);
        eprintln!(
            "Kafka {name}, three brokers: started in {started:.1?}; a kill noticed in {noticed:.1?}, complete in {complete:.1?}"
        );
    }
}

#[test]
fn a_port_that_is_taken_is_told_of() {
    let release = Release::named("3.9");
    let Some(jars) = servers::had(release, "a_port_that_is_taken_is_told_of") else { return };
    let _one = one_at_a_time();
    let work = tempfile::tempdir().unwrap();
    let mut zookeeper = ZooKeeper::start(&jars, work.path(), &STOP).unwrap();
    let address = zookeeper.address();
    zookeeper.stop().unwrap();
    let (_, port) = address.rsplit_once(':').unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap();
    let error = zookeeper.start_again(&STOP).unwrap_err();
    assert!(format!("{error:#}").contains("Address already in use"), "{error:#}");
    drop(taken);
    zookeeper.start_again(&STOP).unwrap();
    assert_eq!(zookeeper.address(), address);
    assert!(fs::read_dir(work.path()).unwrap().count() == 1, "all is in one directory");
}

#[test]
fn two_of_three_zookeepers_go_on() {
    let release = Release::named("3.9");
    let Some(jars) = servers::had(release, "two_of_three_zookeepers_go_on") else { return };
    let _one = one_at_a_time();
    let work = tempfile::tempdir().unwrap();
    let mut servers = ZooKeeper::ensemble(&jars, 3, work.path(), &STOP).unwrap();
    servers[0].kill().unwrap();
    servers[1].stop().unwrap();
    // It answers only as one of a majority.
    servers[0].start_again(&STOP).unwrap();
    servers[1].start_again(&STOP).unwrap();
}
