//! The producer against librdkafka's mock cluster. It neither deduplicates nor fences: where requests are sent again, lines
//! are counted as sets.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::types::RDKafkaRespErr as Code;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::*;
use crate::batch::Batch;
use crate::config::{Kafka, Spanned};
use crate::message::{HEADER_BOOT, HEADER_HOST, HEADER_SALT, HEADER_SEQUENCE, HEADER_STREAM, SaltId};
use crate::producer::mock::MockCluster;
use crate::producer::{Outlet, Producer, channel};

const HOST: &str = "cp3052";
const MEBIBYTE: u64 = 1 << 20;

/// A producer, and the reader's side of it.
struct Rig {
    cluster: MockCluster,
    boot: Boot,
    counters: Arc<Counters>,
    outlet: Outlet,
    next: Vec<u64>,
    stop: Arc<Stop>,
}

impl Rig {
    /// Streams `s0`, `s1`, … with topics `t0`, `t1`, … of that many partitions.
    fn new(partitions: &[u16], max_bytes: u64, properties: &[(&str, &str)]) -> (Self, Producer) {
        let cluster = MockCluster::start(1).unwrap();
        for (index, count) in partitions.iter().enumerate() {
            cluster.create_topic(&format!("t{index}"), *count).unwrap();
        }
        let counters = Arc::new(Counters::new(partitions.len()));
        let (outlet, inlet) = channel(max_bytes, Arc::clone(&counters));
        let defaults = [("linger.ms", "5"), ("reconnect.backoff.max.ms", "200")];
        let properties = defaults.iter().chain(properties);
        let properties = properties.map(|(name, value)| (Spanned::new(0..0, (*name).to_owned()), (*value).into()));
        let properties = properties.collect();
        let kafka = Kafka::listed(vec![cluster.bootstrap()], properties);
        let streams = (0..partitions.len()).map(|index| (format!("s{index}"), format!("t{index}"))).collect();
        let boot = Boot::begin();
        let producer =
            Producer::new(&kafka, Arc::default(), HOST, boot, streams, Arc::clone(&counters), inlet).unwrap();
        let next = vec![0; partitions.len()];
        (Self { cluster, boot, counters, outlet, next, stop: Arc::default() }, producer)
    }

    /// What the reader does: numbers lines and sends them, and counts those that there is no room for.
    fn send(&mut self, stream: usize, lines: u64, salt: Option<SaltId>, text: impl Fn(u64) -> String) {
        let mut open: Option<Box<Batch>> = None;
        for _ in 0..lines {
            let sequence = self.next[stream];
            self.next[stream] += 1;
            self.counters.streams[stream].lines.add(1);
            if let Some(batch) = open.take_if(|batch| batch.ends_block() || batch.bytes() >= self.outlet.full()) {
                self.outlet.send(batch);
            }
            if open.is_none() {
                open = self.outlet.take();
                if let Some(batch) = &mut open {
                    batch.begin(stream, sequence, salt);
                }
            }
            let Some(batch) = &mut open else {
                self.counters.streams[stream].lose(LossCause::Backlog, 1);
                continue;
            };
            batch.arena().extend_from_slice(text(sequence).as_bytes());
            batch.commit(timestamp(sequence), is_hashed(sequence));
        }
        if let Some(batch) = open {
            self.outlet.send(batch);
        }
    }

    /// Runs the producer until everything is settled; `meanwhile` is told as soon as it runs.
    fn finish(&self, mut producer: Producer, limit: Duration, meanwhile: impl FnOnce(&Self)) -> Duration {
        thread::scope(|scope| {
            let (stop, began) = (Arc::clone(&self.stop), Instant::now());
            let running = scope.spawn(move || {
                producer.run(&stop);
                began.elapsed()
            });
            meanwhile(self);
            self.stop.ask(Instant::now() + limit);
            running.join().unwrap()
        })
    }

    fn lost(&self, stream: usize, cause: LossCause) -> u64 {
        self.counters.streams[stream].lost(cause)
    }

    fn acknowledged(&self, stream: usize) -> u64 {
        self.counters.streams[stream].acknowledged.get()
    }

    fn check_books(&self) {
        assert_eq!(self.counters.outstanding(), 0);
        assert_eq!(self.counters.backlog_bytes.load(std::sync::atomic::Ordering::Relaxed), 0);
        for stream in &self.counters.streams {
            assert_eq!(stream.lines.get(), stream.acknowledged.get() + stream.lost_total());
        }
    }

