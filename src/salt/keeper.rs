//! The thread that keeps the salts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, io};

use thiserror::Error;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::cluster_key::{ClusterKey, ClusterKeyError};
use super::member::{Member, Now, random_name};
use super::session::Session;
use super::space::Trouble;
use super::table::{Clock, Missing, Salts, since_epoch};
use crate::config::{Anonymize, OnMissing, Property, SaltSource};
use crate::counters::SaltCounters;
use crate::zookeeper::Ensemble;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Everything is looked at again now and then, whether or not a watch has told of it.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// After trouble, how long until the next attempt: more each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How often waiting looks again.
const POLL: Duration = Duration::from_millis(5);

/// How often the same trouble is told of.
const SAY: Duration = Duration::from_secs(60);

/// Salts that cannot be kept.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// The cluster's key.
    #[error("anonymize.cluster_key {}: {error}", path.display())]
    ClusterKey {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        error: ClusterKeyError,
    },
    /// The system gave no thread, or no chance.
    #[error("starting the salt's thread: {0}")]
    Thread(#[from] io::Error),
}

/// What makes two keepers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    period: Duration,
    missing: Missing,
    zookeeper: Option<(Ensemble, PathBuf, Option<Property>)>,
}

/// The salts, and the thread that keeps them: it wipes those whose time is over, and with a ZooKeeper agrees with the other
/// nodes on the next ones. Dropped, it ends, and wipes them all.
#[derive(Debug)]
pub struct Keeper {
    salts: Arc<Salts>,
    counters: Arc<SaltCounters>,
    is_shared: bool,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The keepers of this process.
static KEEPERS: Mutex<Vec<(Settings, Weak<Keeper>)>> = Mutex::new(Vec::new());

impl Keeper {
    /// The keeper for these settings: the one that runs already, if one does, so that a changed configuration does not change the
    /// salt.
    ///
    /// # Errors
    ///
    /// [`KeeperError`]
    pub fn get(anonymize: &Anonymize, host: &str) -> Result<Arc<Self>, KeeperError> {
        let zookeeper = match (anonymize.salt_source(), &anonymize.zookeeper, &anonymize.cluster_key) {
            (SaltSource::Zookeeper, Some(zookeeper), Some(key)) => {
                let digest = anonymize.zookeeper_digest.clone();
                Some((zookeeper.get_ref().clone(), key_path(key.get_ref()), digest))
            }
            _ => None,
        };
        let missing = match (anonymize.on_missing, &zookeeper) {
            (OnMissing::Drop, Some(_)) => Missing::Drop,
            _ => Missing::Local,
        };
        let settings = Settings { period: anonymize.rotate.get_ref().0, missing, zookeeper };
        let mut keepers = KEEPERS.lock().unwrap_or_else(PoisonError::into_inner);
        keepers.retain(|(_, keeper)| keeper.strong_count() > 0);
        let known = keepers.iter().find(|(other, _)| *other == settings);
        if let Some(keeper) = known.and_then(|(_, keeper)| keeper.upgrade()) {
            return Ok(keeper);
        }
        let keeper = Arc::new(Self::start(&settings, host)?);
        keepers.push((settings, Arc::downgrade(&keeper)));
        Ok(keeper)
    }

    fn start(settings: &Settings, host: &str) -> Result<Self, KeeperError> {
        let salts = Arc::new(Salts::new(settings.period, Clock::System, settings.missing));
        let counters = Arc::new(SaltCounters::default());
        let mut chance = [0; 1];
        getrandom::fill(&mut chance).map_err(io::Error::from)?;
        let cluster = match &settings.zookeeper {
            None => None,
            Some((zookeeper, path, digest)) => {
                let key =
                    ClusterKey::read(path).map_err(|error| KeeperError::ClusterKey { path: path.clone(), error })?;
                let chance = f64::from(chance[0]) / 255.0;
                let (salts, counters) = (Arc::clone(&salts), Arc::clone(&counters));
                let member = Member::new(Arc::new(key), salts, host.to_owned(), counters, chance);
                Some(Cluster {
                    zookeeper: zookeeper.clone(),
                    digest: digest.clone(),
                    member,
                    session: None,
                    trouble: None,
                })
            }
        };
        let (stop, stopped) = oneshot::channel();
        let mut work = Work { salts: Arc::clone(&salts), counters: Arc::clone(&counters), cluster, stopped };
        let body = move || {
            while catch_unwind(AssertUnwindSafe(|| work.run())).is_err() {
                tracing::error!("a defect in the thread that keeps the salts was caught; it goes on");
                thread::sleep(TICK);
            }
        };
        let thread = thread::Builder::new().name("kafkalog-salt".into()).spawn(body)?;
        Ok(Self { salts, counters, is_shared: settings.zookeeper.is_some(), stop: Some(stop), thread: Some(thread) })
    }

    /// What it keeps.
    #[must_use]
    pub fn salts(&self) -> &Arc<Salts> {
        &self.salts
    }

    /// How it stands.
    #[must_use]
    pub fn counters(&self) -> &Arc<SaltCounters> {
        &self.counters
    }

