//! The salts that this node has, by epoch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use crate::anonymize::{SALT_BYTES, Salt};
use crate::message::SaltId;

/// How long an epoch's salt serves requests of that epoch that end late.
pub const GRACE: Duration = Duration::from_secs(120);

/// Salts that a recording may need at a time.
const RECORDED: usize = 2;

/// Which clock tells that an epoch is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The system's, and the log is of these minutes.
    System,
    /// The log's own: a recording is hashed as it would have been live.
    Log,
}

/// What becomes of addresses while no shared salt is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// They are hashed under a random salt of this node.
    Local,
    /// They are left out.
    Drop,
}

/// The salts of this node: the current epoch's, for a while the one's before, and the next one's.
///
/// The epoch of a request is that of its start, so that a rotation is a comparison per request. A salt that is no longer needed
/// is wiped at once: whoever uses one holds a lock meanwhile, for the time of a line.
#[derive(Debug)]
pub struct Salts {
    period: u64,
    clock: Clock,
    missing: Missing,
    /// How often salts have been wiped.
    wiped: AtomicU64,
    table: RwLock<Table>,
}

#[derive(Debug)]
struct Table {
    /// In the order of their epochs, one each.
    salts: Vec<Salt>,
    /// Earlier epochs are over: their salts are wiped and never made again.
    floor: u64,
    /// The current epoch, when it was last looked at.
    now: u64,
}

/// A salt in use, or none.
#[derive(Debug)]
pub struct Held<'a> {
    table: RwLockReadGuard<'a, Table>,
    index: Option<usize>,
}

impl Held<'_> {
    /// The salt, if there is one.
    #[must_use]
    pub fn salt(&self) -> Option<&Salt> {
        self.table.salts.get(self.index?)
    }
}

impl Salts {
    /// No salt yet, for epochs of `period` in whole seconds.
    #[must_use]
    pub fn new(period: Duration, clock: Clock, missing: Missing) -> Self {
        let period = period.as_secs().max(1);
        let salts = Self {
            period,
            clock,
            missing,
            wiped: AtomicU64::new(0),
            table: RwLock::new(Table { salts: Vec::with_capacity(4), floor: 0, now: 0 }),
        };
        if clock == Clock::System {
            salts.turn(since_epoch());
        }
        salts
    }

    /// The epoch of a time since 1970.
    #[must_use]
    pub fn epoch(&self, time: Duration) -> u64 {
        time.as_secs() / self.period
    }

    /// How long an epoch lasts.
    #[must_use]
    pub fn period(&self) -> Duration {
        Duration::from_secs(self.period)
    }