    /// Hands each message of a topic to `look`, partition by partition, until there are no more.
    fn read(&self, stream: usize, partitions: i32, mut look: impl FnMut(u64, &BorrowedMessage<'_>)) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap())
            .set("group.id", "test")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        for partition in 0..partitions {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&format!("t{stream}"), partition, Offset::Beginning).unwrap();
            consumer.assign(&list).unwrap();
            let deadline = Instant::now() + SOON;
            loop {
                assert!(Instant::now() < deadline, "partition {partition} has no end");
                // It gives nothing at times, before the time is over.
                let Some(next) = consumer.poll(Duration::from_millis(500)) else { continue };
                match next {
                    Ok(message) => look(sequence_of(&message), &message),
                    Err(rdkafka::error::KafkaError::PartitionEOF(end)) if end == partition => break,
                    Err(rdkafka::error::KafkaError::PartitionEOF(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn sequences(&self, stream: usize, partitions: i32) -> BTreeSet<u64> {
        let mut sequences = BTreeSet::new();
        self.read(stream, partitions, |sequence, _| {
            sequences.insert(sequence);
        });
        sequences
    }
}

fn header<'m>(message: &'m BorrowedMessage<'_>, name: &str) -> Option<&'m [u8]> {
    message.headers().unwrap().iter().find(|header| header.key == name).and_then(|header| header.value)
}

fn sequence_of(message: &BorrowedMessage<'_>) -> u64 {
    u64::from_be_bytes(header(message, HEADER_SEQUENCE).unwrap().try_into().unwrap())
}

fn timestamp(sequence: u64) -> i64 {
    1_787_000_000_000 + i64::try_from(sequence).unwrap()
}

fn is_hashed(sequence: u64) -> bool {
    !sequence.is_multiple_of(3)
}

fn text(sequence: u64) -> String {
    format!("line {sequence}")
}

fn long(_: u64) -> String {
    "x".repeat(700)
}

fn salt(epoch: u64) -> Option<SaltId> {
    Some(SaltId { epoch, generation: Some(2), digest: 0xabcd })
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn every_line_arrives_once_in_order_with_its_headers() {
    let (mut rig, producer) = Rig::new(&[3, 5], 64 * MEBIBYTE, &[]);
    // Enough for headers to be used again, under one salt, none, and another.
    thread::scope(|scope| {
        let mut producer = producer;
        let stop = Arc::clone(&rig.stop);
        let running = scope.spawn(move || producer.run(&stop));
        for (lines, salt) in [(1700, salt(7)), (900, None), (2000, salt(8)), (400, salt(8))] {
            for stream in [0, 1] {
                rig.send(stream, lines, salt, text);
            }
            let deadline = Instant::now() + SOON;
            while rig.counters.outstanding() > 0 && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
        }
        rig.stop.ask(Instant::now() + SOON);
        running.join().unwrap();
    });
    rig.check_books();
    for (stream, partitions) in [(0, 3), (1, 5)] {
        assert_eq!(rig.acknowledged(stream), 5000);
        let name = format!("s{stream}");
        let (mut all, mut last) = (BTreeSet::new(), BTreeMap::new());
        rig.read(stream, partitions, |sequence, message| {
            assert!(all.insert(sequence), "line {sequence} is there twice");
            assert_eq!(message.partition() as u32, rig.boot.partition(sequence, partitions as u32));
            let before = last.insert(message.partition(), sequence);
            assert!(before < Some(sequence), "{before:?} comes before {sequence}");
            assert_eq!(message.payload().unwrap(), text(sequence).as_bytes());
            assert_eq!(message.timestamp().to_millis(), Some(timestamp(sequence)));
            let salt = match sequence {
                _ if !is_hashed(sequence) => None,
                0..1700 => salt(7),
                1700..2600 => None,
                _ => salt(8),
            };
            let salt = salt.map(|salt| salt.to_string());
            let number = sequence.to_be_bytes();
            let mut expected: Vec<(&str, &[u8])> = vec![
                (HEADER_HOST, HOST.as_bytes()),
                (HEADER_BOOT, rig.boot.as_bytes()),
                (HEADER_STREAM, name.as_bytes()),
                (HEADER_SEQUENCE, &number),
            ];
            expected.extend(salt.as_ref().map(|salt| (HEADER_SALT, salt.as_bytes())));
            let headers: Vec<_> =
                message.headers().unwrap().iter().map(|header| (header.key, header.value.unwrap())).collect();
            assert_eq!(headers, expected);
        });
        assert_eq!(all, (0..5000).collect());
    }
}

#[test]
fn what_kafka_can_recover_from_loses_nothing() {
    let (mut rig, producer) = Rig::new(&[2], 64 * MEBIBYTE, &[("retry.backoff.ms", "20")]);
    rig.cluster.fail_produce(&[
        Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Code::RD_KAFKA_RESP_ERR__TRANSPORT,
    ]);
    rig.send(0, 3000, salt(1), long);
    rig.finish(producer, SOON, |rig| {
        for _ in 0..3 {
            rig.cluster.set_up(1, false).unwrap();
            thread::sleep(Duration::from_millis(100));
            rig.cluster.set_up(1, true).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    });
    rig.check_books();
    assert_eq!(rig.acknowledged(0), 3000);
    assert_eq!(rig.sequences(0, 2), (0..3000).collect());
}

#[test]
fn what_kafka_refuses_is_counted_by_cause() {
    for (code, cause) in [
        (Code::RD_KAFKA_RESP_ERR_INVALID_RECORD, LossCause::Refused),
        (Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, LossCause::TooLarge),
    ] {
        let (mut rig, producer) = Rig::new(&[1], 64 * MEBIBYTE, &[("batch.num.messages", "100")]);
        rig.cluster.fail_produce(&[code]);
        rig.send(0, 1000, salt(1), text);
        rig.finish(producer, SOON, |_| {});
        rig.check_books();
        assert!((1..=100).contains(&rig.lost(0, cause)), "{code:?}: {}", rig.lost(0, cause));
        assert_eq!(rig.lost(0, cause), rig.counters.streams[0].lost_total());
    }
}

/// librdkafka gives up what it has of a topic that it may not write to, but what it was not handed waits.
#[test]
fn a_topic_that_may_not_be_written_to_costs_one_window() {
    let (mut rig, producer) = Rig::new(&[1], 8 * MEBIBYTE, &[("batch.num.messages", "100")]);
    rig.cluster.fail_produce(&[Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    rig.send(0, 5000, salt(1), text);
    rig.finish(producer, SOON, |_| {});
    rig.check_books();
    let lost = rig.lost(0, LossCause::Refused);
    assert!((1..=1024).contains(&lost), "{lost}");
    assert_eq!(lost, rig.counters.streams[0].lost_total());
    assert_eq!(rig.sequences(0, 1).len() as u64, 5000 - lost);
}

#[test]
fn a_line_that_is_too_large_is_lost_alone() {
    let (mut rig, producer) = Rig::new(&[1], 64 * MEBIBYTE, &[("message.max.bytes", "2000")]);
    rig.send(0, 100, salt(1), |sequence| "x".repeat(if sequence == 42 { 3000 } else { 100 }));
    rig.finish(producer, SOON, |_| {});
    rig.check_books();
    assert_eq!((rig.acknowledged(0), rig.lost(0, LossCause::TooLarge)), (99, 1));
    assert!(!rig.sequences(0, 1).contains(&42));
}

#[test]
fn a_missing_topic_holds_up_its_own_lines_only_and_not_for_ever() {
    let (mut rig, producer) = Rig::new(&[1, 2], 64 * MEBIBYTE, &[("topic.metadata.propagation.max.ms", "400")]);
    rig.cluster.fail_topic(c"t0", Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    rig.send(0, 200, None, text);
    rig.send(1, 2000, None, text);
    rig.finish(producer, SOON, |rig| {
        let deadline = Instant::now() + SOON;
        while rig.acknowledged(1) < 2000 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(rig.lost(0, LossCause::UnknownTopic), 0, "it may still appear");
    });
    rig.check_books();
    assert_eq!(rig.lost(0, LossCause::UnknownTopic), 200);
    assert_eq!(rig.acknowledged(1), 2000);
}

#[test]
fn lines_wait_for_a_kafka_that_is_not_there_yet() {
    let (mut rig, producer) = Rig::new(&[2], 64 * MEBIBYTE, &[]);
    rig.cluster.set_up(1, false).unwrap();
    rig.send(0, 2000, salt(1), text);
    rig.finish(producer, SOON, |rig| {
        thread::sleep(Duration::from_millis(600));
        assert_eq!(rig.counters.outstanding(), 2000);
        rig.cluster.set_up(1, true).unwrap();
    });
    rig.check_books();
    assert_eq!(rig.acknowledged(0), 2000);
    assert_eq!(rig.sequences(0, 2), (0..2000).collect());
}

#[test]
fn memory_is_bounded_and_what_has_no_room_leaves_a_gap() {
    let (mut rig, producer) = Rig::new(&[4], 8 * MEBIBYTE, &[]);
    rig.cluster.set_up(1, false).unwrap();
    rig.send(0, 20_000, salt(1), long);
    let dropped = rig.lost(0, LossCause::Backlog);
    let kept = 20_000 - dropped;
    // 14 MB do not fit 8 MiB, but a good part of them does.
    assert!((4000..10_000).contains(&kept), "{kept}");
    rig.finish(producer, SOON, |rig| {
        thread::sleep(Duration::from_millis(300));
        rig.cluster.set_up(1, true).unwrap();
    });
    rig.check_books();
    assert_eq!(rig.acknowledged(0), kept);
    // The newest were dropped.
    assert_eq!(rig.sequences(0, 4), (0..kept).collect());
}

#[test]
fn a_broker_that_is_slow_does_not_get_more_than_the_window() {
    let (mut rig, producer) = Rig::new(&[2], 8 * MEBIBYTE, &[]);
    rig.cluster.delay(1, Duration::from_millis(150)).unwrap();
    rig.send(0, 4000, salt(1), text);
    rig.finish(producer, SOON, |_| {});
    rig.check_books();
    assert_eq!(rig.acknowledged(0), 4000);
}

#[test]
fn the_deadline_is_kept_and_the_rest_counted() {
    let (mut rig, producer) = Rig::new(&[1], 64 * MEBIBYTE, &[]);
    rig.cluster.set_up(1, false).unwrap();
    rig.send(0, 3000, salt(1), text);
    let took = rig.finish(producer, Duration::from_millis(300), |_| {});
    assert!(took < Duration::from_secs(5), "{took:?}");
    rig.check_books();
    assert_eq!(rig.lost(0, LossCause::Shutdown), 3000);
}

#[test]
fn a_client_that_fails_for_good_is_replaced_and_nothing_is_lost() {
    let (mut rig, mut producer) = Rig::new(&[3], 64 * MEBIBYTE, &[("linger.ms", "300")]);
    rig.send(0, 2000, salt(1), text);
    let sender = &mut producer.sender;
    sender.take_in();
    while sender.streams[0].partitions.is_none() {
        sender.ask_for_partitions();
    }
    assert!(!sender.hand_over_all());
    assert_eq!(sender.window.0, 2000);
    // Some may be acknowledged by now, most are not.
    sender.client.as_ref().unwrap().break_down();
    rig.send(0, 1000, salt(1), text);
    rig.finish(producer, SOON, |_| {});
    rig.check_books();
    assert_eq!(rig.acknowledged(0), 3000);
    assert_eq!(rig.sequences(0, 3), (0..3000).collect());
}

#[test]
fn a_panic_costs_the_line_in_hand() {
    let (mut rig, mut producer) = Rig::new(&[1], 64 * MEBIBYTE, &[]);
    rig.send(0, 100, salt(1), text);
    rig.send(0, 1, salt(1), text);
    producer.sender.take_in();
    producer.sender.in_hand = Some((0, 17));
    producer.sender.after_panic();
    // The only line of its batch: the batch must not be forgotten, nor its slot be used again too early.
    producer.sender.in_hand = Some((1, 0));
    producer.sender.after_panic();
    rig.send(0, 50, salt(1), text);
    rig.finish(producer, SOON, |_| {});
    rig.check_books();
    assert_eq!((rig.acknowledged(0), rig.lost(0, LossCause::Panic)), (149, 2));
    assert_eq!(rig.counters.panics.get(), 2);
    assert_eq!(rig.sequences(0, 1), (0..151).filter(|sequence| ![17, 100].contains(sequence)).collect());
}

#[test]
fn what_waits_is_hurried_when_somebody_waits_for_it() {
    let (mut rig, producer) = Rig::new(&[1], 64 * MEBIBYTE, &[("linger.ms", "30000")]);
    rig.send(0, 100, salt(1), text);
    let took = rig.finish(producer, SOON, |rig| {
        rig.stop.hurry(Instant::now() + SOON);
        let deadline = Instant::now() + SOON;
        while rig.counters.outstanding() > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(rig.counters.outstanding(), 0);
    });
    assert!(took < Duration::from_secs(10), "{took:?}");
}
