//! What members write to ZooKeeper for each other. All of it is text; nothing of it helps whoever reads it later.
//!
//! | where, below `<root>/epoch/<E>` | what | lives |
//! |---|---|---|
//! | the node itself, the register | `1 <salt id> <proof>` | until the epoch is over |
//! | `holder/<generation>-<member>-<proof>` | the host's name | as long as its writer's session |
//! | `request/<name>` | `1 <one-shot public key> <proof>` | likewise |
//! | `box/<name>` | `1 <encapsulated key> <sealed salt>` | likewise, or until its reader deletes it |
//!
//! A proof is HMAC-SHA-256 under a key that is derived from the cluster's; in the names of holders, its first 8 bytes. Boxes are
//! HPKE (RFC 9180; X25519, HKDF-SHA-256, ChaCha20-Poly1305) in PSK mode, so that they are a member's, too.

use std::io;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, PskBundle, Serializable as _};
use zeroize::Zeroizing;

use super::cluster_key::{ClusterKey, PROOF};
use crate::anonymize::{SALT_BYTES, Salt};
use crate::message::SaltId;
use crate::secret::{STACK, Secret, scrub_stack};

/// Bytes of keys and of their encapsulation.
const KEY: usize = 32;

/// Bytes of a salt that is sealed, with its tag.
const SEALED: usize = SALT_BYTES + 16;

/// The version of all of this.
const VERSION: &str = "1";

/// Tells boxes of this protocol from any others.
const BOX: &str = "kafkalog salt box 1";

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type Encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey;

/// Writes the register: which salt is an epoch's.
pub(super) fn register(key: &ClusterKey, id: SaltId) -> String {
    let text = id.to_string();
    format!("{VERSION} {text} {}", hex(&key.prove(&[b"register", text.as_bytes()])))
}

/// Reads the register of an epoch; `None` if no member wrote it.
pub(super) fn read_register(key: &ClusterKey, epoch: u64, data: &[u8]) -> Option<SaltId> {
    let [id, proof] = fields(data)?;
    let read: SaltId = id.parse().ok()?;
    let is_ours = key.verify(&[b"register", id.as_bytes()], &bytes::<PROOF>(proof)?);
    Some(read).filter(|read| is_ours && read.epoch == epoch && read.generation.is_some())
}

/// The name of a holder's node.
pub(super) fn holder(key: &ClusterKey, epoch: u64, generation: u32, member: &str) -> String {
    let proof = key.prove(&holder_parts(&epoch.to_be_bytes(), &generation.to_be_bytes(), member));
    format!("{generation}-{member}-{}", hex(&proof[..8]))
}

/// The generation that a member says it holds; `None` if it is no member.
pub(super) fn read_holder(key: &ClusterKey, epoch: u64, name: &str) -> Option<u32> {
    let mut fields = name.split('-');
    let (generation, member, proof) = (fields.next()?.parse::<u32>().ok()?, fields.next()?, fields.next()?);
    let parts = (epoch.to_be_bytes(), generation.to_be_bytes());
    let is_ours = key.verify(&holder_parts(&parts.0, &parts.1, member), &bytes::<8>(proof)?);
    Some(generation).filter(|_| is_ours && fields.next().is_none())
}

fn holder_parts<'a>(epoch: &'a [u8; 8], generation: &'a [u8; 4], member: &'a str) -> [&'a [u8]; 4] {
    [b"holder", epoch, generation, member.as_bytes()]
}

/// A key pair that opens one box and is wiped.
pub(super) struct OneShot {
    private: Secret<PrivateKey>,
    /// Under which the request is, and the box will be.
    pub(super) name: String,
    /// What the request says.
    pub(super) request: String,
}

impl OneShot {
    /// Makes a pair for an epoch.
    pub(super) fn new(key: &ClusterKey, epoch: u64, name: String) -> io::Result<Self> {
        let mut public = None;
        let private = Secret::new(|| {
            let (private, other) = X25519HkdfSha256::gen_keypair();
            public = Some(other);
            private
        })?;
        let public = public.ok_or(io::ErrorKind::Other)?.to_bytes();
        let proof = key.prove(&[b"request", &epoch.to_be_bytes(), name.as_bytes(), &public]);
        let request = format!("{VERSION} {} {}", hex(&public), hex(&proof));
        Ok(Self { private, name, request })
    }

    /// Opens the box. `None` if it is not the salt with this id, sealed by a member for this key.
    pub(super) fn open(&self, key: &ClusterKey, id: SaltId, data: &[u8]) -> io::Result<Option<Salt>> {
        let salt = self.unseal(key, id, data);
        scrub_stack::<STACK>();
        salt.transpose().map(Option::flatten)
    }

    #[inline(never)]
    fn unseal(&self, key: &ClusterKey, id: SaltId, data: &[u8]) -> Option<io::Result<Option<Salt>>> {
        let [encapsulated, sealed] = fields(data)?;
        let encapsulated = Encapsulated::from_bytes(&bytes::<KEY>(encapsulated)?).ok()?;
        let mode = OpModeR::Psk(PskBundle::new(key.sealing(), BOX.as_bytes()).ok()?);
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &mode,
            self.private.expose(),
            &encapsulated,
            info(id, &self.name).as_bytes(),
            &bytes::<SEALED>(sealed)?,
            &[],
        );
        let opened = Zeroizing::new(opened.ok()?);
        Some(Salt::received(id, opened.as_slice().try_into().ok()?))
    }
}

