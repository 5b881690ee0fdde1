//! Addresses are made unrecognisable before a line exists.
//!
//! What is hashed is canonical, so that the same client gives the same hash however it was written: a family byte and
//! the address, IPv4-mapped IPv6 addresses folded to IPv4, zone and port dropped, IPv6 cut to its prefix. The function
//! is SipHash-2-4 with 128-bit output (Aumasson and Bernstein, 2012), or the first half of HMAC-SHA-256 (RFC 2104), keyed
//! by the salt.

mod address;
mod salt;

pub use address::{Element, for_each_element, parse};
pub(crate) use salt::hmac_sha256;
pub use salt::{SALT_BYTES, Salt};

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use siphasher::sip128::SipHasher24;

use crate::config::IpFunction;
use crate::message::SaltId;

/// Hexadecimal digits of a hashed address.
pub const HASH_DIGITS: usize = 32;

/// What is left of a truncated address, in bits.
const TRUNCATED: (u32, u32) = (24, 48);

/// The two digits of every byte.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Makes of addresses what the configuration asks for.
#[derive(Clone, Copy)]
pub struct Anonymizer<'a> {
    function: Function<'a>,
    ip6_mask: u128,
    salt_id: Option<SaltId>,
}

#[derive(Clone, Copy)]
enum Function<'a> {
    Hash(&'a SipHasher24),
    HmacSha256(&'a Hmac<Sha256>),
    Truncate,
    Raw,
}

impl fmt::Debug for Anonymizer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let salt_id = self.salt_id.map(|id| id.to_string());
        f.debug_struct("Anonymizer").field("salt_id", &salt_id).finish_non_exhaustive()
    }
}

impl<'a> Anonymizer<'a> {
    /// Of IPv6 addresses, the first `ip6_prefix` bits are hashed. `None` when no address is to be shown: because that is what
    /// is asked for, or because there is no salt.
    #[must_use]
    pub fn new(function: IpFunction, salt: Option<&'a Salt>, ip6_prefix: u8) -> Option<Self> {
        let salt = if function.is_salted() { Some(salt?) } else { None };
        let function = match (function, salt) {
            (IpFunction::Hash, Some(salt)) => Function::Hash(salt.sip()),
            (IpFunction::HmacSha256, Some(salt)) => Function::HmacSha256(salt.hmac()),
            (IpFunction::Truncate, _) => Function::Truncate,
            (IpFunction::Raw, _) => Function::Raw,
            (IpFunction::Drop | IpFunction::Hash | IpFunction::HmacSha256, _) => return None,
        };
        let ip6_mask = u128::MAX.checked_shl(128 - u32::from(ip6_prefix.min(128))).unwrap_or(0);
        Some(Self { function, ip6_mask, salt_id: salt.map(Salt::id) })
    }

    /// The salt's id, which travels with the line; `None` where nothing is hashed.
    #[must_use]
    pub fn salt_id(&self) -> Option<SaltId> {
        self.salt_id
    }

    /// Appends what becomes of an address: of a hash, 32 lower-case hexadecimal digits.
    pub fn append(&self, address: IpAddr, out: &mut Vec<u8>) {
        let address = address.to_canonical();
        match self.function {
            Function::Hash(sip) => {
                let mut input = [0; 17];
                append_hex(&sip.hash(self.canonical(address, &mut input)).as_bytes(), out);
            }
            Function::HmacSha256(hmac) => {
                let mut input = [0; 17];
                let mut hmac = hmac.clone();
                hmac.update(self.canonical(address, &mut input));
                append_hex(&hmac.finalize().into_bytes()[..HASH_DIGITS / 2], out);
            }
            Function::Truncate => append_display(truncated(address), out),
            Function::Raw => append_display(address, out),
        }
    }

    /// What is hashed: the family and the address.
    fn canonical<'b>(&self, address: IpAddr, input: &'b mut [u8; 17]) -> &'b [u8] {
        match address {
            IpAddr::V4(address) => {
                input[0] = 4;
                input[1..5].copy_from_slice(&address.octets());
                &input[..5]
            }
            IpAddr::V6(address) => {
                input[0] = 6;
                input[1..].copy_from_slice(&(address.to_bits() & self.ip6_mask).to_be_bytes());
                &input[..]
            }
        }
    }
}

/// The address with all but its network's bits 0.
fn truncated(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - TRUNCATED.0))).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - TRUNCATED.1))).into(),
    }
}

