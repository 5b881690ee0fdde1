//! A member of the cluster: how nodes come to have the same salts.
//!
//! A member looks at ZooKeeper, does what follows, and looks again when something has changed. Nobody leads:
//!
//! - The register names an epoch's salt. Who finds none makes a salt and writes its id there; the first one wins.
//! - Who has the salt says so (`holder`), and seals it for those who ask.
//! - Who lacks it asks (`request`) with a key for this one time, opens the answer (`box`), and wipes the key.
//! - When nobody has the salt any more, the next generation of it is made after a while.
//!
//! What no member wrote counts as absent. A register that fell back is put right by those who have the salt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::cluster_key::ClusterKey;
use super::message::{self, OneShot};
use super::space::{Life, Space, Trouble};
use super::table::Salts;
use crate::anonymize::Salt;
use crate::counters::SaltCounters;
use crate::message::SaltId;
use crate::zookeeper::SESSION;

/// So many holders answer at once; the others do when these have not for a while.
const ANSWERERS: usize = 3;

/// How long the other holders wait for those.
const LATER: Duration = Duration::from_secs(10);

/// How long there must be no holder before a new salt is made: their sessions may come back.
const NOBODY: Duration = SESSION.saturating_add(Duration::from_secs(5));

/// How long an answer may take before the request is made again.
const ANSWER: Duration = Duration::from_secs(30);

/// How long holders that do not answer are believed in.
const SILENCE: Duration = Duration::from_secs(120);

/// Between one request and the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Nodes that are looked at in one go. Who writes more than that to ZooKeeper means ill.
const MOST: usize = 1000;

/// Below this, a node for each epoch.
pub(super) const EPOCHS: &str = "/epoch";

/// The protocol's state, beside the salts themselves.
pub(super) struct Member {
    key: Arc<ClusterKey>,
    salts: Arc<Salts>,
    host: String,
    /// Another one in each session: the nodes of the one before may still be there.
    name: String,
    epochs: BTreeMap<u64, Epoch>,
    /// How long before it begins, the next epoch's salt is fetched.
    ahead: Duration,
    cleaned: u64,
    counters: Arc<SaltCounters>,
}

/// What is under way for one epoch.
#[derive(Default)]
struct Epoch {
    has_directories: bool,
    request: Option<OneShot>,
    requested: Option<Duration>,
    /// Since when the salt is wanted from others.
    wanted: Option<Duration>,
    /// Since when no holder has been seen.
    nobody: Option<Duration>,
    /// Requests that wait, and since when.
    waiting: BTreeMap<String, Duration>,
    /// The holders, and which generation they have.
    holders: BTreeMap<String, u32>,
    /// Boxes of ours.
    boxes: BTreeSet<String>,
    /// Nodes that no member wrote, and that have been counted.
    refused: BTreeSet<String>,
}

/// When a step is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Since 1970.
    pub(super) unix: Duration,
    /// On a clock that never jumps.
    pub(super) steady: Duration,
}

