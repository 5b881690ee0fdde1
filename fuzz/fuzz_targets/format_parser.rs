//! Outside bytes as a format, and as the records of a request that it is rendered over.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kafkalog::format::fuzz::format_parser(bytes));
