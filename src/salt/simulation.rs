//! The protocol under random orders of events, with a tree of nodes in memory: sessions expire, members start, stop and are cut
//! off, clocks move, and strangers write to the tree.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::cluster_key::{self, ClusterKey};
use super::member::{Member, Now, random_name};
use super::message;
use super::space::{Life, Node, Space, Trouble};
use super::table::{Clock, Missing, Salts, since_epoch};
use crate::anonymize::Salt;
use crate::counters::{Counter, SaltCounters};
use crate::message::SaltId;
use crate::zookeeper::SESSION;

const PERIOD: Duration = Duration::from_secs(3600);

/// A node of the tree: its content, and the session that it goes with.
type Leaf = (Node, Option<u64>);

/// What ZooKeeper holds, and everything that it was ever told.
#[derive(Default)]
struct Tree {
    nodes: BTreeMap<String, Leaf>,
    told: Vec<String>,
    operations: u64,
}

impl Tree {
    fn put(&mut self, path: &str, data: &str) {
        let version = self.nodes.get(path).map_or(0, |(node, _)| node.version + 1);
        self.nodes.insert(path.to_owned(), (Node { data: data.into(), version }, None));
    }

    fn expire(&mut self, session: u64) {
        self.nodes.retain(|_, (_, owner)| *owner != Some(session));
    }
}

/// A member's sight of the tree.
struct Session {
    tree: Rc<RefCell<Tree>>,
    number: u64,
    is_cut_off: bool,
}

impl Session {
    fn tree(&self) -> Result<std::cell::RefMut<'_, Tree>, Trouble> {
        if self.is_cut_off {
            return Err(Trouble("cut off".into()));
        }
        let mut tree = self.tree.borrow_mut();
        tree.operations += 1;
        Ok(tree)
    }
}

impl Space for Session {
    fn read(&mut self, path: &str, _watched: bool) -> Result<Option<Node>, Trouble> {
        Ok(self.tree()?.nodes.get(path).map(|(node, _)| node.clone()))
    }

