//! The ring beside a general-purpose channel of the same size: what it costs to pass a value from thread to thread.
//!
//! `cargo bench -p kafkalog-benches --bench ring`
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kafkalog::batch::Batch;
use kafkalog::ring::ring;

/// Slots of both.
const CAPACITY: usize = 1024;

/// Values that are passed by one thread to itself in a row: what the code costs where no cache line travels.
const BURST: u64 = 256;

fn alone(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("push and pop, one thread");
    group.throughput(Throughput::Elements(BURST));
    group.bench_function(BenchmarkId::new("ring", "u64"), |bench| {
        let (mut sender, mut receiver) = ring(CAPACITY);
        bench.iter(|| {
            for value in 0..BURST {
                let _ = sender.push(black_box(value));
            }
            while let Some(value) = receiver.pop() {
                black_box(value);
            }
        });
    });
    group.bench_function(BenchmarkId::new("crossbeam", "u64"), |bench| {
        let (sender, receiver) = crossbeam_channel::bounded(CAPACITY);
        bench.iter(|| {
            for value in 0..BURST {
                let _ = sender.try_send(black_box(value));
            }
            while let Ok(value) = receiver.try_recv() {
                black_box(value);
            }
        });
    });
    group.finish();
}

fn two_threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("from thread to thread");
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(3)).sample_size(20);
    group
        .bench_function(BenchmarkId::new("ring", "u64"), |bench| bench.iter_custom(|n| through_ring(n, |value| value)));
    group.bench_function(BenchmarkId::new("crossbeam", "u64"), |bench| {
        bench.iter_custom(|n| through_channel(n, |value| value));
    });
    // Batches are never freed in between: they go round, as in the engine.
    group.bench_function(BenchmarkId::new("ring", "boxed batch"), |bench| bench.iter_custom(batches_through_ring));
    group.bench_function(BenchmarkId::new("crossbeam", "boxed batch"), |bench| {
        bench.iter_custom(batches_through_channel);
    });
    group.finish();
}

fn through_ring<T: Send>(count: u64, value: impl Fn(u64) -> T + Send) -> Duration {
    let (mut sender, mut receiver) = ring(CAPACITY);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            for mut value in (0..count).map(value) {
                while let Err(back) = sender.push(value) {
                    value = back;
                    thread::yield_now();
                }
            }
        });
        for _ in 0..count {
            black_box(wait(|| receiver.pop()));
        }
    });
    start.elapsed()
}

fn through_channel<T: Send>(count: u64, value: impl Fn(u64) -> T + Send) -> Duration {
    let (sender, receiver) = crossbeam_channel::bounded(CAPACITY);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            for mut value in (0..count).map(value) {
                while let Err(back) = sender.try_send(value) {
                    value = back.into_inner();
                    thread::yield_now();
                }
            }
        });
        for _ in 0..count {
            black_box(wait(|| receiver.try_recv().ok()));
        }
    });
    start.elapsed()
}

fn batches_through_ring(count: u64) -> Duration {
    let (mut there, mut arriving) = ring(CAPACITY);
    let (mut back, mut returning) = ring(CAPACITY);
    fill(|batch| back.push(batch).is_ok());
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..count {
                let batch: Box<Batch> = wait(|| returning.pop());
                // There are fewer batches than slots.
                let _ = there.push(batch);
            }
        });
        for _ in 0..count {
            let batch = wait(|| arriving.pop());
            let _ = back.push(batch);
        }
    });
    start.elapsed()
}

fn batches_through_channel(count: u64) -> Duration {
    let (there, arriving) = crossbeam_channel::bounded(CAPACITY);
    let (back, returning) = crossbeam_channel::bounded(CAPACITY);
    fill(|batch| back.try_send(batch).is_ok());
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..count {
                let batch: Box<Batch> = wait(|| returning.try_recv().ok());
                let _ = there.try_send(batch);
            }
        });
        for _ in 0..count {
            let batch = wait(|| arriving.try_recv().ok());
            let _ = back.try_send(batch);
        }
    });
    start.elapsed()
}

fn fill(mut put: impl FnMut(Box<Batch>) -> bool) {
    for _ in 0..CAPACITY / 2 {
        assert!(put(Box::default()), "there are fewer batches than slots");
    }
}

/// Tries until there is a value; both sides wait alike.
fn wait<T>(mut take: impl FnMut() -> Option<T>) -> T {
    loop {
        match take() {
            Some(value) => return value,
            None => thread::yield_now(),
        }
    }
}

criterion_group!(benches, alone, two_threads);
criterion_main!(benches);
