//! The pipeline from one end to the other: starts it, drives it, stops it, and compares both ends.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use crate::addresses::{self, Leak};
use crate::backend::Backend;
use crate::broker;
use crate::digits::grouped;
use crate::load::Load;
use crate::process::Running;
use crate::programs::Programs;
use crate::records::Records;
use crate::varnishd::Varnishd;
use crate::wait;

/// The VCL of the demo.
const VCL: &str = include_str!("../../examples/demo.vcl");

/// librdkafka's mock forgets all but the last 5 MiB of a partition: 32 hold some 200,000 lines, should the sink lag.
const PARTITIONS: u16 = 32;

/// For the last lines to be acknowledged. Kafka is on the same machine.
const ACKNOWLEDGE: Duration = Duration::from_secs(60);

/// For varnishd to stop; its child waits up to 10 s for Kafka.
const STOP: Duration = Duration::from_secs(30);

/// For the last lines to be in files: the group's first balance takes seconds, closing a file two.
const FILES: Duration = Duration::from_secs(120);

/// What to run.
#[derive(Debug)]
pub struct Pipeline<'a> {
    /// The programs.
    pub programs: &'a Programs,
    /// Where everything is written. Must exist, and be empty.
    pub directory: &'a Path,
    /// How many requests.
    pub requests: u64,
    /// Decides what the requests look like.
    pub seed: u64,
    /// Set from elsewhere, it ends everything early.
    pub stop: &'a AtomicBool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Now doing something else.
    Step(&'static str),
    /// So many requests were answered.
    Answered(u64),
    /// So many records are in files.
    Records(u64),
}

/// What came out.
#[derive(Debug)]
pub struct Report {
    /// Requests that the load sent, and Varnish answered.
    pub sent: u64,
    /// Requests that varnishd counted (`MAIN.client_req`).
    pub counted: u64,
    /// Times that a request was resumed from the waiting list of a page that another one was fetching already
    /// (`MAIN.busy_wakeup`). varnishd adds it to `counted` a second time then, unless it is for an ESI include.
    pub resumed: u64,
    /// Lines rendered (`KAFKALOG.webrequest.lines`).
    pub lines: u64,
    /// Lines that Kafka acknowledged (`KAFKALOG.webrequest.acknowledged`).
    pub acknowledged: u64,
    /// Records in files.
    pub records: u64,
    /// Files.
    pub files: usize,
    /// Requests without a record.
    pub lost: u64,
    /// Records beyond the first of a request, and those of no request that was sent.
    pub doubled: u64,
    /// Client addresses in what was written.
    pub leaks: Vec<Leak>,
    /// Bytes that were searched for them.
    pub searched: usize,
    /// How long the load took.
    pub load: Duration,
    /// One of the records.
    pub sample: Option<Value>,
}

impl Report {
    /// Whether each request has its record, once, and no address got out.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.leaks.is_empty()
    }

    /// The table that the demo prints.
    #[must_use]
    pub fn table(&self) -> String {
        let rows = [
            ("requests counted by varnishd", self.counted),
            ("lines rendered", self.lines),
            ("messages acknowledged", self.acknowledged),
            ("records in files", self.records),
            ("lost", self.lost),
            ("doubled", self.doubled),
            ("client addresses found", self.leaks.len() as u64),
        ];
        rows.iter().fold(String::new(), |mut table, (name, value)| {
            let _ = writeln!(table, "  {name:<30}{:>12}", grouped(*value));
            table
        })
    }

    /// Why varnishd's number may be larger than that of the lines.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        (self.counted > self.lines).then(|| {
            format!(
                "varnishd counts a request again when it waited for another one's fetch (MAIN.busy_wakeup: {}).",
                self.resumed
            )
        })
    }
}