impl Member {
    /// A member that has nothing yet. `chance`, from 0 to 1, spreads the members' fetching of the next salt.
    pub(super) fn new(
        key: Arc<ClusterKey>,
        salts: Arc<Salts>,
        host: String,
        counters: Arc<SaltCounters>,
        chance: f64,
    ) -> Self {
        let lead = Duration::from_secs(3600).min(salts.period() / 4);
        Self {
            key,
            salts,
            host,
            name: String::new(),
            epochs: BTreeMap::new(),
            ahead: lead.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0),
            cleaned: 0,
            counters,
        }
    }

    /// A session has begun: what was written in the one before goes away by itself.
    pub(super) fn begin_session(&mut self, name: String) {
        self.name = name;
        self.epochs.clear();
    }

    /// The epochs whose salts are wanted now.
    pub(super) fn wanted(&self, unix: Duration) -> impl Iterator<Item = u64> + use<> {
        let current = self.salts.epoch(unix);
        let next = self.salts.epoch(unix + self.ahead).min(current + 1);
        current..=next
    }

    /// Whether a wanted salt is missing, or not yet told of.
    pub(super) fn is_settled(&self, unix: Duration) -> bool {
        self.wanted(unix).all(|epoch| {
            self.salts.shared(epoch).is_some() && self.epochs.get(&epoch).is_some_and(|epoch| epoch.wanted.is_none())
        })
    }

    /// Looks at everything, and does what follows.
    pub(super) fn step(&mut self, now: Now, space: &mut impl Space) -> Result<(), Trouble> {
        let wanted = self.wanted(now.unix);
        let first = self.salts.epoch(now.unix);
        self.epochs.retain(|epoch, _| *epoch >= first);
        for epoch in wanted {
            // Taken out, so that nothing is forgotten when ZooKeeper goes away in between.
            let mut state = self.epochs.remove(&epoch).unwrap_or_default();
            let result = self.look(epoch, &mut state, now, space);
            self.epochs.insert(epoch, state);
            result?;
        }
        if self.cleaned < first {
            self.clean(first, space)?;
            self.cleaned = first;
        }
        Ok(())
    }

    fn look(&mut self, epoch: u64, state: &mut Epoch, now: Now, space: &mut impl Space) -> Result<(), Trouble> {
        // A proposal that comes second, or a box that was opened, leads to another look at once.
        for _ in 0..3 {
            let register = space.read(&path(epoch), true)?;
            let held = self.salts.shared(epoch);
            let Some(register) = register else {
                self.put(epoch, held, None, 1, space)?;
                continue;
            };
            let version = Some(register.version);
            let Some(id) = message::read_register(&self.key, epoch, &register.data) else {
                self.refuse(state, format!("version {}", register.version), "the register");
                let highest = self.holders(epoch, state, space)?.values().max().copied();
                // Whoever has the salt puts this right.
                if held.is_some() || highest.is_none() || is_over(&mut state.nobody, now, NOBODY) {
                    self.put(epoch, held, version, highest.map_or(1, |highest| highest.saturating_add(1)), space)?;
                    continue;
                }
                return Ok(());
            };
            match held {
                Some(held) if held == id => {
                    (state.wanted, state.nobody) = (None, None);
                    self.drop_request(epoch, state, space)?;
                    return self.hold(id, state, now, space);
                }
                Some(held) if held.generation > id.generation => {
                    self.put(epoch, Some(held), version, 1, space)?;
                }
                _ => {
                    if !self.obtain(id, register.version, state, now, space)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the register: with the salt that we hold, or else with a new one.
    fn put(
        &mut self,
        epoch: u64,
        held: Option<SaltId>,
        version: Option<i32>,
        generation: u32,
        space: &mut impl Space,
    ) -> Result<(), Trouble> {
        let proposal = match held {
            Some(_) => None,
            None => Some(Salt::generate(epoch, Some(generation)).map_err(|error| Trouble(error.to_string()))?),
        };
        let Some(id) = held.or_else(|| proposal.as_ref().map(Salt::id)) else { return Ok(()) };
        let text = message::register(&self.key, id);
        let is_taken = match version {
            None => space.create(&path(epoch), &text, Life::Persistent)?,
            Some(version) => space.write(&path(epoch), &text, version)?,
        };
        // One that comes second is wiped.
        if is_taken && let Some(salt) = proposal {
            self.salts.adopt(salt);
            self.counters.proposed.add(1);
        }
        Ok(())
    }

    /// Says that we hold the salt, and gives it to those who ask.
    fn hold(&mut self, id: SaltId, state: &mut Epoch, now: Now, space: &mut impl Space) -> Result<(), Trouble> {
        let epoch = id.epoch;
        let generation = id.generation.unwrap_or_default();
        self.make_directories(epoch, state, space)?;
        let ours = message::holder(&self.key, epoch, generation, &self.name);
        if !self.holders(epoch, state, space)?.contains_key(&ours) {
            space.create(&below(epoch, "holder", &ours), &self.host, Life::Ephemeral)?;
            state.holders.insert(ours.clone(), generation);
        }
        // In the order of their names, which is by chance, and the same for all.
        let first = state.holders.iter().filter(|(_, other)| **other == generation).take(ANSWERERS);
        let is_answerer = first.into_iter().any(|(name, _)| *name == ours);
        let requests = self.list(epoch, "request", is_answerer, space)?;
        let boxes = self.list(epoch, "box", false, space)?;
        for name in boxes.iter().filter(|name| state.boxes.contains(*name) && !requests.contains(name)) {
            space.delete(&below(epoch, "box", name))?;
        }
        state.boxes.retain(|name| requests.contains(name));
        state.waiting.retain(|name, _| requests.contains(name) && !boxes.contains(name));
        for name in requests.into_iter().filter(|name| !boxes.contains(name)) {
            let since = *state.waiting.entry(name.clone()).or_insert(now.steady);
            if is_answerer || now.steady.saturating_sub(since) >= LATER {
                self.answer(id, &name, state, space)?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, id: SaltId, name: &str, state: &mut Epoch, space: &mut impl Space) -> Result<(), Trouble> {
        let Some(request) = space.read(&below(id.epoch, "request", name), false)? else { return Ok(()) };
        let Some(reader) = message::read_request(&self.key, id.epoch, name, &request.data) else {
            self.refuse(state, name.to_owned(), "a request");
            return Ok(());
        };
        let sealed = self.salts.with(id, |salt| message::seal(&self.key, id, salt, name, &reader)).flatten();
        crate::secret::scrub_stack::<{ crate::secret::STACK }>();
        let Some(sealed) = sealed else { return Ok(()) };
        if space.create(&below(id.epoch, "box", name), &sealed, Life::Ephemeral)? {
            state.boxes.insert(name.to_owned());
            self.counters.answered.add(1);
        }
        Ok(())
    }

    /// Asks for the salt that the register names, and takes the answer. Whether to look again at once.
    fn obtain(
        &mut self,
        id: SaltId,
        version: i32,
        state: &mut Epoch,
        now: Now,
        space: &mut impl Space,
    ) -> Result<bool, Trouble> {
        let epoch = id.epoch;
        self.make_directories(epoch, state, space)?;
        let is_held = self.holders(epoch, state, space)?.values().any(|held| Some(*held) == id.generation);
        let is_hopeless = if is_held {
            state.nobody = None;
            is_over(&mut state.wanted, now, SILENCE)
        } else {
            state.wanted.get_or_insert(now.steady);
            is_over(&mut state.nobody, now, NOBODY)
        };
        if is_hopeless {
            let next = id.generation.unwrap_or_default().saturating_add(1);
            (state.wanted, state.nobody) = (None, None);
            self.put(epoch, None, Some(version), next, space)?;
            return Ok(true);
        }
        if let Some(request) = &state.request
            && let Some(answer) = space.read(&below(epoch, "box", &request.name), true)?
        {
            let opened = request.open(&self.key, id, &answer.data).map_err(|error| Trouble(error.to_string()))?;
            space.delete(&below(epoch, "box", &request.name))?;
            let name = request.name.clone();
            self.drop_request(epoch, state, space)?;
            match opened {
                Some(salt) => {
                    self.counters.received.add(u64::from(self.salts.adopt(salt)));
                    return Ok(true);
                }
                None => self.refuse(state, name, "a box"),
            }
        }
        let since = state.requested.map_or(Duration::MAX, |requested| now.steady.saturating_sub(requested));
        if is_held && since >= if state.request.is_some() { ANSWER } else { PAUSE } {
            self.drop_request(epoch, state, space)?;
            let name = random_name().map_err(|error| Trouble(error.to_string()))?;
            let request = OneShot::new(&self.key, epoch, name).map_err(|error| Trouble(error.to_string()))?;
            // The watch first, so that no answer is missed.
            space.read(&below(epoch, "box", &request.name), true)?;
            space.create(&below(epoch, "request", &request.name), &request.request, Life::Ephemeral)?;
            (state.request, state.requested) = (Some(request), Some(now.steady));
        }
        Ok(false)
    }

    /// Wipes the key of the request under way.
    fn drop_request(&self, epoch: u64, state: &mut Epoch, space: &mut impl Space) -> Result<(), Trouble> {
        match state.request.take() {
            Some(request) => space.delete(&below(epoch, "request", &request.name)),
            None => Ok(()),
        }
    }

    /// The members that say they hold a salt of this epoch: their nodes' names, and which generation.
    fn holders<'a>(
        &self,
        epoch: u64,
        state: &'a mut Epoch,
        space: &mut impl Space,
    ) -> Result<&'a BTreeMap<String, u32>, Trouble> {
        let names: BTreeSet<String> = self.list(epoch, "holder", true, space)?.into_iter().collect();
        state.holders.retain(|name, _| names.contains(name));
        for name in names {
            // What was believed once is not proven again.
            if !state.holders.contains_key(&name)
                && let Some(generation) = message::read_holder(&self.key, epoch, &name)
            {
                state.holders.insert(name, generation);
            }
        }
        Ok(&state.holders)
    }

    fn list(&self, epoch: u64, kind: &str, watched: bool, space: &mut impl Space) -> Result<Vec<String>, Trouble> {
        let mut names = space.children(&format!("{}/{kind}", path(epoch)), watched)?;
        names.truncate(MOST);
        Ok(names)
    }

    fn make_directories(&self, epoch: u64, state: &mut Epoch, space: &mut impl Space) -> Result<(), Trouble> {
        if !state.has_directories {
            for kind in ["request", "box", "holder"] {
                space.create(&format!("{}/{kind}", path(epoch)), "", Life::Persistent)?;
            }
            state.has_directories = true;
        }
        Ok(())
    }

    fn refuse(&mut self, state: &mut Epoch, node: String, what: &str) {
        if state.refused.len() < MOST && state.refused.insert(node) {
            self.counters.refused.add(1);
            tracing::warn!(
                "{what} of the salt in ZooKeeper was not written with this cluster's key: somebody else writes there, or cluster_key differs between nodes"
            );
        }
    }

    /// Deletes what epochs that are over have left.
    fn clean(&self, current: u64, space: &mut impl Space) -> Result<(), Trouble> {
        for name in space.children(EPOCHS, false)?.into_iter().take(MOST) {
            let Some(epoch) = name.parse().ok().filter(|epoch: &u64| epoch.saturating_add(1) < current) else {
                continue;
            };
            for kind in ["request", "box", "holder"] {
                for name in self.list(epoch, kind, false, space)? {
                    space.delete(&below(epoch, kind, &name))?;
                }
                space.delete(&format!("{}/{kind}", path(epoch)))?;
            }
            space.delete(&path(epoch))?;
        }
        Ok(())
    }
}

/// Whether it has been so for as long as `limit`.
fn is_over(since: &mut Option<Duration>, now: Now, limit: Duration) -> bool {
    now.steady.saturating_sub(*since.get_or_insert(now.steady)) >= limit
}

fn path(epoch: u64) -> String {
    format!("{EPOCHS}/{epoch}")
}

fn below(epoch: u64, kind: &str, name: &str) -> String {
    format!("{EPOCHS}/{epoch}/{kind}/{name}")
}

/// A name that no other node has.
pub(super) fn random_name() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(message::hex(&bytes))
}
