//! Nodes that share a salt through a real ZooKeeper: each is a process of its own.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, SystemTime};
use std::{env, io};

use kafkalog::anonymize::Anonymizer;
use kafkalog::config::{Config, IpFunction, Source};
use kafkalog::message::SaltId;
use kafkalog::salt::Keeper;
use kafkalog::secret::{Protection, STACK, protect_at_best, scrub_stack};
use kafkalog_tests::backend::Backend;
use kafkalog_tests::load::Load;
use kafkalog_tests::process::Running;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::servers::{self, Release, ZooKeeper};
use kafkalog_tests::varnishd::Varnishd;
use kafkalog_tests::wait;
use siphasher::sip128::SipHasher24;
use tempfile::TempDir;

static STOP: AtomicBool = AtomicBool::new(false);

/// Names the configuration of a process that is a node.
const NODE: &str = "KAFKALOG_TEST_SALT_NODE";

/// What every node hashes: family and address.
const HASHED: [u8; 5] = [4, 192, 0, 2, 1];

const PERIOD: u64 = 60;

/// Who may write in ZooKeeper.
const DIGEST: &str = "zookeeper_digest = \"kafkalog:of the test\"\n";

/// For what takes a second or two.
const SOON: Duration = Duration::from_secs(30);

/// Not a test but a node: answers each line of its input with the salt's id and the hash of an address.
#[test]
fn node_of_a_cluster() {
    let Some(path) = env::var_os(NODE) else { return };
    // Its memory is to be searched.
    protect_at_best(Protection::Locked);
    let source = Source::read(Path::new(&path)).unwrap();
    let config = Config::parse(&source).unwrap();
    let keeper = Keeper::get(&config.anonymize, "node").unwrap();
    for _ in io::stdin().lines() {
        println!("{}", answer(&keeper));
        scrub_stack::<STACK>();
    }
}

fn answer(keeper: &Keeper) -> String {
    let held = keeper.salts().current();
    let Some(anonymizer) = Anonymizer::new(IpFunction::Hash, held.salt(), 64) else { return "NODE none".to_owned() };
    let mut hash = Vec::new();
    anonymizer.append("192.0.2.1".parse().unwrap(), &mut hash);
    format!("NODE {} {}", anonymizer.salt_id().unwrap(), String::from_utf8(hash).unwrap())
}