impl Pipeline<'_> {
    /// Runs it. All that was started has ended when this returns.
    ///
    /// What may be looked at afterwards: `store/` with the files, `output/` with what the programs printed,
    /// and their configurations.
    ///
    /// # Errors
    ///
    /// When a program fails or takes too long. Lost or doubled records are no error but a [`Report`].
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Report> {
        let store = self.directory.join("store");
        let output = self.directory.join("output");
        for directory in [&store, &output] {
            fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        }

        progress(Progress::Step("starting Kafka, the sink, the backend and varnishd"));
        let (mut broker, bootstrap) = broker::start(self.programs, "webrequest_text", PARTITIONS, &output, self.stop)?;
        let mut sink = self.start_sink(&bootstrap, &store, &output)?;
        let backend = Backend::start()?;
        let mut varnishd = self.start_varnishd(&bootstrap, &backend, &output)?;

        progress(Progress::Step("sending requests"));
        let load = Load { address: varnishd.address(), first: 0, requests: self.requests, seed: self.seed };
        let began = Instant::now();
        let sent = self.drive(&load, progress)?;
        let load = began.elapsed();

        progress(Progress::Step("waiting until Kafka has acknowledged"));
        let [counted, lines, acknowledged, resumed] = self.settle(&mut varnishd)?;
        progress(Progress::Step("stopping varnishd"));
        varnishd.stop(STOP)?;

        progress(Progress::Step("waiting until the sink's files hold them"));
        let mut records = Records::new(&store);
        let complete = wait::until("all records in files", FILES, self.stop, || {
            broker.check()?;
            sink.check()?;
            records.read_new()?;
            progress(Progress::Records(records.count));
            Ok((records.count >= lines).then_some(()))
        });
        // Records that stay away are what the report is for.
        if self.stop.load(Ordering::Relaxed) {
            complete?;
        }
        progress(Progress::Step("stopping the sink and Kafka"));
        sink.terminate(STOP)?;
        broker.terminate(STOP)?;

        progress(Progress::Step("comparing"));
        records.read_new()?;
        let listening = [bootstrap, backend.address().to_string(), varnishd.address().to_string()];
        let found = addresses::search(&[&store, &output], &listening)?;
        let (lost, doubled) = compare(&sent, &records);
        Ok(Report {
            sent: sent.len() as u64,
            counted,
            resumed,
            lines,
            acknowledged,
            records: records.count,
            files: records.files(),
            lost,
            doubled,
            leaks: found.leaks,
            searched: found.bytes,
            load,
            sample: records.sample,
        })
    }

    fn start_sink(&self, bootstrap: &str, store: &Path, output: &Path) -> anyhow::Result<Running> {
        let file = self.directory.join("kafkalog-sink.toml");
        let text = format!(
            r#"[kafka]
bootstrap = ["{bootstrap}"]
# The mock's members wait for each other as long as a session lasts.
properties = {{ "session.timeout.ms" = "6000" }}

[store]
url = "file://{}"

[[table]]
name = "webrequest"
topics = ["webrequest_text"]
rotate = {{ every = "2s" }}
"#,
            store.display()
        );
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let mut command = Command::new(self.programs.sink());
        command.args(["run", "--config"]).arg(&file);
        Running::start("kafkalog-sink", &mut command, output)
    }

    fn start_varnishd(&self, bootstrap: &str, backend: &Backend, output: &Path) -> anyhow::Result<Varnishd> {
        let file = self.directory.join("kafkalog.toml");
        let text = format!(
            r#"[kafka]
bootstrap = ["{bootstrap}"]

[[stream]]
name = "webrequest"
topic = "webrequest_text"
format = "webrequest"
"#
        );
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let vcl = VCL
            .replace("BACKEND_HOST", &backend.address().ip().to_string())
            .replace("BACKEND_PORT", &backend.address().port().to_string())
            .replace("CONFIGURATION", &file.display().to_string());
        Varnishd::start(self.programs, &vcl, self.directory, output, self.stop)
    }

    /// Runs the load, and tells how far it is meanwhile.
    fn drive(&self, load: &Load, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Vec<u64>> {
        let answered = AtomicU64::new(0);
        thread::scope(|scope| {
            let driver = thread::Builder::new()
                .name("load".into())
                .spawn_scoped(scope, || load.run(&answered, self.stop))
                .context("starting a thread")?;
            while !driver.is_finished() {
                progress(Progress::Answered(answered.load(Ordering::Relaxed)));
                thread::sleep(Duration::from_millis(50));
            }
            progress(Progress::Answered(answered.load(Ordering::Relaxed)));
            driver.join().map_err(|_| anyhow!("the load panicked"))?
        })
    }

    /// Requests counted, lines, acknowledged lines, and requests resumed, once these have caught up.
    fn settle(&self, varnishd: &mut Varnishd) -> anyhow::Result<[u64; 4]> {
        let mut last = [0; 4];
        let settled = wait::until("every line to be acknowledged", ACKNOWLEDGE, self.stop, || {
            let counters = varnishd.counters()?;
            let names = [
                "MAIN.client_req",
                "KAFKALOG.webrequest.lines",
                "KAFKALOG.webrequest.acknowledged",
                "MAIN.busy_wakeup",
            ];
            last = names.map(|name| counters.get(name).copied().unwrap_or(0));
            let [counted, lines, acknowledged, _] = last;
            Ok((counted >= self.requests && lines >= self.requests && acknowledged == lines).then_some(last))
        });
        settled.with_context(|| {
            let [counted, lines, acknowledged, _] = last;
            format!("of {} requests, {counted} counted, {lines} lines, {acknowledged} acknowledged", self.requests)
        })
    }
}

/// Requests without a record, and records without a request of their own.
fn compare(sent: &[u64], records: &Records) -> (u64, u64) {
    let lost = sent.iter().filter(|number| !records.seen.contains_key(number)).count() as u64;
    let matched = sent.len() as u64 - lost;
    (lost, records.count - matched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_doubled_do_not_make_up_for_each_other() {
        let mut records = Records::new(Path::new("/"));
        records.seen = [(0, 1), (1, 2), (9, 1)].into();
        records.count = 5;
        records.unnumbered = 1;
        // 2 is lost; 1 came twice, 9 was not sent, and one has no number.
        assert_eq!(compare(&[0, 1, 2], &records), (1, 3));
    }
}
