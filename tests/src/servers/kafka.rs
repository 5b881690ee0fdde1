//! A cluster of Kafka.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::metadata::MetadataPartition;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::metadata::Metadata;
use super::ports::free as free_port;
use super::{Release, START, STOP, ZooKeeper, java, ports};
use crate::process::Running;
use crate::wait;

/// A cluster's id: any 16 bytes in base64.
const CLUSTER: &str = "a2Fma2Fsb2ctdGVzdHMtMQ";

/// For one question to a broker.
const ANSWER: Duration = Duration::from_secs(2);

/// After so long, ZooKeeper forgets a broker that was killed.
const SESSION: Duration = Duration::from_secs(3);

/// What a cluster is to be like.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Below which path of ZooKeeper it registers, such as `/kafka/eqiad`.
    pub chroot: String,
    /// More properties of the brokers. `LISTENER` in a value stands for a broker's address and port, `SECOND` for the address of
    /// another one, and `IPV6` for the second port at `[::1]`; clients of [`Cluster::client`] come to the first, in the clear.
    pub properties: Vec<(String, String)>,
    /// More options of the brokers' Java, which go before the usual ones.
    pub java: String,
    /// How many ZooKeepers there are, if they are an ensemble.
    pub ensemble: u16,
}

/// Brokers with what they need, numbered from 1. All end when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    release: Release,
    jars: PathBuf,
    work: PathBuf,
    options: Options,
    /// The ZooKeeper, for releases that have one, or all those of an ensemble.
    pub zookeepers: Vec<ZooKeeper>,
    brokers: BTreeMap<u16, Broker>,
    /// Those of the quorum, where there is no ZooKeeper. Later ones only join.
    voters: Vec<u16>,
    /// When brokers were killed that were not started again.
    killed: BTreeMap<u16, Instant>,
}

#[derive(Debug)]
struct Broker {
    port: u16,
    /// Of its part in the quorum, without a ZooKeeper; else of a second listener.
    second: u16,
    running: Option<Running>,
}

impl Drop for Broker {
    /// Its data go away with it: nothing is gained by waiting for a good end.
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            // It may have ended before.
            let _ = running.kill();
        }
    }
}

impl Cluster {
    /// Starts so many brokers in `work`, a directory of its own, and returns when all have found each other.
    ///
    /// # Errors
    ///
    /// When one does not start in time.
    pub fn start(
        release: &Release,
        jars: &Path,
        brokers: u16,
        options: Options,
        work: &Path,
        stop: &AtomicBool,
    ) -> anyhow::Result<Self> {
        ports::retried(|| Self::try_start(release, jars, brokers, options.clone(), work, stop))
    }

