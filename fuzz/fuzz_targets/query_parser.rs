//! Outside bytes as a query, and as a record that it tests.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kafkalog::query::fuzz::query_parser(bytes));
