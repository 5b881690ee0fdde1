//! The kafkalog program.
fn main() {}
