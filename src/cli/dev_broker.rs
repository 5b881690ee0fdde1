//! `kafkalog dev-broker`: a Kafka to try things with.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use kafkalog::producer::mock::MockCluster;

/// librdkafka's mock cluster: in memory, in the clear, forgets all but the last 5 MB of a partition.
#[derive(Debug, clap::Args)]
pub(super) struct DevBroker {
    /// How many brokers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=20))]
    brokers: u16,
    /// Partitions of topics that are named without a number; others are created with 4 when they are first asked for
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    partitions: u16,
    /// A topic to create, with its number of partitions
    #[arg(long = "topic", value_name = "NAME[:PARTITIONS]")]
    topics: Vec<Topic>,
    /// Listen on this port, and further brokers on the next ones [default: free ones]
    #[arg(long, value_name = "P")]
    port: Option<u16>,
    /// End when standard input does, and so with the program that started this one
    #[arg(long)]
    until_stdin_closes: bool,
}

/// `NAME[:PARTITIONS]`
#[derive(Debug, Clone)]
struct Topic {
    name: String,
    partitions: Option<u16>,
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, partitions) = match text.split_once(':') {
            Some((name, count)) => match count.parse() {
                Ok(count @ 1..=1000) => (name, Some(count)),
                _ => return Err(format!("`{count}` is no number of partitions, expected 1 to 1000")),
            },
            None => (text, None),
        };
        if name.is_empty() {
            return Err("the topic has no name".to_owned());
        }
        Ok(Self { name: name.to_owned(), partitions })
    }
}

impl DevBroker {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let stop = super::stop_flag()?;
        let cluster = MockCluster::start(self.brokers).context("starting the mock cluster")?;
        for topic in &self.topics {
            let partitions = topic.partitions.unwrap_or(self.partitions);
            cluster.create_topic(&topic.name, partitions).with_context(|| format!("creating topic {}", topic.name))?;
        }
        let bootstrap = match self.port {
            Some(port) => relay_all(&cluster, port)?,
            None => cluster.bootstrap(),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "bootstrap: {bootstrap}").and_then(|()| out.flush()).context("writing to standard output")?;
        if self.until_stdin_closes {
            let stop = Arc::clone(&stop);
            spawn(move || {
                // An error is an end as well.
                let _ = io::copy(&mut io::stdin(), &mut io::sink());
                stop.store(true, Ordering::Relaxed);
            })?;
        }
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Puts a relay on the wanted ports before the mock's, which takes any that are free, and makes it advertise those.
fn relay_all(cluster: &MockCluster, first: u16) -> anyhow::Result<String> {
    let mut bootstrap = Vec::new();
    for (index, target) in (0..).zip(cluster.bootstrap().split(',')) {
        let port = first.checked_add(index).context("there is no such port")?;
        let target: SocketAddr = target.parse().with_context(|| format!("reading the broker's address {target}"))?;
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("listening on port {port}"))?;
        cluster.advertise(index + 1, port).context("advertising the port")?;
        spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(broker) = TcpStream::connect(target) {
                    // A connection that cannot be set up is closed, and the client tries again.
                    let _ = join(client, broker);
                }
            }
        })?;
        bootstrap.push(format!("127.0.0.1:{port}"));
    }
    Ok(bootstrap.join(","))
}

fn join(client: TcpStream, broker: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    for (mut from, mut to) in [(client.try_clone()?, broker.try_clone()?), (broker, client)] {
        spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        })?;
    }
    Ok(())
}

fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("dev-broker".into()).spawn(body).map(drop)
}
