//! Outside bytes as a broker's registration in ZooKeeper.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kafkalog::discovery::fuzz::broker_registration(bytes));