    /// Waits for the first shared salt, at the most for `limit`, where there is to be one. Without it, the first lines would
    /// have a salt that others do not have.
    pub fn wait(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let is_there = || self.salts.shared(self.salts.epoch(since_epoch())).is_some();
        while self.is_shared && !is_there() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The other side has gone only if the thread has.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Where the key is: a name without a `/` is that of a systemd credential (systemd.exec(5), `LoadCredential=`).
pub(super) fn key_path(path: &Path) -> PathBuf {
    match env::var_os("CREDENTIALS_DIRECTORY") {
        Some(directory) if path.components().count() == 1 && !path.has_root() => Path::new(&directory).join(path),
        _ => path.to_owned(),
    }
}

/// What the thread works with.
struct Work {
    salts: Arc<Salts>,
    counters: Arc<SaltCounters>,
    cluster: Option<Cluster>,
    stopped: oneshot::Receiver<()>,
}

impl Work {
    fn run(&mut self) {
        let began = Instant::now();
        while matches!(self.stopped.try_recv(), Err(TryRecvError::Empty)) {
            let now = Now { unix: since_epoch(), steady: began.elapsed() };
            self.salts.turn(now.unix);
            match &mut self.cluster {
                None => rest(TICK, &mut self.stopped),
                Some(cluster) => cluster.turn(now, &mut self.stopped),
            }
            self.count();
        }
        let session = self.cluster.as_mut().and_then(|cluster| cluster.session.take());
        session.into_iter().for_each(|(session, _)| session.end());
    }

    /// Tells how it stands.
    fn count(&self) {
        let counters = &self.counters;
        let now = since_epoch();
        let epoch = self.salts.epoch(now);
        let age = now.as_secs() % self.salts.period().as_secs();
        let shared = self.salts.shared(epoch);
        counters.epoch.set(epoch);
        counters.shared.set(shared.is_some().into());
        counters.generation.set(shared.and_then(|id| id.generation).unwrap_or_default().into());
        counters.age_seconds.set(age);
        counters.rotation_seconds.set(self.salts.period().as_secs() - age);
        if let Some((session, _)) = self.cluster.as_ref().and_then(|cluster| cluster.session.as_ref()) {
            counters.clock_skew_milliseconds.set(session.clock_skew().as_millis().try_into().unwrap_or(u64::MAX));
        }
        counters.connected.set(self.cluster.as_ref().is_some_and(|cluster| cluster.session.is_some()).into());
    }
}

/// The cluster, as this thread is in touch with it.
struct Cluster {
    zookeeper: Ensemble,
    digest: Option<Property>,
    member: Member,
    session: Option<(Session, Look)>,
    /// What was told of last, when, and how long to rest after it.
    trouble: Option<(String, Instant, Duration)>,
}

/// When everything was looked at last.
struct Look {
    at: Instant,
    /// The epochs that were looked at.
    epochs: Vec<u64>,
}

impl Cluster {
    fn turn(&mut self, now: Now, stopped: &mut oneshot::Receiver<()>) {
        if let Err(trouble) = self.try_turn(now, stopped) {
            self.session = None;
            let pause = self.trouble.as_ref().map_or(RETRY.0, |(.., pause)| (*pause * 2).min(RETRY.1));
            self.say(trouble, pause);
            rest(pause, stopped);
        }
    }

    fn try_turn(&mut self, now: Now, stopped: &mut oneshot::Receiver<()>) -> Result<(), Trouble> {
        let Some((session, look)) = &mut self.session else {
            let Some(session) = Session::begin(&self.zookeeper, self.digest.as_ref(), stopped)? else { return Ok(()) };
            self.member.begin_session(random_name().map_err(|error| Trouble(error.to_string()))?);
            self.session = Some((session, Look { at: Instant::now(), epochs: Vec::new() }));
            return Ok(());
        };
        let epochs: Vec<u64> = self.member.wanted(now.unix).collect();
        if look.at.elapsed() >= LOOK_AGAIN || look.epochs != epochs || !self.member.is_settled(now.unix) {
            session.forget();
            self.member.step(now, session)?;
            *look = Look { at: Instant::now(), epochs };
            self.trouble = None;
        }
        if session.wait(TICK, stopped) {
            look.epochs.clear();
        }
        Ok(())
    }

    fn say(&mut self, Trouble(trouble): Trouble, pause: Duration) {
        let said = self.trouble.take();
        let at = match said {
            Some((told, at, _)) if told == trouble && at.elapsed() < SAY => at,
            _ => {
                let zookeeper = &self.zookeeper;
                tracing::warn!(%zookeeper, "agreeing on the salt: {trouble}; going on with what is known");
                Instant::now()
            }
        };
        self.trouble = Some((trouble, at, pause));
    }
}

/// Waits, or until it is told to stop.
fn rest(length: Duration, stopped: &mut oneshot::Receiver<()>) {
    let until = Instant::now() + length;
    while Instant::now() < until && matches!(stopped.try_recv(), Err(TryRecvError::Empty)) {
        thread::sleep(Duration::from_millis(50).min(length));
    }
}
