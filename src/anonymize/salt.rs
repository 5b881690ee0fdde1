//! Salts: secret, short-lived, held in memory only.

use std::fmt;
use std::hash::Hasher as _;
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher24};
use zeroize::Zeroizing;

use crate::message::SaltId;

/// How long an epoch's salt serves requests of that epoch that end late.
const GRACE: Duration = Duration::from_secs(120);

/// The key that addresses are hashed under, wiped when it is dropped. Nothing prints it.
pub struct Salt {
    id: SaltId,
    key: Zeroizing<[u8; 16]>,
}

impl Salt {
    /// A salt from the operating system's random source, for this node alone.
    ///
    /// # Errors
    ///
    /// When that source fails, which Linux rules out once the system has booted.
    pub fn generate(epoch: u64) -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; 16]);
        getrandom::fill(&mut *key)?;
        Ok(Self { id: local_id(epoch, &key), key })
    }

    /// A known salt, for tests and fuzzing.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_key(epoch: u64, key: [u8; 16]) -> Self {
        Self { id: local_id(epoch, &key), key: Zeroizing::new(key) }
    }

    /// Names the salt without telling anything of it.
    #[must_use]
    pub fn id(&self) -> SaltId {
        self.id
    }

    pub(super) fn key(&self) -> &[u8; 16] {
        &self.key
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Salt({}, …)", self.id)
    }
}

/// Four bytes of a keyed hash of a label: they fit one key in 2³², so they tell keys apart and do not give one away.
fn local_id(epoch: u64, key: &[u8; 16]) -> SaltId {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(b"kafkalog salt id");
    SaltId { epoch, generation: None, digest: (hasher.finish128().h1 >> 32) as u32 }
}

/// Local salts, a new one each epoch.
///
/// The epoch of a request is that of its start, so that a recording is hashed as it would have been live, and a rotation
/// is a comparison per request. Late requests of the epoch before keep its salt for two minutes.
#[derive(Debug)]
pub struct LocalSalt {
    period: Duration,
    current: Salt,
    previous: Option<Salt>,
}

impl LocalSalt {
    /// Salts that last for `period`, beginning with the epoch of `now` (time since 1970).
    ///
    /// # Errors
    ///
    /// See [`Salt::generate`].
    pub fn new(period: Duration, now: Duration) -> Result<Self, getrandom::Error> {
        Ok(Self { period, current: Salt::generate(epoch(period, now))?, previous: None })
    }

    /// The salt for a request that started at `start`, or `None` while the random source fails: then no address is
    /// passed on.
    pub fn of(&mut self, start: Duration) -> Option<&Salt> {
        let epoch = epoch(self.period, start);
        if epoch == self.current.id.epoch {
            let began = Duration::from_secs(epoch.saturating_mul(self.period.as_secs()));
            let late = start.saturating_sub(began);
            if self.previous.is_some() && late > GRACE {
                self.previous = None;
            }
            return Some(&self.current);
        }
        if epoch < self.current.id.epoch {
            return match &self.previous {
                Some(previous) if previous.id.epoch == epoch => self.previous.as_ref(),
                _ => Some(&self.current),
            };
        }
        let next = Salt::generate(epoch).ok()?;
        self.previous = Some(std::mem::replace(&mut self.current, next));
        Some(&self.current)
    }
}

fn epoch(period: Duration, time: Duration) -> u64 {
    time.as_secs() / period.as_secs().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: u64, seconds: u64) -> Duration {
        Duration::from_secs(hours * 3600 + seconds)
    }

    #[test]
    fn a_salt_lasts_for_its_epoch_and_late_requests_keep_it() {
        let mut salts = LocalSalt::new(HOUR, at(500_000, 10)).unwrap();
        let first = salts.of(at(500_000, 10)).unwrap().id();
        assert_eq!((first.epoch, first.generation), (500_000, None));
        assert_eq!(salts.of(at(500_000, 3599)).unwrap().id(), first);
        let second = salts.of(at(500_001, 0)).unwrap().id();
        assert_ne!(first.digest, second.digest);
        assert_eq!(salts.of(at(500_000, 3599)).unwrap().id(), first, "a late one");
        assert_eq!(salts.of(at(500_001, 121)).unwrap().id(), second);
        assert!(salts.previous.is_none(), "wiped after the grace");
        assert_eq!(salts.of(at(500_000, 3599)).unwrap().id(), second, "too late");
        assert_eq!(salts.of(at(500_009, 0)).unwrap().id().epoch, 500_009);
    }

    #[test]
    fn nothing_prints_the_key() {
        let salt = Salt::from_key(1, [0xab; 16]);
        let shown = format!("{salt:?}");
        assert!(!shown.contains("171") && !shown.contains("abab"), "{shown}");
    }
}