/// A node's process.
struct Node {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Node {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "node_of_a_cluster", "--nocapture"])
            .env(NODE, config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// The salt that it hashes under now, and the hash.
    fn ask(&mut self) -> Option<(SaltId, String)> {
        writeln!(self.input).unwrap();
        let line = self.output.by_ref().lines().map(Result::unwrap).find_map(|line| {
            let (_, answer) = line.split_once("NODE ")?;
            Some(answer.to_owned())
        });
        let line = line.expect("the node answers");
        let (id, hash) = line.split_once(' ')?;
        Some((id.parse().unwrap(), hash.to_owned()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A ZooKeeper, and the configuration of those who share a salt in it.
struct World {
    zookeeper: ZooKeeper,
    work: TempDir,
}

impl World {
    fn build(scenario: &str) -> Option<Self> {
        let jars = servers::had(Release::named("3.9"), scenario)?;
        let work = tempfile::tempdir().unwrap();
        let zookeeper = ZooKeeper::start(&jars, work.path(), &STOP).unwrap();
        let world = Self { zookeeper, work };
        world.configure("k.toml", "cluster.key", [0x5a; 32]);
        Some(world)
    }

    fn configure(&self, name: &str, key: &str, bytes: [u8; 32]) {
        let key = self.work.path().join(key);
        fs::write(&key, bytes).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "[anonymize]\nzookeeper = \"{}/kafkalog\"\n{DIGEST}cluster_key = \"{}\"\nrotate = \"{PERIOD}s\"\n\
             [[stream]]\nname = \"w\"\noutput = \"file:/dev/null\"\nformat = \"ncsa\"\n",
            self.zookeeper.address(),
            key.display()
        );
        fs::write(self.work.path().join(name), text).unwrap();
    }

    fn node(&self) -> Node {
        Node::start(&self.work.path().join("k.toml"))
    }
}

/// Waits until all nodes have the same shared salt, and one that `is_wanted`.
fn agree(nodes: &mut [Node], limit: Duration, is_wanted: impl Fn(SaltId) -> bool) -> (SaltId, String) {
    wait::until("the nodes to agree", limit, &STOP, || {
        let answers: Vec<_> = nodes.iter_mut().map(Node::ask).collect();
        let Some(first @ (id, _)) = answers[0].clone() else { return Ok(None) };
        let do_agree = answers.iter().all(|answer| answer.as_ref() == Some(&first));
        Ok((do_agree && id.generation.is_some() && is_wanted(id)).then_some(first))
    })
    .unwrap()
}

/// Seconds of the current minute.
fn into_the_epoch() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() % PERIOD
}

/// Waits for a part of the minute in which nothing changes.
fn wait_for_calm() {
    while !(1..30).contains(&into_the_epoch()) {
        thread::sleep(Duration::from_millis(100));
    }
}

/// Hands over all memory of a process that can be written to, in pieces.
fn memory(node: &Node, mut look: impl FnMut(&[u8])) {
    let pid = node.child.id();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let mut words = line.split(' ');
        let (range, access) = (words.next().unwrap(), words.next().unwrap());
        if !access.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let bound = |text| u64::from_str_radix(text, 16).unwrap();
        let (mut at, to) = (bound(from), bound(to));
        while at < to {
            // Pieces overlap, so that nothing hides on their borders.
            let length = (to - at).min(4 << 20);
            let mut bytes = vec![0; length as usize];
            if memory.read_exact_at(&mut bytes, at).is_ok() {
                look(&bytes);
            }
            at += if length == to - at { length } else { length - 32 };
        }
    }
}

/// The keys in a process's memory that give this hash.
fn keys(node: &Node, hash: &str) -> Vec<[u8; 16]> {
    let mut found = Vec::new();
    memory(node, |bytes| {
        for window in bytes.windows(16) {
            // Zeros, small numbers and addresses are no half of a random key.
            if window[6..8] == [0, 0] || window[14..16] == [0, 0] {
                continue;
            }
            let key: [u8; 16] = window.try_into().unwrap();
            let text: String = SipHasher24::new_with_key(&key)
                .hash(&HASHED)
                .as_bytes()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            if text == hash {
                found.push(key);
            }
        }
    });
    found
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Files below a directory that hold the bytes.
fn files_with(directory: &Path, wanted: &[u8]) -> usize {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(
            |path| {
                if path.is_dir() { files_with(&path, wanted) } else { holds(&fs::read(path).unwrap(), wanted).into() }
            },
        )
        .sum()
}

#[test]
fn nodes_agree_and_replace_each_other() {
    let Some(mut world) = World::build("nodes_agree_and_replace_each_other") else { return };
    Programs::build().unwrap();
    wait_for_calm();
    let mut nodes: Vec<_> = (0..3).map(|_| world.node()).collect();
    let first = agree(&mut nodes, SOON, |_| true);
    // A late joiner, and one in the place of one that was killed.
    nodes.push(world.node());
    let joined = agree(&mut nodes, SOON, |_| true);
    assert!(joined == first || joined.0.epoch > first.0.epoch);
    drop(nodes.remove(0));
    nodes.push(world.node());
    agree(&mut nodes, SOON, |_| true);

    // What people see of it.
    let kafkalog = Programs::build().unwrap().kafkalog();
    wait::until("the status to show the salt", SOON, &STOP, || {
        let (id, _) = agree(&mut nodes, SOON, |_| true);
        let configuration = world.work.path().join("k.toml");
        let status = Command::new(&kafkalog).args(["salt", "status", "--config"]).arg(configuration).output()?;
        let shown = String::from_utf8(status.stdout)?;
        // Unless a new epoch has begun meanwhile.
        let is_shown = shown.contains(&format!("salt {id}\tmembers ")) && shown.contains("node,node,node");
        Ok((status.status.success() && is_shown).then_some(()))
    })
    .unwrap();

    // Somebody with the key, but without the password.
    let text = fs::read_to_string(world.work.path().join("k.toml")).unwrap().replace(DIGEST, "");
    let outsider = world.work.path().join("outsider.toml");
    fs::write(&outsider, text).unwrap();
    let status = Command::new(&kafkalog).args(["salt", "status", "--config"]).arg(outsider).output().unwrap();
    let said = String::from_utf8(status.stderr).unwrap();
    assert!(!status.status.success() && said.contains("does not allow") && !said.contains("of the test"), "{said}");

    // Somebody with another key gets nothing, and does no harm.
    world.configure("stranger.toml", "stranger.key", [0x11; 32]);
    let mut stranger = Node::start(&world.work.path().join("stranger.toml"));
    thread::sleep(Duration::from_secs(3));
    let (ours, _) = agree(&mut nodes, SOON, |_| true);
    assert_ne!(stranger.ask().map(|(id, _)| id.digest), Some(ours.digest));
    drop(stranger);
    agree(&mut nodes, SOON, |_| true);

    // ZooKeeper goes away after the next salt was fetched, and the epoch changes.
    while into_the_epoch() < PERIOD - 4 {
        thread::sleep(Duration::from_millis(100));
    }
    let (before, _) = agree(&mut nodes, SOON, |_| true);
    world.zookeeper.kill().unwrap();
    let (after, _) = agree(&mut nodes, Duration::from_secs(PERIOD), |id| id.epoch > before.epoch);
    assert_eq!(after.epoch, before.epoch + 1);
    // It comes back, and all goes on as before.
    world.zookeeper.start_again(&STOP).unwrap();
    nodes.push(world.node());
    agree(&mut nodes, Duration::from_secs(PERIOD), |_| true);
}

#[test]
fn an_old_salt_is_nowhere() {
    let Some(world) = World::build("an_old_salt_is_nowhere") else { return };
    wait_for_calm();
    let mut nodes: Vec<_> = (0..2).map(|_| world.node()).collect();
    let (id, hash) = agree(&mut nodes, SOON, |_| true);
    // The searches find what is there: the salt in memory, its id on ZooKeeper's disk.
    let found: Vec<_> = nodes.iter().map(|node| keys(node, &hash)).collect();
    assert!(found.iter().all(|keys| !keys.is_empty()), "the search of memory finds nothing");
    let key = found[0][0];
    assert!(files_with(world.work.path(), id.to_string().as_bytes()) > 0, "the search of files finds nothing");

    // Half a minute of grace for late requests.
    agree(&mut nodes, Duration::from_secs(2 * PERIOD), |now| now.epoch > id.epoch);
    thread::sleep(Duration::from_secs(PERIOD / 2 + 3));
    agree(&mut nodes, SOON, |_| true);
    for node in &nodes {
        let mut copies = 0;
        // Any half of it would be too much.
        memory(node, |bytes| copies += usize::from(holds(bytes, &key[..8])) + usize::from(holds(bytes, &key[8..])));
        assert_eq!(copies, 0, "the old salt is in memory");
    }
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for wanted in [&key[..], digits.as_bytes()] {
        assert_eq!(files_with(world.work.path(), wanted), 0, "the salt is in a file");
    }
}

/// Requests on both sides of a boundary, without ZooKeeper to ask: each line has the salt of the epoch in which its request
/// started, and one that all nodes have.
#[test]
fn a_rotation_is_exact_to_the_record() {
    let Some(mut world) = World::build("a_rotation_is_exact_to_the_record") else { return };
    let programs = Programs::build().unwrap();
    let (work, backend) = (world.work.path().to_owned(), Backend::start().unwrap());
    let output = work.join("output");
    fs::create_dir(&output).unwrap();
    let vcl = include_str!("../../examples/demo.vcl")
        .replace("import kafkalog;", "")
        .replace("kafkalog.start(\"CONFIGURATION\");", "")
        .replace("BACKEND_HOST", &backend.address().ip().to_string())
        .replace("BACKEND_PORT", &backend.address().port().to_string());
    let varnishd = Varnishd::start(&programs, &vcl, &work, &output, &STOP).unwrap();
    let (lines, config) = (work.join("lines"), work.join("daemon.toml"));
    let text = fs::read_to_string(work.join("k.toml")).unwrap();
    let text = text
        .replace("/dev/null", lines.to_str().unwrap())
        .replace("format = \"ncsa\"", "line = '%{usec}t %h %{Kafkalog:salt_id}x'");
    fs::write(&config, format!("host = \"edge1\"\nvarnish.name = \"{}\"\n{text}", varnishd.directory().display()))
        .unwrap();
    while into_the_epoch() >= 20 {
        thread::sleep(Duration::from_millis(100));
    }
    let mut command = Command::new(programs.kafkalog());
    let mut daemon = Running::start("daemon", command.arg("run").arg("--config").arg(&config), &output).unwrap();
    // The next salt is there a few seconds before the boundary.
    while into_the_epoch() < PERIOD - 4 {
        thread::sleep(Duration::from_millis(100));
    }
    world.zookeeper.kill().unwrap();
    let mut sent = 0;
    while sent < 500 || into_the_epoch() >= PERIOD / 2 || into_the_epoch() < 3 {
        let load = Load { address: varnishd.address(), first: sent, requests: 250, seed: 3 };
        load.run(&AtomicU64::new(0), &STOP).unwrap();
        sent += 250;
    }
    daemon.terminate(SOON).unwrap();

    let lines = fs::read_to_string(lines).unwrap();
    let mut salts: BTreeMap<u64, BTreeSet<SaltId>> = BTreeMap::new();
    for line in lines.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [start, hash, salt] = words[..] else { panic!("{} words", words.len()) };
        assert!(hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "no hash");
        let (start, salt): (u64, SaltId) = (start.parse().unwrap(), salt.parse().unwrap());
        assert_eq!(salt.epoch, start / 1_000_000 / PERIOD, "started at {start}");
        assert!(salt.generation.is_some(), "all nodes have it: {salt}");
        salts.entry(salt.epoch).or_default().insert(salt);
    }
    assert_eq!(lines.lines().count() as u64, sent);
    assert!(salts.len() == 2 && salts.values().all(|salts| salts.len() == 1), "{salts:?}");
}
