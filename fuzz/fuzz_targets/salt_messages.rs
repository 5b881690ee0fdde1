//! Outside bytes as what members of a cluster write to ZooKeeper for each other.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kafkalog::salt::fuzz::messages(bytes));
