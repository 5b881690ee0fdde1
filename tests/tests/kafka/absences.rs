//! What is away for a while: a member of ZooKeeper's ensemble, kafkalog itself, the broker behind a virtual address, a topic.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use kafkalog_tests::servers::Options;
use kafkalog_tests::wait;

use super::feed::Feed;
use super::{PARTITIONS, SAY, STOP, TOPIC, World, feed, finish, pause};

/// Puts broker 2 in the place of broker 1.
fn replace_the_broker(world: &mut World) {
    world.cluster.add_broker(2).unwrap();
    world.cluster.await_brokers(2, &STOP).unwrap();
    world.cluster.move_topic(TOPIC, PARTITIONS, &[2], &STOP).unwrap();
    world.cluster.stop_broker(1).unwrap();
}

#[test]
fn another_member_of_the_ensemble_tells_as_well() {
    let options = Options { ensemble: 3, ..World::options(&[]) };
    let Some(mut world) = World::build_with("2.8", 1, options, "another_member_of_the_ensemble_tells_as_well") else {
        return;
    };
    let feed = feed(&world.configure(&world.by_zookeeper()));
    pause(2);
    // Whichever it has a session with, is among them.
    for member in 0..3 {
        world.cluster.zookeepers[member].kill().unwrap();
        pause(3);
        if member < 2 {
            world.cluster.zookeepers[member].start_again(&STOP).unwrap();
        }
    }
    // Of the new broker only ZooKeeper can tell: the old one has gone before kafkalog goes on.
    feed.pause();
    replace_the_broker(&mut world);
    feed.resume();
    told_of_the_new_broker(&world, &feed);
    finish(&world, feed);
}

/// Waits until ZooKeeper has told of broker 2, and of it alone.
fn told_of_the_new_broker(world: &World, feed: &Feed) {
    let bootstrap = world.cluster.bootstrap();
    let told = format!("\"brokers\":\"{}\"", bootstrap.split(',').nth(1).unwrap());
    wait::until("ZooKeeper to tell of the new broker", SAY, &STOP, || Ok(feed.said().contains(&told).then_some(())))
        .unwrap_or_else(|error| panic!("{told}: {error:#}: {}", feed.said()));
}

#[test]
fn an_expired_session_is_begun_again() {
    let Some(mut world) = World::build("2.8", 1, &[], "an_expired_session_is_begun_again") else { return };
    let feed = feed(&world.configure(&world.by_zookeeper()));
    pause(2);
    feed.pause();
    replace_the_broker(&mut world);
    // A session lasts for ten seconds.
    pause(12);
    feed.resume();
    told_of_the_new_broker(&world, &feed);
    finish(&world, feed);
}

/// An address that leads to the broker of this port, whichever that is at the time.
fn virtual_address(port: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().port();
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        // Either side may go at any time: that is what is tried.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    };
    let serve = move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, port.load(Ordering::Relaxed))) else { continue };
            let (from_client, from_broker) = (client.try_clone().unwrap(), broker.try_clone().unwrap());
            thread::Builder::new().spawn(move || copy(from_client, broker)).unwrap();
            thread::Builder::new().spawn(move || copy(from_broker, client)).unwrap();
        }
    };
    thread::Builder::new().name("virtual address".to_owned()).spawn(serve).unwrap();
    address
}

/// All brokers that kafkalog has learned of go away while it is stopped: to the new one nothing leads but the address.
#[test]
fn a_virtual_address_will_do() {
    let Some(mut world) = World::build("2.8", 1, &[], "a_virtual_address_will_do") else { return };
    let port = |world: &World, id: usize| -> u16 {
        world.cluster.bootstrap().split(',').nth(id - 1).unwrap().rsplit(':').next().unwrap().parse().unwrap()
    };
    let behind = Arc::new(AtomicU16::new(port(&world, 1)));
    let address = virtual_address(Arc::clone(&behind));
    let feed = feed(&world.configure(&format!("bootstrap = [\"127.0.0.1:{address}\"]")));
    pause(2);
    feed.pause();
    replace_the_broker(&mut world);
    behind.store(port(&world, 2), Ordering::Relaxed);
    feed.resume();
    pause(10);
    finish(&world, feed);
}

#[test]
fn a_topic_that_is_deleted_in_between_costs_what_is_counted() {
    let Some(world) = World::build("2.8", 1, &[], "a_topic_that_is_deleted_in_between_costs_what_is_counted") else {
        return;
    };
    let properties = "properties = { \"topic.metadata.propagation.max.ms\" = 2000 }";
    let feed = feed(&world.configure(&format!("{}\n{properties}", world.by_list())));
    pause(2);
    world.cluster.run("kafka.admin.TopicCommand", &["--delete", "--topic", TOPIC]).unwrap();
    pause(8);
    world.cluster.create_topic(TOPIC, PARTITIONS, 1, &[], &STOP).unwrap();
    pause(5);
    let log = feed.log();
    let (status, _) = feed.finish();
    assert!(!status.success(), "lines were lost");
    let said = fs::read_to_string(log).unwrap();
    let number = |name: &str| -> usize {
        let rest = said.rsplit(&format!("\"{name}\":")).next().unwrap();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    let (all, acknowledged, lost) = (number("lines"), number("acknowledged"), number("lost"));
    println!("{all} lines, {acknowledged} acknowledged, {lost} lost");
    assert!(lost > 0 && acknowledged + lost == all, "{said}");
    assert!(said.contains(&format!("\"causes\":\"unknown_topic={lost}\"")), "{said}");
    let numbers: Vec<u64> = world
        .messages()
        .iter()
        .map(|message| u64::from_be_bytes(message.headers["kl-seq"].as_slice().try_into().unwrap()))
        .collect();
    let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(distinct.len(), numbers.len(), "lines are there twice");
    assert!(numbers.len() <= acknowledged, "{} of {acknowledged}", numbers.len());
    // Once it is there again, nothing is missing: the last ones are there without a gap.
    let last = all as u64 - 1;
    let tail = (0..=last).rev().take_while(|number| distinct.contains(number)).count();
    assert!(tail >= 2_000, "sending goes on: {tail} without a gap before the last of {all}: {said}");
}
