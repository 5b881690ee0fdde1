//! Credentials, well-formed and not.

use super::client::{To, expect, get};
use super::varnish::Varnish;

/// Values of Authorization whose user is found, or is not.
const VALUES: [&[u8]; 24] = [
    // user:password, in cases and with blanks.
    b"Basic dXNlcjpwYXNzd29yZA==",
    b"basic dXNlcjpwYXNzd29yZA==",
    b"BASIC dXNlcjpwYXNzd29yZA==",
    b"Basic   dXNlcjpwYXNzd29yZA==  ",
    b"Basic\tdXNlcjpwYXNzd29yZA==",
    b"  Basic dXNlcjpwYXNzd29yZA==",
    b"BasicdXNlcjpwYXNzd29yZA==",
    b"Basic dXNlcjpwYXNzd29yZA== more",
    // Without padding, with too much, with some in the middle.
    b"Basic dXNlcg",
    b"Basic dXNlcjpwYXNzd29yZA",
    b"Basic dXNlcjpwYXNzd29yZA====",
    b"Basic dXN=lcjp",
    // user, :password, user:, a:b:c and none.
    b"Basic dXNlcg==",
    b"Basic OnBhc3N3b3Jk",
    b"Basic dXNlcjo=",
    b"Basic YTpiOmM=",
    b"Basic Og==",
    b"Basic ",
    b"Basic",
    b"",
    // No base64, and that of URLs.
    b"Basic !!!",
    b"Basic -_-_",
    // Others.
    b"Bearer dXNlcjpwYXNzd29yZA==",
    b"Digest username=\"user\", realm=\"r\"",
];

/// Users with bytes that have to be escaped.
const USERS: [&[u8]; 6] =
    [b"two words:p", b"quo\"te\\:p", b"u\xc3\xbc\xff:p", b"new\nline\ttab\r:p", b"nul\0in:p", b"\x7f\x01:p"];

/// Longer ones go where varnishncsa 7.1 falls over.
const LONGEST: usize = 110;

pub(super) fn drive(varnish: &Varnish) -> anyhow::Result<()> {
    for value in VALUES {
        ask(varnish, value)?;
    }
    for user in USERS {
        ask(varnish, &basic(user))?;
    }
    for length in [1, 50, LONGEST] {
        ask(varnish, &basic("u".repeat(length).as_bytes()))?;
        ask(varnish, &basic(&[b"u:", &vec![b'p'; length - 1][..]].concat()))?;
    }
    let two = [b"Bearer x\r\nAuthorization: ", &basic(b"second:p")[..]].concat();
    ask(varnish, &two)?;
    ask(varnish, &[&basic(b"first:p")[..], b"\r\nauthorization: ", &basic(b"second:p")].concat())
}

/// Credentials that decode to about as much as varnishncsa 7.1 has room for, and to more; and some with bytes that its table
/// of base64 digits does not have, so that it looks up others.
pub(super) fn drive_hostile(varnish: &Varnish) -> anyhow::Result<()> {
    ask(varnish, b"Basic \xff\xfe")?;
    for length in [121, 126, 127, 128, 129, 130, 200, 255, 256, 257, 300, 2000] {
        ask(varnish, &basic("u".repeat(length).as_bytes()))?;
        ask(varnish, &basic(&["u".repeat(length).as_bytes(), b":password"].concat()))?;
        ask(varnish, &basic(&[b"u:", &vec![b'p'; length][..]].concat()))?;
    }
    Ok(())
}

fn ask(varnish: &Varnish, value: &[u8]) -> anyhow::Result<()> {
    let header = [b"Authorization: ", value, b"\r\n"].concat();
    expect(varnish, To::Tcp, &get("/authorization", header), 200).map(drop)
}

fn basic(credentials: &[u8]) -> Vec<u8> {
    [b"Basic ", base64(credentials).as_bytes()].concat()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, index| bits << 8 | u32::from(group.get(index).copied().unwrap_or(0)));
        for index in 0..4 {
            let sextet = bits >> (18 - 6 * index) & 63;
            text.push(if index <= group.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(texts, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }
}