    /// The salt for a request that started at `start`: its epoch's. Requests that end so late that it has been wiped get the
    /// oldest one there is.
    #[must_use]
    pub fn at(&self, start: Duration) -> Held<'_> {
        let epoch = self.epoch(start);
        let table = self.read();
        match self.find(&table, epoch) {
            Ok(index) => Held { table, index: Some(index) },
            Err(_) => {
                drop(table);
                self.fill(epoch);
                let table = self.read();
                let index = self.find(&table, epoch).ok();
                Held { table, index }
            }
        }
    }

    /// The salt of now.
    #[must_use]
    pub fn current(&self) -> Held<'_> {
        self.at(since_epoch())
    }

    /// Where the salt of an epoch is, or else the epoch whose salt is missing.
    fn find(&self, table: &Table, epoch: u64) -> Result<usize, u64> {
        // A clock that is a little ahead is no reason for a salt of its own; one that is far ahead is wrong.
        let epoch = if self.clock == Clock::System && epoch > table.now + 1 { table.now } else { epoch };
        match table.salts.iter().position(|salt| salt.id().epoch >= epoch) {
            Some(index) if epoch < table.floor || table.salts[index].id().epoch == epoch => Ok(index),
            _ => Err(epoch.max(table.floor)),
        }
    }

    /// Makes the missing salt of an epoch, where that is wanted.
    #[cold]
    fn fill(&self, epoch: u64) {
        if self.clock == Clock::System && epoch > self.read().now {
            // The process may have been stopped for long.
            self.turn(since_epoch());
        }
        if self.missing == Missing::Drop {
            return;
        }
        let mut table = self.write();
        if let Err(epoch) = self.find(&table, epoch)
            && let Ok(salt) = Salt::generate(epoch, None)
        {
            table.insert(salt);
            if self.clock == Clock::Log {
                let too_many = table.salts.len().saturating_sub(RECORDED);
                table.salts.drain(..too_many);
                table.floor = table.salts[0].id().epoch;
            }
        }
    }

    /// Takes a shared salt in, unless there is a better one or its time is over. Whether it was taken.
    pub fn adopt(&self, salt: Salt) -> bool {
        let mut table = self.write();
        let SaltId { epoch, generation, .. } = salt.id();
        let is_better = match table.salts.iter().find(|other| other.id().epoch == epoch) {
            Some(other) => generation >= other.id().generation,
            None => true,
        };
        if epoch < table.floor || !is_better {
            return false;
        }
        table.insert(salt);
        self.wiped.fetch_add(1, Ordering::Release);
        true
    }

    /// The shared salt of an epoch, by its id.
    #[must_use]
    pub fn shared(&self, epoch: u64) -> Option<SaltId> {
        let ids = self.ids();
        ids.into_iter().find(|id| id.epoch == epoch && id.generation.is_some())
    }

    /// What there is.
    #[must_use]
    pub fn ids(&self) -> Vec<SaltId> {
        self.read().salts.iter().map(Salt::id).collect()
    }

    /// Does something with the salt that has this id, if it is still there.
    pub(crate) fn with<R>(&self, id: SaltId, work: impl FnOnce(&[u8; SALT_BYTES]) -> R) -> Option<R> {
        let table = self.read();
        table.salts.iter().find(|salt| salt.id() == id).map(|salt| work(salt.bytes()))
    }

    /// Wipes what is not needed any more at this time since 1970.
    pub fn turn(&self, time: Duration) {
        let now = self.epoch(time);
        let into = Duration::from_secs(time.as_secs() % self.period);
        let floor = if into >= GRACE.min(self.period() / 2) { now } else { now.saturating_sub(1) };
        {
            let table = self.read();
            if table.now == now && table.floor >= floor && table.floor <= now + 1 {
                return;
            }
        }
        let mut table = self.write();
        table.now = now;
        if table.floor > now + 1 {
            // The clock had been far ahead, and what it made is not for today.
            table.salts.clear();
            table.floor = floor;
        }
        table.floor = table.floor.max(floor);
        let floor = table.floor;
        table.salts.retain(|salt| salt.id().epoch >= floor && salt.id().epoch <= now + 1);
        self.wiped.fetch_add(1, Ordering::Release);
    }

    /// Grows when salts are wiped. Who works with them then wipes its stack, too.
    #[must_use]
    pub fn wiped(&self) -> u64 {
        self.wiped.load(Ordering::Acquire)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, salt: Salt) {
        let epoch = salt.id().epoch;
        match self.salts.binary_search_by_key(&epoch, |salt| salt.id().epoch) {
            Ok(index) => self.salts[index] = salt,
            Err(index) => self.salts.insert(index, salt),
        }
    }
}

