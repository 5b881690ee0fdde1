//! What a Kafka message says of its line besides the line: who numbered it, and how its addresses were hashed.
//!
//! Producer and sink share these definitions, so that the one's headers are the other's by construction.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use uuid::Uuid;

/// Header: the host that served the request, as text.
pub const HEADER_HOST: &str = "kl-host";
/// Header: the [`Boot`] that numbered the line, 16 bytes.
pub const HEADER_BOOT: &str = "kl-boot";
/// Header: the stream's name, as text.
pub const HEADER_STREAM: &str = "kl-stream";
/// Header: the line's number in its (host, boot, stream), unsigned 64-bit, big-endian.
pub const HEADER_SEQUENCE: &str = "kl-seq";
/// Header: the [`SaltId`] as text; absent where nothing was hashed.
pub const HEADER_SALT: &str = "kl-salt";

/// Consecutive sequence numbers that go to the same partition.
///
/// Large enough that a partition's share of a busy host fills whole protocol batches, small enough that a quiet host
/// does not sit on one partition for hours.
pub const PARTITION_BLOCK: u64 = 512;

/// One life of the pipeline: a UUIDv7, so that boots of a host sort by the time they began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(Uuid);

impl Boot {
    /// A boot that begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self(Uuid::now_v7())
    }

    /// The header's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The boot that a header names; `None` unless it has 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self)
    }

    /// The partition of the line with this sequence number, of `partitions` that the topic has.
    ///
    /// It follows from boot and number alone, so that a line that is sent again goes where it went before. Boots start
    /// at different partitions: otherwise all hosts would begin on partition 0.
    #[must_use]
    pub fn partition(&self, sequence: u64, partitions: u32) -> u32 {
        let partitions = u64::from(partitions.max(1));
        // The last 8 bytes of a UUIDv7 are random but for the variant's two bits.
        let start = self.0.as_u64_pair().1 % partitions;
        ((sequence / PARTITION_BLOCK % partitions + start) % partitions) as u32
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names the salt that a line's addresses were hashed under, and nothing more: lines with the same id can be joined.
///
/// Shared salts read `<epoch>.<generation>-<8 hexadecimal digits>`, local ones `<epoch>.L-<8 hexadecimal digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaltId {
    /// Rotation periods since 1970-01-01T00:00:00Z.
    pub epoch: u64,
    /// Which salt of that epoch; `None` for one that this node made for itself.
    pub generation: Option<u32>,
    /// The first four bytes of a digest of the salt.
    pub digest: u32,
}

impl fmt::Display for SaltId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            Some(generation) => write!(f, "{}.{generation}-{:08x}", self.epoch, self.digest),
            None => write!(f, "{}.L-{:08x}", self.epoch, self.digest),
        }
    }
}

impl fmt::Debug for SaltId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A `kl-salt` header that is not of its form.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` is no salt id: expected <epoch>.<generation>-<8 hexadecimal digits>, with L for the generation of a local salt"
)]
pub struct SaltIdError(String);

impl FromStr for SaltId {
    type Err = SaltIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (epoch, rest) = text.split_once('.')?;
            let (generation, digest) = rest.split_once('-')?;
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if !digits(epoch) || digest.len() != 8 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return None;
            }
            let generation = match generation {
                "L" => None,
                number if digits(number) => Some(number.parse().ok()?),
                _ => return None,
            };
            Some(Self { epoch: epoch.parse().ok()?, generation, digest: u32::from_str_radix(digest, 16).ok()? })
        };
        parse().ok_or_else(|| SaltIdError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn boots_sort_by_time() {
        let first = Boot::begin();
        let second = Boot::begin();
        assert!(first < second);
        assert_eq!(Boot::from_bytes(first.as_bytes()), Some(first));
        assert_eq!(Boot::from_bytes(b"short"), None);
    }

    #[test]
    fn a_block_stays_on_its_partition_and_the_next_moves_on() {
        let boot = Boot::begin();
        for block in 0..50 {
            let first = block * PARTITION_BLOCK;
            let partition = boot.partition(first, 12);
            assert_eq!(partition, boot.partition(first + PARTITION_BLOCK - 1, 12));
            assert_eq!((partition + 1) % 12, boot.partition(first + PARTITION_BLOCK, 12));
        }
    }

    #[test]
    fn salt_ids_have_two_forms() {
        let shared = SaltId { epoch: 20_000, generation: Some(3), digest: 0xab };
        let local = SaltId { epoch: 20_000, generation: None, digest: 0xdead_beef };
        assert_eq!(shared.to_string(), "20000.3-000000ab");
        assert_eq!(local.to_string(), "20000.L-deadbeef");
        for wrong in ["", "1", "1.L", "1.L-12", "x.L-00000000", "1.M-00000000", "1.1-0000000g", "1.1-+0000000"] {
            assert_eq!(wrong.parse::<SaltId>(), Err(SaltIdError(wrong.to_owned())), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn partitions_stay_in_range(sequence: u64, partitions: u32) {
            prop_assert!(Boot::begin().partition(sequence, partitions) < partitions.max(1));
        }

        #[test]
        fn salt_ids_read_back(epoch: u64, generation: Option<u32>, digest: u32) {
            let id = SaltId { epoch, generation, digest };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn any_text_is_a_salt_id_or_an_error(text: String) {
            let _ = text.parse::<SaltId>();
        }
    }
}
