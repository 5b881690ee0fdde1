//! What it costs to make an address unrecognisable, with the salt looked up as it is for each request.
//!
//! `cargo bench -p kafkalog-benches --bench anonymize`
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kafkalog::anonymize::{Anonymizer, parse};
use kafkalog::config::IpFunction;
use kafkalog::salt::{Clock, Missing, Salts};

const ADDRESSES: [&str; 2] = ["192.0.2.44", "2001:db8:1234:5678::44"];

fn hash(criterion: &mut Criterion) {
    let salts = Salts::new(Duration::from_secs(86_400), Clock::Log, Missing::Local);
    let start = Duration::from_secs(1_700_000_000);
    let mut group = criterion.benchmark_group("address");
    for text in ADDRESSES {
        let address: IpAddr = text.parse().expect("it is one");
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        for (name, function) in
            [("hash", IpFunction::Hash), ("hmac-sha256", IpFunction::HmacSha256), ("truncate", IpFunction::Truncate)]
        {
            let held = salts.at(start);
            let anonymizer = Anonymizer::new(function, held.salt(), 64).expect("there is a salt");
            let mut out = Vec::with_capacity(64);
            group.bench_function(BenchmarkId::new(name, family), |bench| {
                bench.iter(|| {
                    out.clear();
                    anonymizer.append(black_box(address), &mut out);
                    black_box(&out);
                });
            });
        }
        group.bench_function(BenchmarkId::new("parse", family), |bench| {
            bench.iter(|| parse(black_box(text.as_bytes())));
        });
    }
    group.bench_function("the salt of a request", |bench| {
        bench.iter(|| salts.at(black_box(start)).salt().map(|salt| salt.id()));
    });
    group.finish();
}

criterion_group!(benches, hash);
criterion_main!(benches);