/// The time since 1970.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: u64, seconds: u64) -> Duration {
        Duration::from_secs(hours * 3600 + seconds)
    }

    fn id(salts: &Salts, start: Duration) -> SaltId {
        salts.at(start).salt().expect("there is always one").id()
    }

    /// The current hour, so that the system's clock agrees.
    fn this_hour(salts: &Salts) -> u64 {
        salts.epoch(since_epoch())
    }

    #[test]
    fn a_recording_is_hashed_as_it_would_have_been_live() {
        let salts = Salts::new(HOUR, Clock::Log, Missing::Local);
        let first = id(&salts, at(500_000, 10));
        assert_eq!((first.epoch, first.generation), (500_000, None));
        assert_eq!(id(&salts, at(500_000, 3599)), first);
        let second = id(&salts, at(500_001, 0));
        assert_eq!(second.epoch, 500_001);
        assert_eq!(id(&salts, at(500_000, 3599)), first, "a late one");
        assert_eq!(id(&salts, at(500_009, 0)).epoch, 500_009);
        assert_eq!(id(&salts, at(500_000, 0)), second, "too late: the oldest there is");
        assert_eq!(salts.ids().len(), RECORDED);
    }

    #[test]
    fn a_salt_is_wiped_after_its_grace_and_never_made_again() {
        let salts = Salts::new(HOUR, Clock::System, Missing::Local);
        let hour = this_hour(&salts);
        salts.turn(at(hour, 0));
        let first = id(&salts, at(hour, 0));
        salts.turn(at(hour + 1, GRACE.as_secs() - 1));
        let second = id(&salts, at(hour + 1, 0));
        assert_eq!(id(&salts, at(hour, 3599)), first, "late");
        salts.turn(at(hour + 1, GRACE.as_secs()));
        assert_eq!(salts.ids(), [second]);
        assert_eq!(id(&salts, at(hour, 3599)), second, "too late");
    }

    #[test]
    fn a_clock_that_jumps_brings_no_old_salt_back() {
        let salts = Salts::new(HOUR, Clock::System, Missing::Local);
        let hour = this_hour(&salts);
        let first = id(&salts, at(hour, 0));
        // A day ahead and back again.
        salts.turn(at(hour + 24, 1800));
        assert!(salts.ids().is_empty());
        salts.turn(at(hour, 1800));
        let second = id(&salts, at(hour, 0));
        assert_ne!(second, first);
        // Back across a boundary.
        salts.turn(at(hour - 1, 3599));
        assert_eq!(id(&salts, at(hour - 1, 3599)), second);
    }

    #[test]
    fn shared_salts_go_before_local_ones_and_higher_generations_before_lower() {
        let salts = Salts::new(HOUR, Clock::System, Missing::Local);
        let hour = this_hour(&salts);
        assert_eq!(id(&salts, at(hour, 0)).generation, None);
        assert_eq!(salts.shared(hour), None);
        assert!(salts.adopt(Salt::generate(hour, Some(1)).unwrap()));
        assert_eq!(id(&salts, at(hour, 0)).generation, Some(1));
        assert!(salts.adopt(Salt::generate(hour, Some(3)).unwrap()));
        assert!(!salts.adopt(Salt::generate(hour, Some(2)).unwrap()));
        assert_eq!(id(&salts, at(hour, 0)).generation, Some(3));
        assert!(!salts.adopt(Salt::generate(hour - 2, Some(1)).unwrap()), "over");
        let shared = salts.shared(hour).expect("it is there");
        assert_eq!(salts.with(shared, |bytes| bytes.len()), Some(SALT_BYTES));
    }

    #[test]
    fn without_a_shared_salt_there_may_be_none() {
        let salts = Salts::new(HOUR, Clock::System, Missing::Drop);
        let hour = this_hour(&salts);
        assert!(salts.at(at(hour, 0)).salt().is_none());
        assert!(salts.adopt(Salt::generate(hour, Some(1)).unwrap()));
        assert!(salts.at(at(hour, 0)).salt().is_some());
        assert!(salts.at(at(hour + 1, 0)).salt().is_none(), "never the old one");
        assert!(salts.current().salt().is_some_and(|salt| salt.id().epoch == hour));
    }

    proptest! {
        /// Whatever the order of requests and turns: a request of an epoch that is not over has that epoch's salt.
        #[test]
        fn requests_have_the_salt_of_their_epoch(steps in prop::collection::vec((any::<bool>(), -90_i64..90), 1..60)) {
            let salts = Salts::new(Duration::from_secs(60), Clock::System, Missing::Local);
            let mut now = since_epoch().as_secs();
            salts.turn(Duration::from_secs(now));
            let mut seen = std::collections::HashMap::new();
            for (is_turn, offset) in steps {
                if is_turn {
                    now += offset.unsigned_abs();
                    salts.turn(Duration::from_secs(now));
                    continue;
                }
                let start = Duration::from_secs(now.saturating_add_signed(offset.min(0)));
                let id = id(&salts, start);
                let epoch = salts.epoch(start);
                prop_assert!(id.epoch >= epoch && id.epoch <= salts.epoch(Duration::from_secs(now)));
                prop_assert_eq!(*seen.entry(id.epoch).or_insert(id), id, "one salt an epoch");
            }
        }
    }
}
