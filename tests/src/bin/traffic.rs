//! The demo's load alone, for a varnishd that runs already, with `examples/demo.vcl` or one like it.

use std::io::{self, Write as _};
use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Parser;
use kafkalog_tests::backend::Backend;
use kafkalog_tests::command_line::{exit_code, stop_flag};
use kafkalog_tests::load::Load;

/// Sends numbered requests of all kinds over keep-alive connections.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// varnishd; must be of this machine, as the load comes from 127.0.0.1 to 127.0.0.9
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present = "backend")]
    address: Option<SocketAddrV4>,
    /// Serve the backend's pages instead, on a port that is printed, until SIGTERM
    #[arg(long)]
    backend: bool,
    /// How many requests to send
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    requests: u64,
    /// Other seeds give other requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    exit_code("traffic", run(&Arguments::parse()).map(|()| true))
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let stop = stop_flag()?;
    let mut out = io::stdout().lock();
    if arguments.backend {
        let backend = Backend::start()?;
        writeln!(out, "backend: {}", backend.address()).context("writing to standard output")?;
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        return Ok(());
    }
    let Some(address) = arguments.address else { bail!("--address is missing") };
    let load = Load { address, first: 0, requests: arguments.requests, seed: arguments.seed };
    let began = Instant::now();
    let sent = load.run(&AtomicU64::new(0), &stop)?.len();
    let seconds = began.elapsed().as_secs_f64();
    writeln!(out, "{sent} requests in {seconds:.2} s, {:.0} a second", sent as f64 / seconds)
        .context("writing to standard output")
}
