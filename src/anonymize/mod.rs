//! Addresses are hashed before a line exists.
//!
//! What is hashed is canonical, so that the same client gives the same hash however it was written: a family byte and
//! the address, IPv4-mapped IPv6 addresses folded to IPv4, zone and port dropped, IPv6 cut to its prefix. The function
//! is SipHash-2-4 with a 128-bit key, the salt, and 128-bit output (Aumasson and Bernstein, 2012).

mod address;
mod salt;

pub use address::{Element, for_each_element, parse};
pub use salt::{LocalSalt, Salt};

use std::net::IpAddr;

use siphasher::sip128::SipHasher24;

use crate::message::SaltId;

/// Hexadecimal digits of a hashed address.
pub const HASH_DIGITS: usize = 32;

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

/// Hashes addresses under one salt.
#[derive(Debug, Clone, Copy)]
pub struct AddressHasher<'a> {
    salt: &'a Salt,
    ip6_mask: u128,
}

impl<'a> AddressHasher<'a> {
    /// A hasher that looks at the first `ip6_prefix` bits of IPv6 addresses.
    #[must_use]
    pub fn new(salt: &'a Salt, ip6_prefix: u8) -> Self {
        Self { salt, ip6_mask: u128::MAX.checked_shl(128 - u32::from(ip6_prefix.min(128))).unwrap_or(0) }
    }

    /// The salt's id, which travels with the line.
    #[must_use]
    pub fn salt_id(&self) -> SaltId {
        self.salt.id()
    }

    /// Appends the hash of an address: 32 lower-case hexadecimal digits.
    pub fn append(&self, address: IpAddr, out: &mut Vec<u8>) {
        let mut input = [0; 17];
        let input = match address.to_canonical() {
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
        };
        let hash = SipHasher24::new_with_key(self.salt.key()).hash(input);
        let mut digits = [[0; 2]; HASH_DIGITS / 2];
        for (pair, byte) in digits.iter_mut().zip(&hash.as_bytes()) {
            *pair = HEX[usize::from(*byte)];
        }
        out.extend_from_slice(digits.as_flattened());
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher as _;

    use proptest::prelude::*;
    use siphasher::sip128::Hasher128 as _;

    use super::*;

    fn hash(salt: &Salt, prefix: u8, address: &str) -> String {
        let mut out = Vec::new();
        AddressHasher::new(salt, prefix).append(address.parse().unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_function_is_siphash_2_4_128() {
        // The reference implementation's vectors_sip128 for inputs of 0 and 5 bytes under the key 00 01 … 0f.
        let key = std::array::from_fn(|index| index as u8);
        let mut hasher = SipHasher24::new_with_key(&key);
        assert_eq!(hasher.finish128().as_bytes()[..4], [0xa3, 0x81, 0x7f, 0x04]);
        hasher.write(&[4, 192, 0, 2, 1]);
        let expected: String = hasher.finish128().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash(&Salt::from_key(0, key), 64, "192.0.2.1"), expected);
    }

    #[test]
    fn one_client_has_one_hash() {
        let salt = Salt::from_key(0, [7; 16]);
        assert_eq!(hash(&salt, 64, "192.0.2.1"), hash(&salt, 64, "::ffff:192.0.2.1"));
        assert_eq!(hash(&salt, 64, "2001:db8::1"), hash(&salt, 64, "2001:db8::ffff:1"));
        assert_ne!(hash(&salt, 128, "2001:db8::1"), hash(&salt, 128, "2001:db8::2"));
        assert_ne!(hash(&salt, 64, "2001:db8::1"), hash(&salt, 64, "2001:db8:0:1::1"));
        assert_ne!(hash(&salt, 64, "192.0.2.1"), hash(&Salt::from_key(0, [8; 16]), 64, "192.0.2.1"));
    }

    proptest! {
        #[test]
        fn a_hash_is_32_digits_and_never_the_address(address: IpAddr, key: [u8; 16], prefix in 0_u8..=128) {
            let text = hash(&Salt::from_key(0, key), prefix, &address.to_string());
            prop_assert_eq!(text.len(), HASH_DIGITS);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
        }
    }
}
