//! The command line. Each command has its module: arguments, and what it does.

mod brokers;
mod check;
mod dev_broker;
mod ncsa;
mod replay;
mod run;
mod salt;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use kafkalog::engine::Setup;
use kafkalog::logging::{self, LogFormat};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Ships every request that Varnish serves to Kafka, with client IPs hashed at the edge.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// How log events are written to standard error [default: text on a terminal, json otherwise]
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: read varnishd's log from outside and produce to Kafka
    Run(run::Run),
    /// Put a recorded log (varnishlog -w) through the same pipeline
    Replay(replay::Replay),
    /// Do what varnishncsa does, with its options; so does this program by the name varnishncsa
    #[command(disable_help_flag = true)]
    Ncsa {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        options: Vec<OsString>,
    },
    /// Check a configuration: the file, ZooKeeper, Kafka, the topics
    Check(check::Check),
    /// List the brokers that ZooKeeper tells of: id, the address that is taken, all listeners
    Brokers(brokers::Brokers),
    /// Look at the salt that the cluster's nodes share: never at what it is
    Salt(salt::Salt),
    /// Run librdkafka's mock cluster, for demos and tests
    DevBroker(dev_broker::DevBroker),
}

/// Exit status 0 when done, 1 when not, with the reason on standard error; clap exits with 2 on wrong usage.
pub(crate) fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().map(PathBuf::from);
    if name.as_deref().and_then(Path::file_name).is_some_and(|name| name == "varnishncsa") {
        return ncsa::main("varnishncsa", words);
    }
    let arguments = Arguments::parse();
    logging::start(arguments.log_format);
    let result = match arguments.command {
        Command::Ncsa { options } => return ncsa::main("kafkalog ncsa", options.into_iter()),
        Command::Run(command) => command.run(),
        Command::Replay(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Brokers(command) => command.run(),
        Command::Salt(command) => command.run(),
        Command::DevBroker(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Nothing can be done about a standard error that is closed.
            let _ = writeln!(std::io::stderr(), "kafkalog: {}", logging::describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// The working directory of the varnishd with this name (`-n`). By default it has the host's, or the one in the environment
/// variable `VARNISH_DEFAULT_N`.
fn instance_directory(name: Option<&Path>) -> PathBuf {
    let name = name.map(Path::to_owned).or_else(|| std::env::var_os("VARNISH_DEFAULT_N").map(PathBuf::from));
    let host = || PathBuf::from(rustix::system::uname().nodename().to_string_lossy().into_owned());
    Path::new(STATE_DIRECTORY).join(name.unwrap_or_else(host))
}

/// Where varnishd keeps its instances when `-n` is a mere name.
const STATE_DIRECTORY: &str = "/var/lib/varnish";

/// Reads the configuration of a command.
fn load(path: &Path) -> anyhow::Result<Arc<Setup>> {
    Ok(Arc::new(Setup::load(path)?))
}

/// A flag that SIGTERM and SIGINT set. A second signal ends the process at once.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("catching signals")?;
    }
    Ok(stop)
}

/// Logs what became of the lines, and tells whether all arrived.
fn report(setup: &Setup, counters: &kafkalog::counters::Counters) -> bool {
    use kafkalog::counters::LossCause;
    let mut lost = 0;
    for (stream, counts) in setup.config().streams.get_ref().iter().zip(&counters.streams) {
        let causes: Vec<String> = LossCause::ALL
            .into_iter()
            .filter(|cause| counts.lost(*cause) > 0)
            .map(|cause| format!("{}={}", cause.name(), counts.lost(cause)))
            .collect();
        lost += counts.lost_total();
        tracing::info!(
            stream = stream.name.get_ref().as_str(),
            lines = counts.lines.get(),
            acknowledged = counts.acknowledged.get(),
            lost = counts.lost_total(),
            causes = causes.join(" "),
            "done"
        );
    }
    lost == 0
}
