//! The `kafkalog` program: the daemon and its tools.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
