//! Addresses as they stand in log records and in headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::from_utf8;

/// The address that a text writes: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`, either with a zone
/// (`%eth0`), in quotes or not. `None` for anything else.
#[must_use]
pub fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = text.trim_ascii();
    if let Some(address) = ip4(text) {
        return Some(IpAddr::V4(address));
    }
    let text = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    if let Some(rest) = text.strip_prefix(b"[") {
        let end = rest.iter().position(|byte| *byte == b']')?;
        let (inside, port) = (&rest[..end], &rest[end + 1..]);
        return if port.is_empty() || is_port(port) { ip6(inside).map(IpAddr::V6) } else { None };
    }
    let mut colons = text.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(index, _)| index);
    match (colons.next(), colons.next()) {
        (None, _) => ip4(text).map(IpAddr::V4),
        (Some(colon), None) if is_port(&text[colon..]) => ip4(&text[..colon]).map(IpAddr::V4),
        (Some(_), None) => None,
        (Some(_), Some(_)) => ip6(text).map(IpAddr::V6),
    }
}

/// Four decimal numbers, without leading zeros, which some read as octal.
fn ip4(text: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut rest = text;
    for (index, octet) in octets.iter_mut().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let (value, digits) = match *rest {
            [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => (number([a, b, c]), 3),
            [a @ b'0'..=b'9', b @ b'0'..=b'9', ..] => (number([b'0', a, b]), 2),
            [a @ b'0'..=b'9', ..] => (number([b'0', b'0', a]), 1),
            _ => return None,
        };
        if digits > 1 && rest[0] == b'0' {
            return None;
        }
        (*octet, rest) = (u8::try_from(value).ok()?, &rest[digits..]);
    }
    rest.is_empty().then(|| octets.into())
}

/// The number that three digits write.
fn number(digits: [u8; 3]) -> u32 {
    digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))
}

fn ip6(text: &[u8]) -> Option<Ipv6Addr> {
    let address = text.split(|byte| *byte == b'%').next()?;
    from_utf8(address).ok()?.parse().ok()
}

/// `:80`; RFC 7239 also has obfuscated ports, `:_name`.
fn is_port(text: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    text.strip_prefix(b":").is_some_and(|port| !port.is_empty() && port.len() <= 32 && port.iter().all(is_token))
}

/// The most elements of a list that are looked at. No real chain of proxies is longer; the rest is left out.
const ELEMENTS: usize = 64;

/// One piece of a header that lists addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element<'a> {
    /// An address, to be hashed.
    Address(IpAddr),
    /// Text that is no address and cannot hide one: separators, `for=`, `proto=https`, `unknown`.
    Text(&'a [u8]),
    /// Anything else. It is never passed on: who knows what it holds.
    Invalid,
}

/// Hands over the pieces of `X-Forwarded-For` and its like (a list separated by commas) or, if it has parameters, of
/// `Forwarded` (RFC 7239), in order.
pub fn for_each_element<'a>(value: &'a [u8], mut take: impl FnMut(Element<'a>)) {
    for (index, element) in value.split(|byte| *byte == b',').take(ELEMENTS).enumerate() {
        if index > 0 {
            take(Element::Text(b", "));
        }
        // Nearly always it is just that.
        if let Some(address) = parse(element) {
            take(Element::Address(address));
            continue;
        }
        for (index, pair) in element.split(|byte| *byte == b';').take(ELEMENTS).enumerate() {
            if index > 0 {
                take(Element::Text(b";"));
            }
            pair_elements(pair.trim_ascii(), &mut take);
        }
    }
}

/// A parameter `name=value`, or a bare value.
fn pair_elements<'a>(pair: &'a [u8], take: &mut impl FnMut(Element<'a>)) {
    let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { return take(bare(pair)) };
    let (name, value) = pair.split_at(equals + 1);
    let known = |known: &[u8]| name.eq_ignore_ascii_case(known);
    if known(b"for=") || known(b"by=") {
        take(Element::Text(name));
        take(bare(value));
    } else if known(b"proto=") && value.iter().all(u8::is_ascii_alphabetic) {
        take(Element::Text(pair));
    } else if known(b"host=") {
        // It may well be an address.
        take(Element::Text(name));
        take(host(value));
    } else {
        take(Element::Invalid);
    }
}

