//! The module inside a busy varnishd, while its brokers are killed.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kafkalog_tests::backend::Backend;
use kafkalog_tests::load::Load;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::topic::Topic;
use kafkalog_tests::varnishd::Varnishd;
use kafkalog_tests::wait;

use super::{PARTITIONS, STOP, TOPIC, World, is_long, pause, rate};

/// How often the load is brought back to its rate.
const TICK: Duration = Duration::from_millis(250);

/// For the last acknowledgements, when brokers have just come back.
const FINISH: Duration = Duration::from_secs(60);

/// Sends requests at the scenario's rate until told to stop. How many there were.
fn load(varnishd: &Varnishd, stop: &AtomicBool) -> u64 {
    let (began, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = (rate() * began.elapsed().as_secs_f64()) as u64;
        let load = Load { address: varnishd.address(), first: sent, requests: due - sent, seed: 7 };
        load.run(&AtomicU64::new(0), &STOP).unwrap();
        sent = due;
        thread::sleep(TICK);
    }
    sent
}

#[test]
fn brokers_are_killed_one_after_the_other() {
    let Some(mut world) = World::build("3.9", 3, &[], "brokers_are_killed_one_after_the_other") else { return };
    let (programs, backend) = (Programs::build().unwrap(), Backend::start().unwrap());
    let configuration = world.configure(&world.by_list());
    let vcl = include_str!("../../../examples/demo.vcl")
        .replace("CONFIGURATION", configuration.to_str().unwrap())
        .replace("BACKEND_HOST", &backend.address().ip().to_string())
        .replace("BACKEND_PORT", &backend.address().port().to_string());
    let work = world.work.path().to_owned();
    let mut varnishd = Varnishd::start(&programs, &vcl, &work, &work, &STOP).unwrap();

    let (rounds, between) = if is_long() { (9, 10) } else { (3, 3) };
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let loading = thread::Builder::new().spawn_scoped(scope, || load(&varnishd, &stop)).unwrap();
        for round in 0..rounds {
            pause(between);
            let id = round % 3 + 1;
            world.cluster.kill(id).unwrap();
            pause(between);
            world.cluster.start_broker(id).unwrap();
            world.cluster.await_brokers(3, &STOP).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        loading.join().unwrap()
    });
    let counters = wait::until("all lines to be acknowledged", FINISH, &STOP, || {
        let counters = varnishd.counters()?;
        Ok((counters["KAFKALOG.webrequest.acknowledged"] >= sent).then_some(counters))
    });
    let counters = counters.unwrap();
    varnishd.stop(FINISH).unwrap();

    let mut topic = Topic::new(&world.cluster.bootstrap(), TOPIC, PARTITIONS).unwrap();
    topic.read_to_end(&STOP).unwrap();
    let said = fs::read_to_string(work.join("varnishd.log")).unwrap();
    let (missing, doubled) = (topic.missing(0..sent), topic.doubled());
    println!("{sent} requests, {} missing, {} doubled", missing.len(), doubled.len());
    assert!(missing.is_empty() && doubled.is_empty() && topic.leaks.is_empty(), "{missing:?} {doubled:?}: {said}");
    assert_eq!(counters["KAFKALOG.engine.overruns"], 0, "the reader came too late: {said}");
    let origins: Vec<_> = topic.sequences.values().collect();
    let [sequences] = origins[..] else { panic!("{} boots: {said}", origins.len()) };
    assert!(sequences.keys().copied().eq(0..sent), "numbers have gaps: {said}");
}