    fn children(&mut self, path: &str, _watched: bool) -> Result<Vec<String>, Trouble> {
        let prefix = format!("{path}/");
        let tree = self.tree()?;
        let below = tree.nodes.range(prefix.clone()..).map_while(|(name, _)| name.strip_prefix(&prefix));
        Ok(below.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn create(&mut self, path: &str, data: &str, life: Life) -> Result<bool, Trouble> {
        let number = self.number;
        let mut tree = self.tree()?;
        let (above, _) = path.rsplit_once('/').expect("paths are absolute");
        if tree.nodes.contains_key(path) || !(above == super::member::EPOCHS || tree.nodes.contains_key(above)) {
            return Ok(false);
        }
        tree.told.push(data.to_owned());
        let owner = (life == Life::Ephemeral).then_some(number);
        tree.nodes.insert(path.to_owned(), (Node { data: data.into(), version: 0 }, owner));
        Ok(true)
    }

    fn write(&mut self, path: &str, data: &str, version: i32) -> Result<bool, Trouble> {
        let mut tree = self.tree()?;
        let is_there = tree.nodes.get(path).is_some_and(|(node, _)| node.version == version);
        if is_there {
            tree.told.push(data.to_owned());
            tree.put(path, data);
        }
        Ok(is_there)
    }

    fn delete(&mut self, path: &str) -> Result<(), Trouble> {
        self.tree()?.nodes.remove(path);
        Ok(())
    }
}

struct Host {
    member: Member,
    salts: Arc<Salts>,
    counters: Arc<SaltCounters>,
    session: Session,
    /// Stopped (SIGSTOP): it does nothing, and its session expires.
    is_stopped: bool,
}

/// A cluster, its ZooKeeper and its clock.
struct World {
    tree: Rc<RefCell<Tree>>,
    key: Arc<ClusterKey>,
    hosts: Vec<Host>,
    steady: Duration,
    unix: Duration,
    sessions: u64,
}

impl World {
    fn new(hosts: usize) -> Self {
        let unix = Duration::from_secs(since_epoch().as_secs() / PERIOD.as_secs() * PERIOD.as_secs() + 600);
        let mut world = Self {
            tree: Rc::default(),
            key: Arc::new(cluster_key::of(1)),
            hosts: Vec::new(),
            steady: Duration::ZERO,
            unix,
            sessions: 0,
        };
        (0..hosts).for_each(|_| world.start(world.key_of_cluster()));
        world
    }

    fn key_of_cluster(&self) -> Arc<ClusterKey> {
        Arc::clone(&self.key)
    }

    fn epoch(&self) -> u64 {
        self.unix.as_secs() / PERIOD.as_secs()
    }

    fn start(&mut self, key: Arc<ClusterKey>) {
        let salts = Arc::new(Salts::new(PERIOD, Clock::System, Missing::Drop));
        salts.turn(self.unix);
        let chance = self.hosts.len() as f64 / 7.0 % 1.0;
        let counters = Arc::new(SaltCounters::default());
        let mut member = Member::new(key, Arc::clone(&salts), "host".into(), Arc::clone(&counters), chance);
        member.begin_session(random_name().expect("there is chance"));
        self.sessions += 1;
        let session = Session { tree: Rc::clone(&self.tree), number: self.sessions, is_cut_off: false };
        self.hosts.push(Host { member, salts, counters, session, is_stopped: false });
    }

    /// The member's session is over; it begins another one when it can.
    fn expire(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        self.tree.borrow_mut().expire(host.session.number);
        self.sessions += 1;
        host.session.number = self.sessions;
        host.member.begin_session(random_name().expect("there is chance"));
    }

    fn kill(&mut self, index: usize) {
        let host = self.hosts.remove(index);
        self.tree.borrow_mut().expire(host.session.number);
    }

    fn step(&mut self, index: usize) {
        let now = Now { unix: self.unix, steady: self.steady };
        let host = &mut self.hosts[index];
        if !host.is_stopped {
            host.salts.turn(now.unix);
            // Cut off, it goes on with what it has.
            let _ = host.member.step(now, &mut host.session);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.steady += time;
        self.unix += time;
    }

    /// Everybody looks again and again for so long.
    fn settle(&mut self, time: Duration) {
        let until = self.steady + time;
        while self.steady < until {
            (0..self.hosts.len()).for_each(|index| self.step(index));
            self.pass(Duration::from_secs(1));
        }
    }

    fn salt(&self, index: usize) -> Option<SaltId> {
        self.hosts[index].salts.at(self.unix).salt().map(Salt::id)
    }

    fn all_agree(&self) -> Option<SaltId> {
        let first = self.salt(0)?;
        (1..self.hosts.len()).all(|index| self.salt(index) == Some(first)).then_some(first)
    }

    fn register(&self) -> String {
        format!("{}/{}", super::member::EPOCHS, self.epoch())
    }

    fn total(&self, what: impl Fn(&SaltCounters) -> &Counter) -> u64 {
        self.hosts.iter().map(|host| what(&host.counters).get()).sum()
    }
}

#[test]
fn nodes_that_start_together_agree_at_once() {
    let mut world = World::new(5);
    world.settle(Duration::from_secs(4));
    let id = world.all_agree().expect("they agree");
    assert_eq!((id.epoch, id.generation), (world.epoch(), Some(1)));
    assert_eq!(world.total(|counters| &counters.proposed), 1);
    assert_eq!(world.total(|counters| &counters.received), 4);
    // Boxes and requests have gone; nothing that was ever written is the salt.
    let tree = world.tree.borrow();
    assert!(!tree.nodes.keys().any(|path| path.contains("/box/") || path.contains("/request/")));
    let salt = world.hosts[0].salts.with(id, |salt| message::hex(salt)).expect("it is held");
    assert!(tree.told.iter().all(|told| !told.contains(&salt)));
}

#[test]
fn a_late_joiner_is_given_the_salt() {
    let mut world = World::new(2);
    world.settle(Duration::from_secs(4));
    let id = world.all_agree();
    world.start(world.key_of_cluster());
    world.settle(Duration::from_secs(3));
    assert!(id.is_some() && world.all_agree() == id);
}

#[test]
fn killed_holders_are_replaced_and_when_all_are_gone_a_new_salt_is_made() {
    let mut world = World::new(3);
    world.settle(Duration::from_secs(4));
    let id = world.all_agree().expect("they agree");
    world.kill(0);
    world.start(world.key_of_cluster());
    world.settle(Duration::from_secs(3));
    assert_eq!(world.all_agree(), Some(id));
    for _ in 0..3 {
        world.kill(0);
    }
    world.start(world.key_of_cluster());
    world.settle(Duration::from_secs(5));
    assert_eq!(world.salt(0), None, "the others' sessions may come back");
    world.start(world.key_of_cluster());
    world.settle(SESSION + Duration::from_secs(10));
    assert_eq!(world.all_agree().and_then(|id| id.generation), Some(2));
}

#[test]
fn the_next_salt_is_there_before_its_epoch() {
    let mut world = World::new(3);
    world.settle(Duration::from_secs(4));
    let before = world.all_agree().expect("they agree");
    world.pass(Duration::from_secs(2990) - Duration::from_secs(4) - Duration::from_secs(40));
    world.settle(Duration::from_secs(30));
    // ZooKeeper is away over the boundary.
    world.hosts.iter_mut().for_each(|host| host.session.is_cut_off = true);
    world.settle(Duration::from_secs(60));
    let after = world.all_agree().expect("they agree without ZooKeeper");
    assert_eq!((after.epoch, after.generation), (before.epoch + 1, Some(1)));
    assert_eq!(world.hosts[0].salts.ids(), [before, after], "late requests");
    world.pass(Duration::from_secs(120));
    world.settle(Duration::from_secs(1));
    assert_eq!(world.hosts[0].salts.ids(), [after], "wiped");
}

#[test]
fn one_that_was_stopped_over_a_boundary_comes_back() {
    let mut world = World::new(3);
    world.settle(Duration::from_secs(4));
    world.hosts[0].is_stopped = true;
    world.expire(0);
    world.pass(PERIOD);
    world.settle(Duration::from_secs(5));
    world.hosts[0].is_stopped = false;
    world.settle(Duration::from_secs(5));
    assert_eq!(world.all_agree().map(|id| id.epoch), Some(world.epoch()));
}

#[test]
fn who_lacks_the_key_neither_learns_nor_plants_a_salt() {
    let mut world = World::new(2);
    world.settle(Duration::from_secs(4));
    let id = world.all_agree().expect("they agree");
    let stranger = Arc::new(cluster_key::of(2));
    world.start(Arc::clone(&stranger));
    world.settle(Duration::from_secs(60));
    // The members put the register right each time; the stranger, who takes theirs for nothing, has a salt of its own at most.
    assert_eq!((world.salt(0), world.salt(1)), (Some(id), Some(id)));
    assert_ne!(world.salt(2), Some(id));
    assert!(world.hosts[0].counters.refused.get() > 0, "it is told of");
    world.kill(2);
    world.settle(Duration::from_secs(5));
    assert_eq!(world.all_agree(), Some(id));

    // A register, a request and a box by a stranger, for a newcomer to fall for.
    let planted = Salt::generate(id.epoch, Some(9)).unwrap();
    let path = world.register();
    world.tree.borrow_mut().put(&path, &message::register(&stranger, planted.id()));
    let request = message::OneShot::new(&stranger, id.epoch, "00".into()).unwrap();
    world.tree.borrow_mut().put(&format!("{path}/request/00"), &request.request);
    world.start(world.key_of_cluster());
    world.settle(Duration::from_secs(20));
    assert_eq!(world.all_agree(), Some(id));
    assert!(!world.tree.borrow().nodes.contains_key(&format!("{path}/box/00")), "nobody answers a stranger");
}

#[test]
fn a_register_that_fell_back_is_put_right() {
    let mut world = World::new(1);
    world.settle(Duration::from_secs(4));
    let path = world.register();
    let old = world.tree.borrow().nodes[&path].0.data.clone();
    world.kill(0);
    world.start(world.key_of_cluster());
    world.start(world.key_of_cluster());
    world.settle(SESSION + Duration::from_secs(10));
    let second = world.all_agree().expect("they agree");
    assert_eq!(second.generation, Some(2));
    world.tree.borrow_mut().put(&path, std::str::from_utf8(&old).unwrap());
    world.start(world.key_of_cluster());
    world.settle(Duration::from_secs(10));
    assert_eq!(world.all_agree(), Some(second));
    // Gone altogether.
    world.tree.borrow_mut().nodes.clear();
    world.start(world.key_of_cluster());
    world.settle(Duration::from_secs(20));
    let third = world.all_agree().expect("they agree");
    assert_eq!(third.epoch, second.epoch);
}

#[test]
fn oversized_and_countless_nodes_are_no_trouble() {
    let mut world = World::new(2);
    world.settle(Duration::from_secs(4));
    let id = world.all_agree();
    let path = world.register();
    world.tree.borrow_mut().put(&path, &"x".repeat(1 << 20));
    for kind in ["request", "box", "holder"] {
        for number in 0..5000 {
            world.tree.borrow_mut().put(&format!("{path}/{kind}/z{number}"), "x");
        }
    }
    world.settle(Duration::from_secs(10));
    world.start(world.key_of_cluster());
    world.settle(Duration::from_secs(10));
    assert!(id.is_some() && world.all_agree() == id);
}

#[test]
fn five_hundred_nodes_rotate() {
    let mut world = World::new(500);
    // As in life: not all of them look at everything every second.
    let pass = |world: &mut World, seconds| {
        for second in 0..seconds {
            for index in 0..world.hosts.len() {
                if index % 15 == second % 15 || !world.hosts[index].member.is_settled(world.unix) {
                    world.step(index);
                }
            }
            world.pass(Duration::from_secs(1));
        }
    };
    pass(&mut world, 60);
    let first = world.all_agree().expect("they agree");
    world.pass(PERIOD - Duration::from_secs(600 + 60 + 910));
    world.tree.borrow_mut().operations = 0;
    pass(&mut world, 920);
    let second = world.all_agree().expect("they agree");
    assert_eq!((second.epoch, world.total(|counters| &counters.proposed)), (first.epoch + 1, 2));
    let each = world.tree.borrow().operations / 500;
    assert!(each < 1000, "{each} operations a node in 920 s");
}

/// Numbers by SplitMix64 (Steele, Lea and Flood, 2014): the same for the same seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) >> 8
    }
}

/// Random events; after each storm, the members that can see ZooKeeper agree, and none ever has two salts of a generation.
#[test]
fn after_every_storm_they_agree() {
    for seed in 0..40_u64 {
        let mut chance = Chance(seed);
        let mut world = World::new(1 + seed as usize % 4);
        for _ in 0..150 {
            let index = chance.next() as usize % world.hosts.len();
            match chance.next() % 16 {
                0 => world.expire(index),
                1 => world.hosts[index].session.is_cut_off ^= true,
                2 if world.hosts.len() > 1 => world.kill(index),
                3 if world.hosts.len() < 6 => world.start(world.key_of_cluster()),
                4 => {
                    let path = world.register();
                    world.tree.borrow_mut().put(&path, "planted");
                }
                5 => {
                    let path = world.register();
                    world.tree.borrow_mut().nodes.remove(&path);
                }
                6 => world.pass(Duration::from_secs(chance.next() % 400)),
                7 => world.hosts[index].is_stopped ^= true,
                _ => {
                    world.step(index);
                    world.pass(Duration::from_secs(1));
                }
            }
        }
        world.hosts.iter_mut().for_each(|host| (host.is_stopped, host.session.is_cut_off) = (false, false));
        world.settle(Duration::from_secs(300));
        let id = world.all_agree();
        assert!(id.is_some_and(|id| id.epoch == world.epoch()), "seed {seed}: {id:?}");
    }
}
