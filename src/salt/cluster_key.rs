//! What the members of a cluster have in common, and what it proves.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::anonymize::hmac_sha256;
use crate::secret::Secret;

/// Bytes of the key.
const KEY: usize = 32;

/// Bytes of a proof.
pub(super) const PROOF: usize = 32;

/// A cluster key that cannot be used.
#[derive(Debug, Error)]
pub enum ClusterKeyError {
    /// The file cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// Everybody may read it.
    #[error("everybody may read it: chmod o= it")]
    Open,
    /// It is no key.
    #[error("it holds no key, expected 32 random bytes, or their 64 hexadecimal digits (openssl rand -hex 32)")]
    Form,
}

/// The secret that all members of a cluster have, and nobody else.
pub struct ClusterKey(Secret<Keys>);

/// Keys for different ends, none of which tells of the other.
struct Keys {
    proof: Hmac<Sha256>,
    sealing: [u8; KEY],
}

impl Keys {
    fn new(key: &[u8; KEY]) -> Self {
        let derived = |label: &[u8]| -> [u8; KEY] {
            let mut hmac = hmac_sha256(key);
            hmac.update(label);
            hmac.finalize().into_bytes().into()
        };
        Self { proof: hmac_sha256(&derived(b"kafkalog proof")), sealing: derived(b"kafkalog sealing") }
    }
}

impl ClusterKey {
    /// Reads the key from a file that is not everybody's.
    ///
    /// # Errors
    ///
    /// [`ClusterKeyError`], without a word of what the file holds.
    pub fn read(path: &Path) -> Result<Self, ClusterKeyError> {
        let file = File::open(path)?;
        if file.metadata()?.mode() & 0o007 != 0 {
            return Err(ClusterKeyError::Open);
        }
        // One more than there may be, and never more than was set aside: a vector that grows leaves copies behind.
        let mut content = Zeroizing::new(Vec::with_capacity(2 * KEY + 3));
        file.take(2 * KEY as u64 + 2).read_to_end(&mut content)?;
        Self::parse(&content)
    }

    fn parse(content: &[u8]) -> Result<Self, ClusterKeyError> {
        if let Ok(key) = content.try_into() {
            return Ok(Self(Secret::new(|| Keys::new(key))?));
        }
        let digits: &[u8; 2 * KEY] = content.trim_ascii_end().try_into().map_err(|_| ClusterKeyError::Form)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(ClusterKeyError::Form);
        }
        let mut key = Zeroizing::new([0; KEY]);
        super::message::from_hex(digits, &mut key[..]).ok_or(ClusterKeyError::Form)?;
        Ok(Self(Secret::new(|| Keys::new(&key))?))
    }

    /// Proves that a member has written these parts.
    pub(super) fn prove(&self, parts: &[&[u8]]) -> [u8; PROOF] {
        self.digest(parts).finalize().into_bytes().into()
    }

    /// Whether a proof, or the beginning of one, is a member's. Takes the same time for every wrong one.
    pub(super) fn verify(&self, parts: &[&[u8]], proof: &[u8]) -> bool {
        proof.len() >= 8 && self.digest(parts).verify_truncated_left(proof).is_ok()
    }

    fn digest(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = self.0.expose().proof.clone();
        for part in parts {
            // With their lengths, so that no two lists of parts are the same bytes.
            hmac.update(&(part.len() as u64).to_be_bytes());
            hmac.update(part);
        }
        hmac
    }

    /// The key that boxes are sealed with, beside their reader's.
    pub(super) fn sealing(&self) -> &[u8; KEY] {
        &self.0.expose().sealing
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, reason = "only in tests")]
pub(super) fn of(byte: u8) -> ClusterKey {
    ClusterKey::parse(&[byte; KEY]).unwrap()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_bytes_or_digits() {
        let bytes = of(0xab);
        let digits = ClusterKey::parse("ab".repeat(32).as_bytes()).unwrap();
        let line = ClusterKey::parse(format!("{}\n", "AB".repeat(32)).as_bytes()).unwrap();
        let proof = bytes.prove(&[b"x"]);
        assert!(digits.verify(&[b"x"], &proof) && line.verify(&[b"x"], &proof[..8]));
        assert!(!line.verify(&[b"x"], &[]) && !line.verify(&[b"x"], &proof[..7]));
        assert!(!bytes.verify(&[b"", b"x"], &proof) && !of(0xac).verify(&[b"x"], &proof));
        for wrong in [&b""[..], &[1; 31], &[1; 33], "xy".repeat(32).as_bytes(), "ab".repeat(33).as_bytes()] {
            assert!(matches!(ClusterKey::parse(wrong), Err(ClusterKeyError::Form)), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_that_everybody_reads_is_no_secret() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, [9; KEY]).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(ClusterKey::read(file.path()).is_ok());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(ClusterKey::read(file.path()), Err(ClusterKeyError::Open)));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, [9; 100_000]).unwrap();
        assert!(matches!(ClusterKey::read(file.path()), Err(ClusterKeyError::Form)));
        assert!(matches!(ClusterKey::read(Path::new("/nowhere")), Err(ClusterKeyError::Read(_))));
    }
}