fn append_hex(bytes: &[u8], out: &mut Vec<u8>) {
    let mut digits = [[0; 2]; HASH_DIGITS / 2];
    for (pair, byte) in digits.iter_mut().zip(bytes) {
        *pair = HEX[usize::from(*byte)];
    }
    out.extend_from_slice(digits.as_flattened());
}

fn append_display(address: IpAddr, out: &mut Vec<u8>) {
    // A `Vec` takes whatever is written to it.
    let _ = write!(out, "{address}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(function: IpFunction, salt: &Salt, prefix: u8, address: &str) -> String {
        let mut out = Vec::new();
        Anonymizer::new(function, Some(salt), prefix).unwrap().append(address.parse().unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn hash(salt: &Salt, prefix: u8, address: &str) -> String {
        shown(IpFunction::Hash, salt, prefix, address)
    }

    #[test]
    fn the_function_is_siphash_2_4_128() {
        use std::hash::Hasher as _;

        use siphasher::sip128::Hasher128 as _;

        // The reference implementation's vectors_sip128 for inputs of 0 and 5 bytes under the key 00 01 … 0f.
        let key: [u8; 16] = std::array::from_fn(|index| index as u8);
        let mut hasher = SipHasher24::new_with_key(&key);
        assert_eq!(hasher.finish128().as_bytes()[..4], [0xa3, 0x81, 0x7f, 0x04]);
        hasher.write(&[4, 192, 0, 2, 1]);
        let expected: String = hasher.finish128().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let salt = Salt::from_bytes(0, std::array::from_fn(|index| index as u8));
        assert_eq!(hash(&salt, 64, "192.0.2.1"), expected);
    }

    #[test]
    fn the_other_function_is_hmac_sha_256() {
        // printf '\x04\xc0\x00\x02\x01' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707…07 | cut -c 1-32
        let salt = Salt::from_bytes(0, [7; SALT_BYTES]);
        assert_eq!(shown(IpFunction::HmacSha256, &salt, 64, "192.0.2.1"), "eae14fb15ebde8d0773e76f70bb6de83");
    }

    #[test]
    fn one_client_has_one_hash() {
        let salt = Salt::from_bytes(0, [7; SALT_BYTES]);
        assert_eq!(hash(&salt, 64, "192.0.2.1"), hash(&salt, 64, "::ffff:192.0.2.1"));
        assert_eq!(hash(&salt, 64, "2001:db8::1"), hash(&salt, 64, "2001:db8::ffff:1"));
        assert_ne!(hash(&salt, 128, "2001:db8::1"), hash(&salt, 128, "2001:db8::2"));
        assert_ne!(hash(&salt, 64, "2001:db8::1"), hash(&salt, 64, "2001:db8:0:1::1"));
        assert_ne!(hash(&salt, 64, "192.0.2.1"), hash(&Salt::from_bytes(0, [8; SALT_BYTES]), 64, "192.0.2.1"));
    }

    #[test]
    fn addresses_can_be_cut_dropped_or_shown() {
        let salt = Salt::from_bytes(0, [7; SALT_BYTES]);
        let cut = |address| shown(IpFunction::Truncate, &salt, 64, address);
        assert_eq!(cut("192.0.2.77"), "192.0.2.0");
        assert_eq!(cut("::ffff:192.0.2.77"), "192.0.2.0");
        assert_eq!(cut("2001:db8:77:77::77"), "2001:db8:77::");
        assert_eq!(shown(IpFunction::Raw, &salt, 64, "2001:db8::77"), "2001:db8::77");
        assert!(Anonymizer::new(IpFunction::Drop, Some(&salt), 64).is_none());
        assert!(Anonymizer::new(IpFunction::Hash, None, 64).is_none());
        assert_eq!(Anonymizer::new(IpFunction::Raw, Some(&salt), 64).unwrap().salt_id(), None);
    }

    proptest! {
        #[test]
        fn a_hash_is_32_digits_and_never_the_address(address: IpAddr, bytes: [u8; SALT_BYTES], prefix in 0_u8..=128) {
            for function in [IpFunction::Hash, IpFunction::HmacSha256] {
                let text = shown(function, &Salt::from_bytes(0, bytes), prefix, &address.to_string());
                prop_assert_eq!(text.len(), HASH_DIGITS);
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
            }
        }
    }
}
