//! Outside bytes as a recording, as the index of a VSM directory, and as what happens to a log in shared memory.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kafkalog::log::fuzz::log_reader(bytes));