fn bare(value: &[u8]) -> Element<'_> {
    match parse(value) {
        Some(address) => Element::Address(address),
        None if value.is_empty() => Element::Text(b""),
        None if value.eq_ignore_ascii_case(b"unknown") => Element::Text(value),
        None => Element::Invalid,
    }
}

/// A name with at least one letter in its last label is no address, in whatever notation.
fn host(value: &[u8]) -> Element<'_> {
    let label = value.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    match parse(value) {
        Some(address) => Element::Address(address),
        None if value.iter().all(is_name) && label.first().is_some_and(u8::is_ascii_alphabetic) => Element::Text(value),
        None => Element::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read_in_all_their_notations() {
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:8080", "192.0.2.1"),
            ("\"192.0.2.1:8080\"", "192.0.2.1"),
            (" 192.0.2.1\t", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:db8::1%eth0", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("\"[2001:db8::1]:443\"", "2001:db8::1"),
            ("[2001:db8::1]:_obfuscated", "2001:db8::1"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(address.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            "-",
            "192.0.2",
            "192.0.2.256",
            "192.0.2.1:",
            "192.0.2.1x",
            "[192.0.2.1]",
            "[::1",
            "::1]",
            "host:80",
            "1:2",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    fn elements(value: &[u8]) -> Vec<Element<'_>> {
        let mut elements = Vec::new();
        for_each_element(value, |element| elements.push(element));
        elements
    }

    fn shown(value: &str) -> String {
        let show = |element: &Element<'_>| match element {
            Element::Address(address) => format!("<{address}>"),
            Element::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Element::Invalid => "invalid".to_owned(),
        };
        elements(value.as_bytes()).iter().map(show).collect()
    }

    #[test]
    fn lists_keep_their_order_and_let_nothing_unknown_through() {
        assert_eq!(shown("192.0.2.1, 2001:db8::1,unknown"), "<192.0.2.1>, <2001:db8::1>, unknown");
        assert_eq!(shown("for=192.0.2.60;proto=http;by=203.0.113.43"), "for=<192.0.2.60>;proto=http;by=<203.0.113.43>");
        assert_eq!(shown("For=\"[2001:db8::1]:47011\", for=unknown"), "For=<2001:db8::1>, for=unknown");
        assert_eq!(shown("host=example.org;for=_secret"), "host=example.org;for=invalid");
        assert_eq!(shown("host=192.0.2.1;x=192.0.2.1;192.0.2.1 192.0.2.2"), "host=<192.0.2.1>;invalid;invalid");
        assert_eq!(shown(""), "");
        assert_eq!(elements(&b",".repeat(1000)).len(), 2 * ELEMENTS - 1);
    }

    proptest! {
        #[test]
        fn whatever_is_written_no_address_stays_in_the_text(address: std::net::Ipv4Addr, before in "[a-z=;, \"\\[:]{0,6}", after in "[a-z=;, \"\\]:%]{0,6}") {
            let value = format!("{before}{address}{after}");
            for element in elements(value.as_bytes()) {
                if let Element::Text(text) = element {
                    prop_assert!(!String::from_utf8_lossy(text).contains(&address.to_string()), "{}", value);
                }
            }
        }

        #[test]
        fn dotted_numbers_are_read_as_the_standard_library_does(text in "[0-9]{0,4}(\\.[0-9]{0,4}){2,4}|[0-9.a:]{0,16}") {
            prop_assert_eq!(ip4(text.as_bytes()), text.parse().ok());
        }

        #[test]
        fn any_bytes_are_taken(value: Vec<u8>) {
            let _ = parse(&value);
            let _ = elements(&value);
        }
    }
}
