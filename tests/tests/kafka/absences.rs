//! What is away for a while: a member of ZooKeeper's ensemble, kafkalog itself, the broker behind a virtual address, a topic.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use kafkalog_tests::servers::Options;

use super::{PARTITIONS, STOP, TOPIC, World, feed, finish, pause};

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
    replace_the_broker(&mut world);
    pause(5);
    finish(&world, feed);
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
    pause(5);
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

#[test]
fn a_virtual_address_will_do() {
    let Some(mut world) = World::build("3.9", 3, &[], "a_virtual_address_will_do") else { return };
    let bootstrap = world.cluster.bootstrap();
    let ports: Vec<u16> =
        bootstrap.split(',').map(|address| address.rsplit(':').next().unwrap().parse().unwrap()).collect();
    let behind = Arc::new(AtomicU16::new(ports[0]));
    let address = virtual_address(Arc::clone(&behind));
    let feed = feed(&world.configure(&format!("bootstrap = [\"127.0.0.1:{address}\"]")));
    pause(2);
    world.cluster.kill(1).unwrap();
    pause(3);
    behind.store(ports[1], Ordering::Relaxed);
    world.cluster.start_broker(1).unwrap();
    world.cluster.await_brokers(3, &STOP).unwrap();
    world.cluster.kill(2).unwrap();
    behind.store(ports[2], Ordering::Relaxed);
    pause(3);
    world.cluster.start_broker(2).unwrap();
    world.cluster.await_brokers(3, &STOP).unwrap();
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
    feed.finish();
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
    assert!(numbers.len() <= acknowledged && numbers.contains(&(all as u64 - 1)), "sending went on: {said}");
}
