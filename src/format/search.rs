//! Addresses in text that is not made of them: URLs, cookies, what VCL writes to the log.

use std::net::IpAddr;

use crate::anonymize::parse;

/// A piece of such a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// An address. A port, a zone or brackets belong to the text around it.
    Address(IpAddr),
    /// Anything else.
    Text(&'a [u8]),
}

/// Hands over the pieces of a text in order. An address is what looks like one: four decimal numbers up to 255, or groups of
/// hexadecimal digits with two colons at least that make an IPv6 address, neither of them in the midst of a longer word.
pub(super) fn for_each_piece<'a>(text: &'a [u8], mut take: impl FnMut(Piece<'a>)) {
    let (mut said, mut at) = (0, 0);
    while at < text.len() {
        let length = text[at..].iter().take_while(|byte| is_part(**byte)).count();
        // What stands before or behind belongs to the word: `v1.2.3.4` and `10.0.0.1.example` are names.
        let begins = at == 0 || !is_word(text[at - 1]);
        if length > 0
            && begins
            && let Some((address, used)) = longest(&text[at..at + length], &text[at..])
        {
            if said < at {
                take(Piece::Text(&text[said..at]));
            }
            take(Piece::Address(address));
            said = at + used;
        }
        at += length.max(1);
    }
    if said < text.len() {
        take(Piece::Text(&text[said..]));
    }
}

/// The longest address that a run of an address's characters begins with, and how long it is; `text` is the run and what follows.
fn longest(run: &[u8], text: &[u8]) -> Option<(IpAddr, usize)> {
    // The longest that there is: an IPv6 address that ends with an IPv4 one.
    let most = run.len().min(45);
    (2..=most).rev().find_map(|length| {
        let is_end = match text.get(length..).unwrap_or_default() {
            // Of a sentence.
            [b'.', next, ..] => !is_word(*next),
            [next, ..] => !is_word(*next),
            [] => true,
        };
        let candidate = &run[..length];
        let digits = candidate.iter().filter(|byte| **byte != b':' && **byte != b'.').count();
        let colons = candidate.iter().filter(|byte| **byte == b':').count();
        // parse() takes ports, too, which stay in the text. `::` alone is seldom meant as an address.
        let is_plain = colons != 1 && digits > 0;
        (is_end && is_plain).then(|| parse(candidate)).flatten().map(|address| (address, length))
    })
}

fn is_part(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':')
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        let mut out = String::new();
        for_each_piece(text.as_bytes(), |piece| match piece {
            Piece::Address(address) => out.push_str(&format!("<{address}>")),
            Piece::Text(text) => out.push_str(&String::from_utf8_lossy(text)),
        });
        out
    }

    #[test]
    fn addresses_are_found_where_people_write_them() {
        for (text, found) in [
            ("/?ip=192.0.2.1&x=1", "/?ip=<192.0.2.1>&x=1"),
            ("192.0.2.1", "<192.0.2.1>"),
            ("192.0.2.1:8080, [2001:db8::1]:80", "<192.0.2.1>:8080, [<2001:db8::1>]:80"),
            ("client 2001:db8::1.", "client <2001:db8::1>."),
            ("a=::ffff:192.0.2.1;", "a=<::ffff:192.0.2.1>;"),
            ("from 192.0.2.1.", "from <192.0.2.1>."),
            ("http://[::1]/", "http://[<::1>]/"),
        ] {
            assert_eq!(shown(text), found);
        }
        for text in
            ["v1.2.3.4", "1.2.3", "12:30:45", "192.0.2.256", "1.2.3.4.5", "10.0.0.1.example", "::", "", "Call::method"]
        {
            assert_eq!(shown(text), text);
        }
    }

    proptest! {
        #[test]
        fn no_address_is_left(address: IpAddr, before in "(.*[ =/,\\[])?", after in "([ &/,;\\]].*)?") {
            let text = format!("{before}{address}{after}");
            prop_assume!(address.to_string() != "::");
            let mut is_found = false;
            for_each_piece(text.as_bytes(), |piece| is_found |= piece == Piece::Address(address));
            prop_assert!(is_found, "{}", text);
        }

        #[test]
        fn the_text_around_stays(text in "[0-9a-f.: x/\\[\\]%é]{0,40}") {
            let mut out = Vec::new();
            for_each_piece(text.as_bytes(), |piece| if let Piece::Text(text) = piece { out.extend_from_slice(text) });
            prop_assert!(out.len() <= text.len());
            let mut rest = text.as_bytes().iter();
            prop_assert!(out.iter().all(|byte| rest.any(|other| other == byte)), "in order");
        }
    }
}
