//! A round of the live benchmark: a varnishd under load, with the module or without it.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kafkalog_tests::backend::Backend;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::varnishd::Varnishd;
use kafkalog_tests::{broker, wait};

use crate::cores::Cores;
use crate::load::Load;
use crate::threads::{self, Times};
use crate::traffic;

/// The one stream.
const CONFIGURATION: &str = "[kafka]\nbootstrap = [\"BOOTSTRAP\"]\n\n[[stream]]\nname = \"webrequest\"\n\
                             topic = \"webrequest_text\"\nformat = \"webrequest\"\n";

/// Of the topic.
const PARTITIONS: u16 = 8;

/// Requests that are made beforehand and sent again and again: making them would take more time than sending them.
const TEXTS: u64 = 1000;

/// For the last lines to be acknowledged.
const ACKNOWLEDGE: Duration = Duration::from_secs(60);

/// For programs to end.
const STOP: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Live<'a> {
    /// The programs.
    pub programs: &'a Programs,
    /// Requests that are timed. A tenth more is sent before them.
    pub requests: u64,
    /// Connections of the load.
    pub connections: u64,
    /// Requests in flight on each.
    pub in_flight: u64,
    /// Keeps the module and Kafka away from the cores of varnishd and the load.
    pub cores: Option<Cores>,
    /// Set from elsewhere, it ends everything early.
    pub stop: &'a AtomicBool,
}

/// What a round found.
#[derive(Debug)]
pub struct Round {
    /// From the first request to the last answer.
    pub load: Duration,
    /// CPU time of the child's threads, until all is acknowledged.
    pub threads: Times,
    /// CPU nanoseconds of Kafka meanwhile, which would be on other machines.
    pub kafka: u64,
}

impl Round {
    /// CPU nanoseconds of the module's threads, or of all others.
    #[must_use]
    pub fn time(&self, ours: bool) -> u64 {
        self.threads.iter().filter(|(name, _)| threads::is_ours(name) == ours).map(|(_, time)| time).sum()
    }
}

impl Live<'_> {
    /// Runs a round in `work`, a new directory. All that was started has ended when this returns.
    ///
    /// # Errors
    ///
    /// When a program fails, or a line is lost.
    pub fn round(&self, with_module: bool, work: &Path) -> anyhow::Result<Round> {
        if let Some(cores) = self.cores {
            cores.serve()?;
        }
        let backend = Backend::start()?;
        let mut kafka = None;
        let (mut import, mut start) = ("", String::new());
        if with_module {
            let (running, bootstrap) = broker::start(self.programs, "webrequest_text", PARTITIONS, work, self.stop)?;
            kafka = Some(running);
            let file = work.join("kafkalog.toml");
            fs::write(&file, CONFIGURATION.replace("BOOTSTRAP", &bootstrap))
                .with_context(|| format!("writing {}", file.display()))?;
            import = "import kafkalog;";
            start = format!("kafkalog.start(\"{}\");", file.display());
        }
        let vcl = traffic::vcl(backend.address(), import, &start);
        let mut varnishd = Varnishd::start(self.programs, &vcl, work, work, self.stop)?;
        let child = varnishd.child()?;

        let texts: Vec<_> = (0..TEXTS)
            .map(|number| {
                let mut text = Vec::new();
                traffic::page(1, number, &mut text);
                text
            })
            .collect();
        let request = |number: u64, out: &mut Vec<u8>| out.extend_from_slice(&texts[(number % TEXTS) as usize]);
        let load = Load {
            address: varnishd.address(),
            connections: self.connections,
            in_flight: self.in_flight,
            stop: self.stop,
        };
        // The cache is filled, threads are started, and Kafka is connected to.
        let warm_up = (self.requests / 10).max(TEXTS);
        load.run(warm_up, request).context("warming up")?;
        if with_module {
            self.settle(&mut varnishd, warm_up)?;
        }
        if let Some(cores) = self.cores {
            cores.spare(child, false)?;
            kafka.as_ref().map_or(Ok(()), |kafka| cores.spare(kafka.id(), true))?;
        }
        let of_kafka = || -> anyhow::Result<u64> {
            let times = kafka.as_ref().map(|kafka| threads::times(kafka.id())).transpose()?;
            Ok(times.unwrap_or_default().values().sum())
        };
        let (before, kafka_before) = (threads::times(child)?, of_kafka()?);
        let taken = load.run(self.requests, request).context("sending requests")?;
        if with_module {
            self.settle(&mut varnishd, warm_up + self.requests)?;
        }
        let threads = threads::since(&before, &threads::times(child)?);
        let kafka_time = of_kafka()?.saturating_sub(kafka_before);
        if with_module != threads.keys().any(|name| threads::is_ours(name)) {
            bail!("threads of varnishd's child: {:?}", threads.keys());
        }
        varnishd.stop(STOP)?;
        if let Some(mut kafka) = kafka {
            kafka.terminate(STOP)?;
        }
        Ok(Round { load: taken, threads, kafka: kafka_time })
    }

    /// Waits until Kafka has acknowledged this many lines.
    fn settle(&self, varnishd: &mut Varnishd, lines: u64) -> anyhow::Result<()> {
        let mut last = [0; 3];
        let settled = wait::until("every line to be acknowledged", ACKNOWLEDGE, self.stop, || {
            let counters = varnishd.counters()?;
            let get = |name: &str| counters.get(name).copied().unwrap_or(0);
            let lost = counters.iter().filter(|(name, _)| name.starts_with("KAFKALOG.webrequest.lost_"));
            last = [
                get("KAFKALOG.webrequest.lines"),
                get("KAFKALOG.webrequest.acknowledged"),
                lost.map(|(_, count)| count).sum(),
            ];
            if last[2] > 0 {
                bail!("lines were lost");
            }
            Ok((last[1] >= lines).then_some(()))
        });
        settled.with_context(|| {
            let [numbered, acknowledged, lost] = last;
            format!("of {lines} requests, {numbered} lines, {acknowledged} acknowledged, {lost} lost")
        })
    }
}