/// The public key of a request; `None` if no member made it.
pub(super) fn read_request(key: &ClusterKey, epoch: u64, name: &str, data: &[u8]) -> Option<PublicKey> {
    let [public, proof] = fields(data)?;
    let public = bytes::<KEY>(public)?;
    if !key.verify(&[b"request", &epoch.to_be_bytes(), name.as_bytes(), &public], &bytes::<PROOF>(proof)?) {
        return None;
    }
    PublicKey::from_bytes(&public).ok()
}

/// Seals a salt for the one who made a request.
pub(super) fn seal(
    key: &ClusterKey,
    id: SaltId,
    salt: &[u8; SALT_BYTES],
    name: &str,
    reader: &PublicKey,
) -> Option<String> {
    let mode = OpModeS::Psk(PskBundle::new(key.sealing(), BOX.as_bytes()).ok()?);
    let sealed = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &mode,
        reader,
        info(id, name).as_bytes(),
        salt,
        &[],
    );
    let (encapsulated, sealed) = sealed.ok()?;
    Some(format!("{VERSION} {} {}", hex(&encapsulated.to_bytes()), hex(&sealed)))
}

/// What a box is bound to. The epoch and the generation are in the id, the cluster is in the key.
fn info(id: SaltId, name: &str) -> String {
    format!("{BOX} {id} {name}")
}

/// The two fields of a text of this version.
fn fields(data: &[u8]) -> Option<[&str; 2]> {
    let mut fields = std::str::from_utf8(data).ok()?.split(' ');
    let [version, first, second] = [fields.next()?, fields.next()?, fields.next()?];
    (version == VERSION && fields.next().is_none()).then_some([first, second])
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // A `String` takes whatever is written to it.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    from_hex(digits.as_bytes(), &mut bytes).map(|()| bytes)
}

/// The bytes that hexadecimal digits write; as many as there is room for.
pub(super) fn from_hex(digits: &[u8], bytes: &mut [u8]) -> Option<()> {
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16);
    for (byte, [high, low]) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = (value(*high)? << 4 | value(*low)?) as u8;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::cluster_key;
    use super::*;

    fn give(key: &ClusterKey, salt: &Salt, reader: &OneShot) -> String {
        let public =
            read_request(key, salt.id().epoch, &reader.name, reader.request.as_bytes()).expect("it is a request");
        seal(key, salt.id(), salt.bytes(), &reader.name, &public).expect("it can be sealed")
    }

    #[test]
    fn a_box_opens_for_its_reader_alone() {
        let key = cluster_key::of(1);
        let salt = Salt::generate(9, Some(2)).unwrap();
        let (reader, other) = (OneShot::new(&key, 9, "a".into()).unwrap(), OneShot::new(&key, 9, "a".into()).unwrap());
        let sealed = give(&key, &salt, &reader);
        let opened = reader.open(&key, salt.id(), sealed.as_bytes()).unwrap().expect("it is for this one");
        assert_eq!(opened.bytes(), salt.bytes());
        assert!(!sealed.contains(&hex(salt.bytes())));
        assert!(other.open(&key, salt.id(), sealed.as_bytes()).unwrap().is_none(), "another key");
        let wrong = SaltId { generation: Some(3), ..salt.id() };
        assert!(reader.open(&key, wrong, sealed.as_bytes()).unwrap().is_none(), "another salt");
        // Somebody without the cluster's key.
        assert!(reader.open(&cluster_key::of(2), salt.id(), sealed.as_bytes()).unwrap().is_none());
        let public = read_request(&key, 9, "a", reader.request.as_bytes()).unwrap();
        let planted = seal(&cluster_key::of(2), salt.id(), &[0; 32], "a", &public).unwrap();
        assert!(reader.open(&key, salt.id(), planted.as_bytes()).unwrap().is_none());
        // A member's box with a salt that is not the register's.
        let planted = seal(&key, salt.id(), &[0; 32], "a", &public).unwrap();
        assert!(reader.open(&key, salt.id(), planted.as_bytes()).unwrap().is_none());
    }

    #[test]
    fn only_members_are_believed() {
        let (key, other) = (cluster_key::of(1), cluster_key::of(2));
        let id = Salt::generate(9, Some(2)).unwrap().id();
        let text = register(&key, id);
        assert_eq!(read_register(&key, 9, text.as_bytes()), Some(id));
        assert_eq!(read_register(&other, 9, text.as_bytes()), None);
        assert_eq!(read_register(&key, 10, text.as_bytes()), None, "another epoch's");
        assert_eq!(read_register(&key, 9, text.replace("9.2-", "9.3-").as_bytes()), None);
        let name = holder(&key, 9, 2, "abc");
        assert_eq!(read_holder(&key, 9, &name), Some(2));
        assert_eq!(read_holder(&key, 8, &name), None);
        assert_eq!(read_holder(&other, 9, &name), None);
        assert_eq!(read_holder(&key, 9, &name.replacen('2', "3", 1)), None);
        let reader = OneShot::new(&key, 9, "a".into()).unwrap();
        assert!(read_request(&key, 9, "a", reader.request.as_bytes()).is_some());
        assert!(read_request(&other, 9, "a", reader.request.as_bytes()).is_none());
        assert!(read_request(&key, 9, "b", reader.request.as_bytes()).is_none(), "under another name");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(data: Vec<u8>, text in "1 [0-9a-f.L-]{0,80} [0-9a-f]{0,100}", name in "[0-9]{0,3}-?[a-z]{0,4}-?[0-9a-f]{0,16}") {
            super::super::fuzz::messages(&data);
            super::super::fuzz::messages(text.as_bytes());
            super::super::fuzz::messages(name.as_bytes());
        }
    }
}
