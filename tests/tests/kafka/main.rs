//! kafkalog with real Kafka clusters, from 0.8 to 4.x, found through ZooKeeper or by a list. Lines come from a recording, so that no
//! varnishd is needed and every one of them is known.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

mod absences;
mod feed;
mod kerberos;
mod live;
mod security;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafkalog_tests::messages::{Message, Reader};
use kafkalog_tests::oddities;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::servers::{self, Cluster, Options, Release};
use kafkalog_tests::topic::Topic;
use kafkalog_tests::wait;
use tempfile::TempDir;

use feed::Feed;

static STOP: AtomicBool = AtomicBool::new(false);

static KAFKALOG: LazyLock<PathBuf> = LazyLock::new(|| Programs::build().expect("the programs can be built").kafkalog());

static RECORDING: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kafka");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("the target directory can be written to");
    oddities::record(&directory).unwrap_or_else(|error| panic!("recording: {error:#}")).everyday
});

/// Clusters are large: one at a time.
static ONE: Mutex<()> = Mutex::new(());

const TOPIC: &str = "webrequest_text";

const PARTITIONS: u16 = 4;

/// For kafkalog to say what it is to say.
const SAY: Duration = Duration::from_secs(30);

/// A cluster with the topic, and a configuration that sends to it.
struct World {
    cluster: Cluster,
    work: TempDir,
    _one: MutexGuard<'static, ()>,
}

impl World {
    /// `None` where the release cannot be had.
    fn build(release: &str, brokers: u16, properties: &[(&str, &str)], scenario: &str) -> Option<Self> {
        Self::build_with(release, brokers, Self::options(properties), scenario)
    }

    /// What clusters have in common, with these properties of the brokers.
    fn options(properties: &[(&str, &str)]) -> Options {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Options { chroot: "/kafka/one".to_owned(), properties, ..Options::default() }
    }

    fn build_with(release: &str, brokers: u16, options: Options, scenario: &str) -> Option<Self> {
        let release = Release::named(release);
        let jars = servers::had(release, scenario)?;
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let work = tempfile::tempdir().unwrap();
        let cluster = Cluster::start(release, &jars, brokers, options, work.path(), &STOP).unwrap();
        cluster.create_topic(TOPIC, PARTITIONS, brokers.min(3), &[], &STOP).unwrap();
        Some(Self { cluster, work, _one: one })
    }

    /// A configuration with these lines in `[kafka]`.
    fn configure(&self, kafka: &str) -> PathBuf {
        let file = self.work.path().join("kafkalog.toml");
        let text = format!(
            "host = \"cp1\"\n[kafka]\n{kafka}\n[[stream]]\nname = \"webrequest\"\ntopic = \"{TOPIC}\"\nformat = \"webrequest\"\n"
        );
        fs::write(&file, text).unwrap();
        file
    }

    fn by_zookeeper(&self) -> String {
        format!("zookeeper = \"{}\"", self.cluster.connect_string())
    }

    fn by_list(&self) -> String {
        let brokers: Vec<_> = self.cluster.bootstrap().split(',').map(|broker| format!("\"{broker}\"")).collect();
        format!("bootstrap = [{}]", brokers.join(", "))
    }

    /// All messages of the topic.
    fn messages(&self) -> Vec<Message> {
        Reader::new(self.cluster.client(), TOPIC, PARTITIONS).unwrap().read_to_end(&STOP).unwrap()
    }
}

