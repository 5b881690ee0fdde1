//! Escaping: what makes a value safe inside a line.

use super::append::append_until;
use crate::block::{special_in_json, special_in_text};

/// How values are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// varnishncsa's default: `\"` `\\` `\n` `\r` `\t`, other bytes outside 0x20 to 0x7e as `\xHH`.
    Hex,
    /// The inside of a JSON string (RFC 8259), always valid UTF-8: what is not becomes U+FFFD.
    Json,
    /// varnishncsa's `-j`: as JSON, but bytes above 0x7e as they are, valid UTF-8 or not.
    Raw,
    /// For fields between tabs, as udp2log's readers split them: white space and control characters become `%HH`, all else
    /// stays as it is.
    Percent,
}

impl Escape {
    /// Appends a value.
    #[inline]
    pub fn append(self, value: &[u8], out: &mut Vec<u8>) {
        if self == Self::Json {
            append_json(value, out);
        } else {
            self.append_text(value, out);
        }
    }

    #[inline(never)]
    fn append_text(self, value: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Hex => append_hex_quoted(value, out),
            Self::Raw => append_raw(value, out),
            Self::Percent => append_percent(value, out),
            Self::Json => append_json(value, out),
        }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends a value as varnishncsa does without `-j`.
pub fn append_hex_quoted(mut value: &[u8], out: &mut Vec<u8>) {
    loop {
        let count = append_until(value, special_in_text, out);
        let [byte, rest @ ..] = &value[count..] else { return };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\x0b' => out.extend_from_slice(b"\\v"),
            _ => out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
        value = rest;
    }
}

/// Appends a value without white space in it.
fn append_percent(value: &[u8], out: &mut Vec<u8>) {
    for byte in value {
        match byte {
            0..=0x20 | 0x7f => {
                out.extend_from_slice(&[b'%', HEX_UPPER[usize::from(byte >> 4)], HEX_UPPER[usize::from(byte & 15)]]);
            }
            _ => out.push(*byte),
        }
    }
}

const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// Appends a value as varnishncsa does with `-j`.
fn append_raw(mut value: &[u8], out: &mut Vec<u8>) {
    loop {
        let count = append_until(value, special_in_json, out);
        let [byte, rest @ ..] = &value[count..] else { return };
        match byte {
            0x80.. => out.push(*byte),
            // No escape that JSON has, but the one that varnishncsa writes.
            b'\x0b' => out.extend_from_slice(b"\\v"),
            _ => append_escaped(*byte, out),
        }
        value = rest;
    }
}

/// Appends a value as the inside of a JSON string.
#[inline(always)]
pub fn append_json(value: &[u8], out: &mut Vec<u8>) {
    let count = append_until(value, special_in_json, out);
    if count < value.len() {
        escape_json(&value[count..], out);
    }
}

/// Appends a value that begins with something that needs attention.
#[cold]
fn escape_json(mut value: &[u8], out: &mut Vec<u8>) {
    while let [byte, after @ ..] = value {
        value = match byte {
            0x80.. => append_characters(value, out),
            _ => {
                append_escaped(*byte, out);
                after
            }
        };
        value = &value[append_until(value, special_in_json, out)..];
    }
}

fn append_escaped(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x00..=0x1f => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        _ => out.extend_from_slice(&[b'\\', byte]),
    }
}

/// Appends the characters beyond ASCII that the value starts with, and gives back what follows them.
#[cold]
fn append_characters<'a>(value: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let run = value.iter().position(u8::is_ascii).unwrap_or(value.len());
    for chunk in value[..run].utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    &value[run..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(value: &[u8]) -> String {
        let mut out = Vec::new();
        append_json(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_escaped() {
        assert_eq!(json(b"plain /wiki/Main_Page?a=b&c=d"), "plain /wiki/Main_Page?a=b&c=d");
        assert_eq!(json(b"\"\\\n\r\t\x01\x1f\x7f"), "\\\"\\\\\\n\\r\\t\\u0001\\u001f\x7f");
        assert_eq!(json("gr\u{fc}n \u{1f980}".as_bytes()), "gr\u{fc}n \u{1f980}");
        assert_eq!(json(b"a\xffb\xe2\x82"), "a\u{fffd}b\u{fffd}");
        let mut out = Vec::new();
        append_hex_quoted(b"a\"b\\c\n\r\t\x00\x7f\xc3\xbc", &mut out);
        assert_eq!(out, b"a\\\"b\\\\c\\n\\r\\t\\x00\\x7f\\xc3\\xbc");
    }

    proptest! {
        #[test]
        fn json_reads_back(value: Vec<u8>, padding in 0_usize..9) {
            let mut padded = vec![b'x'; padding];
            padded.extend_from_slice(&value);
            let read: String = serde_json::from_str(&format!("\"{}\"", json(&padded))).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&padded));
        }

        #[test]
        fn mostly_plain_json_reads_back(value in "[ -~\u{0}-\u{ff}]{0,40}") {
            let read: String = serde_json::from_str(&format!("\"{}\"", json(value.as_bytes()))).unwrap();
            prop_assert_eq!(read, value);
        }

        #[test]
        fn quoted_text_is_printable_ascii(value: Vec<u8>) {
            let mut out = Vec::new();
            append_hex_quoted(&value, &mut out);
            prop_assert!(out.iter().all(|byte| (0x20..=0x7e).contains(byte)));
        }
    }
}