    fn try_start(
        release: &Release,
        jars: &Path,
        brokers: u16,
        options: Options,
        work: &Path,
        stop: &AtomicBool,
    ) -> anyhow::Result<Self> {
        // What an attempt on other ports has left would be in the way.
        for server in (1..=brokers).map(|id| format!("broker-{id}")).chain(["zookeeper".to_owned()]) {
            match fs::remove_dir_all(work.join(&server)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {server}"));
                }
                _ => (),
            }
        }
        let zookeepers = match (release.has_zookeeper(), options.ensemble) {
            (false, _) => Vec::new(),
            (true, 0) => vec![ZooKeeper::start(jars, work, stop)?],
            (true, servers) => ZooKeeper::ensemble(jars, servers, work, stop)?,
        };
        let mut cluster = Self {
            release: release.clone(),
            jars: jars.to_owned(),
            work: work.to_owned(),
            options,
            zookeepers,
            brokers: BTreeMap::new(),
            // Of two, both would have to be there.
            voters: (1..=if brokers < 3 { 1 } else { brokers }).collect(),
            killed: BTreeMap::new(),
        };
        for id in 1..=brokers {
            let broker = Broker { port: free_port()?, second: free_port()?, running: None };
            cluster.brokers.insert(id, broker);
        }
        for id in 1..=brokers {
            cluster.start_broker(id)?;
        }
        cluster.await_brokers(brokers.into(), stop)?;
        Ok(cluster)
    }

    /// The addresses of all brokers, running or not: `host:port,…`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<_> = self.brokers.values().map(|broker| format!("127.0.0.1:{}", broker.port)).collect();
        addresses.join(",")
    }

    /// What a client of ZooKeeper connects to, with the path.
    ///
    /// # Panics
    ///
    /// When the release has no ZooKeeper.
    #[must_use]
    pub fn connect_string(&self) -> String {
        let addresses: Vec<_> = self.zookeepers.iter().map(ZooKeeper::address).collect();
        format!("{}{}", addresses.join(","), self.options.chroot)
    }

    /// Starts a broker that was stopped or killed, with the same data on the same port. Where ZooKeeper still takes a killed one
    /// for alive, and another one would be refused, that is waited for; it must be there meanwhile.
    ///
    /// # Errors
    ///
    /// When there is no such broker, or the system does not start it.
    pub fn start_broker(&mut self, id: u16) -> anyhow::Result<()> {
        let work = self.work.join(format!("broker-{id}"));
        fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
        let file = work.join("server.properties");
        fs::write(&file, self.properties(id, &work)?).with_context(|| format!("writing {}", file.display()))?;
        if !self.release.has_zookeeper() && !work.join("data").exists() {
            self.format(id, &work, &file)?;
        }
        if let Some(killed) = self.killed.remove(&id)
            && self.release.has_zookeeper()
        {
            thread::sleep((killed + SESSION).saturating_duration_since(Instant::now()));
        }
        let mut command = java(&self.jars, &work, "kafka.Kafka")?;
        if !self.options.java.is_empty() {
            command.env("_JAVA_OPTIONS", &self.options.java);
        }
        let running = Running::start(&format!("broker-{id}"), command.arg(&file), &work)?;
        self.broker(id)?.running = Some(running);
        Ok(())
    }

    /// Adds a broker with a new id on a new port.
    ///
    /// # Errors
    ///
    /// When the system does not start it.
    pub fn add_broker(&mut self, id: u16) -> anyhow::Result<()> {
        self.brokers.insert(id, Broker { port: free_port()?, second: free_port()?, running: None });
        self.start_broker(id)
    }

    /// Ends a broker with SIGKILL.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill(&mut self, id: u16) -> anyhow::Result<()> {
        self.broker(id)?.running.take().with_context(|| format!("broker {id} does not run"))?.kill()?;
        self.killed.insert(id, Instant::now());
        Ok(())
    }

    /// Ends a broker with SIGTERM: it gives its partitions to others first.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not end in time.
    pub fn stop_broker(&mut self, id: u16) -> anyhow::Result<()> {
        self.broker(id)?.running.take().with_context(|| format!("broker {id} does not run"))?.stop(STOP).map(drop)
    }

    /// Waits until each of the brokers that run knows of so many; of a release before 0.10, until one does.
    ///
    /// # Errors
    ///
    /// When one has ended, or that takes too long.
    pub fn await_brokers(&mut self, count: usize, stop: &AtomicBool) -> anyhow::Result<()> {
        let is_old = !self.release.tells_versions();
        let mut known = BTreeMap::new();
        let found = wait::until("Kafka's brokers", START, stop, || {
            for (id, broker) in &mut self.brokers {
                let Some(running) = &mut broker.running else { continue };
                running.check()?;
                known.insert(*id, Metadata::ask(broker.port));
            }
            let answers: Vec<_> = known.values().flatten().collect();
            let right = answers.iter().filter(|known| known.brokers.len() == count).count();
            // Old brokers know nobody before there is a topic, and hear of a new one only when leaders change.
            let suffices =
                if is_old { right > 0 || answers.iter().all(|known| known.is_empty()) } else { right == answers.len() };
            Ok((suffices && answers.len() == known.len()).then_some(()))
        });
        found.with_context(|| {
            let running = self.brokers.values().filter_map(|broker| broker.running.as_ref()?.output().ok());
            format!("what brokers know: {known:?}\n{}", running.collect::<String>())
        })
    }

    /// A client's configuration that the release understands.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap()).set("log_level", "2");
        if !self.release.tells_versions() {
            config.set("api.version.request", "false").set("broker.version.fallback", "0.8.2");
        }
        config
    }

    /// Creates a topic, and returns when every broker that runs knows leaders of all its partitions.
    ///
    /// # Errors
    ///
    /// When Kafka does not, or not in time.
    pub fn create_topic(
        &self,
        name: &str,
        partitions: u16,
        replication: u16,
        properties: &[(&str, &str)],
        stop: &AtomicBool,
    ) -> anyhow::Result<()> {
        if self.release.tells_versions() {
            let replication = TopicReplication::Fixed(replication.into());
            let mut topic = NewTopic::new(name, partitions.into(), replication);
            for (key, value) in properties {
                topic = topic.set(key, value);
            }
            let admin: AdminClient<DefaultClientContext> = self.client().create().context("starting a client")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
            let options = AdminOptions::new().operation_timeout(Some(START));
            let results = runtime.block_on(admin.create_topics([&topic], &options)).context("creating a topic")?;
            for result in results {
                result.map_err(|(_, code)| anyhow::anyhow!("creating the topic {name}: {code}"))?;
            }
        } else {
            let mut command = java(&self.jars, &self.work, "kafka.admin.TopicCommand")?;
            command.args(["--zookeeper", &self.connect_string(), "--create", "--topic", name]);
            command.args(["--partitions", &partitions.to_string(), "--replication-factor", &replication.to_string()]);
            for (key, value) in properties {
                command.args(["--config", &format!("{key}={value}")]);
            }
            // Brokers that listen may not be registered yet.
            wait::until(&format!("the topic {name} to be created"), START, stop, || {
                let output = command.output().context("creating a topic")?;
                Ok(output.status.success().then_some(()))
            })?;
        }
        wait::until("the topic's leaders", START, stop, || {
            let led = |broker: &Broker| {
                let metadata = Metadata::ask(broker.port).unwrap_or_default();
                let leaders =
                    metadata.leaders.get(name).map_or(0, |leaders| leaders.values().filter(|id| **id > 0).count());
                leaders == usize::from(partitions)
            };
            let mut running = self.brokers.values().filter(|broker| broker.running.is_some());
            Ok(running.all(led).then_some(()))
        })
    }

    /// Moves a topic's partitions to these brokers, and returns when they have and lead all of it. For releases from 2.4 to 3.2.
    ///
    /// # Errors
    ///
    /// When Kafka does not, or not in time.
    pub fn move_topic(&self, name: &str, partitions: u16, brokers: &[u16], stop: &AtomicBool) -> anyhow::Result<()> {
        let plan = self.work.join("plan.json");
        let partitions: Vec<_> = (0..partitions)
            .map(|partition| serde_json::json!({"topic": name, "partition": partition, "replicas": brokers}))
            .collect();
        let text = serde_json::json!({"version": 1, "partitions": partitions}).to_string();
        fs::write(&plan, text).with_context(|| format!("writing {}", plan.display()))?;
        let plan = plan.display().to_string();
        self.run("kafka.admin.ReassignPartitionsCommand", &["--execute", "--reassignment-json-file", &plan])?;
        let client: BaseProducer = self.client().create().context("starting a client")?;
        wait::until("the topic to be moved", START, stop, || {
            let Ok(metadata) = client.client().fetch_metadata(Some(name), ANSWER) else { return Ok(None) };
            let Some(topic) = metadata.topics().first() else { return Ok(None) };
            let has = |id: i32| brokers.iter().any(|broker| i32::from(*broker) == id);
            let moved = |partition: &MetadataPartition| {
                has(partition.leader())
                    && partition.isr().len() == brokers.len()
                    && partition.isr().iter().all(|id| has(*id))
            };
            Ok(topic.partitions().iter().all(moved).then_some(()))
        })
    }

    /// Runs one of the release's own programs on the cluster.
    ///
    /// # Errors
    ///
    /// When it fails, with what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = java(&self.jars, &self.work, program)?;
        let output = command.args(["--bootstrap-server", &self.bootstrap()]).args(arguments).output();
        let output = output.with_context(|| format!("running {program}"))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("{program}: {}: {}", output.status, String::from_utf8_lossy(&said));
        }
        Ok(())
    }

    /// Formats a broker's storage. Java takes a second for that: what it has made once is good for all brokers but for their ids.
    fn format(&self, id: u16, work: &Path, properties: &Path) -> anyhow::Result<()> {
        const CHECKPOINT: &str = "bootstrap.checkpoint";
        let data = work.join("data");
        let formatted = self.work.join(format!("broker-1/data/{CHECKPOINT}"));
        if formatted.exists() {
            let ids = format!("version=1\ncluster.id={CLUSTER}\nnode.id={id}\n");
            fs::create_dir_all(&data).with_context(|| format!("creating {}", data.display()))?;
            fs::copy(&formatted, data.join(CHECKPOINT)).with_context(|| format!("copying {}", formatted.display()))?;
            return fs::write(data.join("meta.properties"), ids).context("writing meta.properties");
        }
        let mut format = java(&self.jars, work, "kafka.tools.StorageTool")?;
        let format = format.args(["format", "-t", CLUSTER, "-c"]).arg(properties).output();
        let format = format.context("formatting storage")?;
        if !format.status.success() {
            bail!("formatting storage: {}", String::from_utf8_lossy(&format.stderr));
        }
        Ok(())
    }

    fn broker(&mut self, id: u16) -> anyhow::Result<&mut Broker> {
        self.brokers.get_mut(&id).with_context(|| format!("there is no broker {id}"))
    }

    fn properties(&self, id: u16, work: &Path) -> anyhow::Result<String> {
        let broker = self.brokers.get(&id).with_context(|| format!("there is no broker {id}"))?;
        let mut properties: BTreeMap<String, String> = BTreeMap::new();
        let mut set = |key: &str, value: String| properties.insert(key.to_owned(), value);
        set("log.dirs", work.join("data").display().to_string());
        for small in [
            "offsets.topic.num.partitions",
            "transaction.state.log.num.partitions",
            "num.recovery.threads.per.data.dir",
        ] {
            set(small, "1".to_owned());
        }
        for replication in ["offsets.topic.replication.factor", "transaction.state.log.replication.factor"] {
            set(replication, self.brokers.len().min(3).to_string());
        }
        set("transaction.state.log.min.isr", "1".to_owned());
        set("auto.create.topics.enable", "false".to_owned());
        set("group.initial.rebalance.delay.ms", "0".to_owned());
        set("controlled.shutdown.enable", "true".to_owned());
        if self.release.name == "0.8" {
            for (key, value) in [("host.name", "127.0.0.1"), ("advertised.host.name", "127.0.0.1")] {
                set(key, value.to_owned());
            }
            set("port", broker.port.to_string());
        } else {
            set("listeners", format!("PLAINTEXT://127.0.0.1:{}", broker.port));
        }
        if self.release.has_zookeeper() {
            set("broker.id", id.to_string());
            set("zookeeper.connect", self.connect_string());
            set("zookeeper.session.timeout.ms", SESSION.as_millis().to_string());
        } else {
            let quorum: Vec<_> = self
                .voters
                .iter()
                .filter_map(|id| Some(format!("{id}@127.0.0.1:{}", self.brokers.get(id)?.second)))
                .collect();
            set("node.id", id.to_string());
            set("controller.quorum.voters", quorum.join(","));
            set("controller.listener.names", "CONTROLLER".to_owned());
            set("broker.session.timeout.ms", "3000".to_owned());
            let mut listeners = format!("PLAINTEXT://127.0.0.1:{}", broker.port);
            let mut roles = "broker".to_owned();
            if self.voters.contains(&id) {
                listeners += &format!(",CONTROLLER://127.0.0.1:{}", broker.second);
                roles += ",controller";
            }
            set("process.roles", roles);
            set("listeners", listeners);
        }
        for (key, value) in &self.options.properties {
            let addresses = [
                ("LISTENER", format!("127.0.0.1:{}", broker.port)),
                ("SECOND", format!("127.0.0.1:{}", broker.second)),
                ("IPV6", format!("[::1]:{}", broker.second)),
            ];
            let value = addresses.iter().fold(value.clone(), |value, (name, address)| value.replace(name, address));
            set(key, value);
        }
        Ok(properties.iter().map(|(key, value)| format!("{key}={value}\n")).collect())
    }
}
