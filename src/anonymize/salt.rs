//! Salts: secret, short-lived, held in memory only.

use std::fmt;
use std::io;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use siphasher::sip128::SipHasher24;

use crate::message::SaltId;
use crate::secret::Secret;

/// Bytes of a salt. The first 16 are SipHash's key, all of them HMAC's.
pub const SALT_BYTES: usize = 32;

/// What a salt's id is a keyed digest of.
const ID: &[u8] = b"kafkalog salt id";

/// The key that addresses are hashed under, wiped when it is dropped. Nothing prints it.
pub struct Salt {
    id: SaltId,
    keys: Secret<Keys>,
}

/// The salt, and what the functions begin with: the same for every address.
struct Keys {
    bytes: [u8; SALT_BYTES],
    sip: SipHasher24,
    hmac: Hmac<Sha256>,
}

impl Keys {
    fn new(bytes: [u8; SALT_BYTES]) -> Self {
        let [first, _] = bytes.as_chunks::<16>().0 else { unreachable!("32 bytes are two times 16") };
        Self { bytes, sip: SipHasher24::new_with_key(first), hmac: hmac_sha256(&bytes) }
    }
}

/// HMAC-SHA-256 with a key of 32 bytes, before any input: RFC 2104 fills the key up with zeros to a block.
pub(crate) fn hmac_sha256(key: &[u8; 32]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    Hmac::new(&block.into())
}

impl Salt {
    /// A salt from the operating system's random source: shared, if it has a generation, else for this node alone.
    ///
    /// # Errors
    ///
    /// When that source fails, which Linux rules out once the system has booted, or there is no memory.
    pub fn generate(epoch: u64, generation: Option<u32>) -> io::Result<Self> {
        let mut failure = None;
        let keys = Secret::new(|| {
            let mut bytes = [0; SALT_BYTES];
            failure = getrandom::fill(&mut bytes).err();
            Keys::new(bytes)
        })?;
        match failure {
            None => Ok(Self::of(epoch, generation, keys)),
            Some(error) => Err(error.into()),
        }
    }

    /// A salt that was given away by another node; `None` if it is not the one that the id names.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub(crate) fn received(id: SaltId, bytes: &[u8; SALT_BYTES]) -> io::Result<Option<Self>> {
        let keys = Secret::new(|| Keys::new(*bytes))?;
        let salt = Self::of(id.epoch, id.generation, keys);
        Ok(Some(salt).filter(|salt| salt.id == id))
    }

    fn of(epoch: u64, generation: Option<u32>, keys: Secret<Keys>) -> Self {
        let mut hmac = keys.expose().hmac.clone();
        hmac.update(ID);
        let [a, b, c, d, ..]: [u8; 32] = hmac.finalize().into_bytes().into();
        // Four bytes: they fit one salt in 2³², so they tell salts apart and give none away.
        Self { id: SaltId { epoch, generation, digest: u32::from_be_bytes([a, b, c, d]) }, keys }
    }

    /// A known salt of this node, for tests and fuzzing.
    #[cfg(any(test, fuzzing))]
    #[allow(clippy::unwrap_used, reason = "only in tests")]
    pub(crate) fn from_bytes(epoch: u64, bytes: [u8; SALT_BYTES]) -> Self {
        Self::of(epoch, None, Secret::new(|| Keys::new(bytes)).unwrap())
    }

    /// Names the salt without telling anything of it.
    #[must_use]
    pub fn id(&self) -> SaltId {
        self.id
    }

    /// The secret itself, to be sealed for another node.
    pub(crate) fn bytes(&self) -> &[u8; SALT_BYTES] {
        &self.keys.expose().bytes
    }

    pub(super) fn sip(&self) -> &SipHasher24 {
        &self.keys.expose().sip
    }

    pub(super) fn hmac(&self) -> &Hmac<Sha256> {
        &self.keys.expose().hmac
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Salt({}, …)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_known_by_its_id() {
        let salt = Salt::generate(7, Some(2)).unwrap();
        assert_eq!((salt.id().epoch, salt.id().generation), (7, Some(2)));
        let again = Salt::received(salt.id(), salt.bytes()).unwrap().expect("it is that one");
        assert_eq!(again.id(), salt.id());
        assert!(Salt::received(salt.id(), &[1; SALT_BYTES]).unwrap().is_none());
        assert_ne!(Salt::generate(7, Some(2)).unwrap().id().digest, salt.id().digest);
    }

    #[test]
    fn nothing_prints_the_key() {
        let salt = Salt::from_bytes(1, [0xab; SALT_BYTES]);
        let shown = format!("{salt:?}");
        assert!(!shown.contains("171") && !shown.contains("abab"), "{shown}");
    }
}