/// Runs kafkalog with a configuration to its end.
fn kafkalog(command: &str, configuration: &Path, arguments: &[&str]) -> Output {
    let mut kafkalog = Command::new(&*KAFKALOG);
    kafkalog.args([command, "--config"]).arg(configuration).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How many lines the recording gives.
fn lines(configuration: &Path) -> usize {
    let recording = RECORDING.display().to_string();
    let output = kafkalog("replay", configuration, &["-r", &recording, "--stdout", "webrequest"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count()
}

#[test]
fn every_release_takes_every_line() {
    for release in Release::all() {
        let scenario = format!("every_release_takes_every_line ({})", release.name);
        let Some(world) = World::build(&release.name, 1, &[], &scenario) else { continue };
        let by = if release.has_zookeeper() { world.by_zookeeper() } else { world.by_list() };
        let configuration = world.configure(&by);

        let check = kafkalog("check", &configuration, &[]);
        let said = text(&check.stdout);
        assert!(check.status.success(), "Kafka {}:\n{said}{}", release.name, text(&check.stderr));
        assert!(said.contains(&format!("✓ topic {TOPIC}: {PARTITIONS} partitions")), "{said}");
        assert_eq!(
            said.contains("keeps the numbers of lines"),
            release.has_headers(),
            "Kafka {}: {said}",
            release.name
        );

        let brokers = kafkalog("brokers", &configuration, &[]);
        match release.has_zookeeper() {
            true => {
                let line = format!("1\t{}\t", world.cluster.bootstrap());
                assert!(text(&brokers.stdout).starts_with(&line), "{brokers:?}");
            }
            false => assert!(!brokers.status.success() && text(&brokers.stderr).contains("no kafka.zookeeper")),
        }

        let replay = kafkalog("replay", &configuration, &["-r", &RECORDING.display().to_string()]);
        let log = text(&replay.stderr);
        assert!(replay.status.success(), "Kafka {}: {log}", release.name);
        assert_eq!(log.contains("older than 0.11"), !release.has_headers(), "Kafka {}: {log}", release.name);
        let count = lines(&configuration);
        let messages = world.messages();
        assert_eq!(messages.len(), count, "Kafka {}", release.name);
        for Message { payload: line, headers, .. } in messages {
            assert!(line.starts_with(b"{\"") && line.ends_with(b"}"), "{}", text(&line));
            assert_eq!(headers.contains_key("kl-seq"), release.has_headers());
        }
    }
}

/// Looks at all lines of a topic: those of one boot, numbered without a gap, each once.
fn assert_exact(world: &World, log: &str) {
    let mut topic = Topic::new(&world.cluster.bootstrap(), TOPIC, PARTITIONS).unwrap();
    topic.read_to_end(&STOP).unwrap();
    let origins: Vec<_> = topic.sequences.iter().collect();
    let [(_, sequences)] = origins[..] else { panic!("{} boots: {log}", origins.len()) };
    let (count, last) = (sequences.len() as u64, sequences.last_key_value().map_or(0, |(last, _)| *last));
    let doubled: Vec<_> = sequences.iter().filter(|(_, times)| **times > 1).map(|(number, _)| *number).collect();
    assert!(doubled.is_empty(), "{} lines are there twice, the first {:?}: {log}", doubled.len(), doubled.first());
    assert_eq!(count, last + 1, "lines are missing: {log}");
    let said = format!("\"lines\":{count},\"acknowledged\":{count},\"lost\":0");
    assert!(log.contains(&said), "{said}: {log}");
}

/// Lines a second, for scenarios that are part of every test run, and for the long ones.
fn rate() -> f64 {
    if is_long() { 10_000.0 } else { 2_000.0 }
}

/// Whether scenarios take as long as they would before a release: `KAFKALOG_LONG=1`.
fn is_long() -> bool {
    std::env::var_os("KAFKALOG_LONG").is_some()
}

fn feed(configuration: &Path) -> Feed {
    Feed::start(&KAFKALOG, configuration, &RECORDING, lines(configuration), rate())
}

/// Ends the feed and looks at what arrived.
fn finish(world: &World, feed: Feed) {
    let log = feed.log();
    let (status, rounds) = feed.finish();
    let said = fs::read_to_string(log).unwrap();
    assert!(status.success() && rounds > 0, "{status}: {said}");
    assert_exact(world, &said);
}

fn pause(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

#[test]
fn brokers_may_have_ipv6_addresses() {
    let properties = [
        ("listeners", "PLAINTEXT://LISTENER,SIX://IPV6"),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,SIX:PLAINTEXT"),
        ("inter.broker.listener.name", "PLAINTEXT"),
    ];
    let options = Options { java: "-Djava.net.preferIPv4Stack=false".to_owned(), ..World::options(&properties) };
    let Some(world) = World::build_with("3.9", 1, options, "brokers_may_have_ipv6_addresses") else { return };
    let configuration = world.configure(&format!("{}\nlistener = \"SIX\"", world.by_zookeeper()));
    let brokers = kafkalog("brokers", &configuration, &[]);
    assert!(text(&brokers.stdout).starts_with("1\t[::1]:"), "{brokers:?}");
    let replay = kafkalog("replay", &configuration, &["-r", &RECORDING.display().to_string()]);
    assert!(replay.status.success(), "{}", text(&replay.stderr));
    assert_eq!(world.messages().len(), lines(&configuration));
    assert_exact(&world, &text(&replay.stderr));
}

#[test]
fn zookeeper_may_be_away() {
    let Some(mut world) = World::build("3.9", 1, &[], "zookeeper_may_be_away") else { return };
    let configuration = world.configure(&world.by_zookeeper());
    let zookeeper = &mut world.cluster.zookeepers[0];
    zookeeper.kill().unwrap();
    let feed = feed(&configuration);
    let said = |what: &str| wait::until(what, SAY, &STOP, || Ok(feed.said().contains(what).then_some(()))).unwrap();
    said("no ZooKeeper server answers");
    zookeeper.start_again(&STOP).unwrap();
    said("the topic was found");
    // For longer than a session lasts; nobody needs it now.
    zookeeper.kill().unwrap();
    pause(15);
    zookeeper.start_again(&STOP).unwrap();
    pause(2);
    finish(&world, feed);
}

#[test]
fn all_brokers_are_replaced() {
    // The last release before Kafka's own program to move partitions moved elsewhere.
    let Some(mut world) = World::build("2.8", 3, &[], "all_brokers_are_replaced") else { return };
    let configuration = world.configure(&world.by_zookeeper());
    let feed = feed(&configuration);
    pause(2);
    for id in 4..=6 {
        world.cluster.add_broker(id).unwrap();
    }
    world.cluster.await_brokers(6, &STOP).unwrap();
    world.cluster.move_topic(TOPIC, PARTITIONS, &[4, 5, 6], &STOP).unwrap();
    for id in 1..=3 {
        world.cluster.stop_broker(id).unwrap();
    }
    pause(if is_long() { 60 } else { 5 });
    finish(&world, feed);
}

#[test]
fn what_fails_is_counted() {
    let Some(world) = World::build("2.8", 1, &[], "what_fails_is_counted") else { return };
    let replay = |configuration: &Path| {
        let output = kafkalog("replay", configuration, &["-r", &RECORDING.display().to_string()]);
        (output.status.success(), text(&output.stderr))
    };
    let to = |topic: &str, more: &str| {
        let configuration = world.configure(&format!("{}\n{more}", world.by_list()));
        let text = fs::read_to_string(&configuration).unwrap().replace(TOPIC, topic);
        fs::write(&configuration, text).unwrap();
        configuration
    };
    let all = lines(&world.configure(&world.by_list()));

    world.cluster.create_topic("small", 1, 1, &[("max.message.bytes", "2000")], &STOP).unwrap();
    // Each message by itself, since the limit is that of a batch.
    let (done, said) = replay(&to("small", "properties = { \"batch.num.messages\" = 1 }"));
    assert!(!done && said.contains("lines are lost: raise message.max.bytes") && said.contains("too_large="), "{said}");
    let lost: usize = said.split("too_large=").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok()).unwrap();
    assert!(lost > 0 && lost < all, "{lost} of {all}");
    assert!(said.contains(&format!("\"acknowledged\":{},\"lost\":{lost},", all - lost)), "{said}");

    let missing = to("missing", "properties = { \"topic.metadata.propagation.max.ms\" = 2000 }");
    let check = kafkalog("check", &missing, &[]);
    assert!(!check.status.success() && text(&check.stdout).contains("✗ topic missing: UnknownTopic"), "{check:?}");
    let (done, said) = replay(&missing);
    assert!(!done && said.contains(&format!("\"lost\":{all},\"causes\":\"unknown_topic={all}\"")), "{said}");

    // A third of what there is, a second.
    let quota = [
        "--alter",
        "--add-config",
        "producer_byte_rate=200000",
        "--entity-type",
        "clients",
        "--entity-name",
        "kafkalog",
    ];
    world.cluster.run("kafka.admin.ConfigCommand", &quota).unwrap();
    let feed = feed(&world.configure(&world.by_list()));
    pause(1);
    let more = ["--alter", "--topic", TOPIC, "--partitions", "6"];
    world.cluster.run("kafka.admin.TopicCommand", &more).unwrap();
    pause(2);
    let log = feed.log();
    // Of those that came in between, none is in a new partition.
    finish(&world, feed);
    assert!(fs::read_to_string(log).unwrap().contains("Kafka throttles this client"), "the quota was not felt");
}
