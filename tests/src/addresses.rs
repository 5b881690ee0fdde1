//! Looks for client addresses where none may be.
//!
//! The load comes from 127.0.0.1 to 127.0.0.9 and claims, in its headers, to have been forwarded for addresses that are
//! reserved for documentation (RFC 5737, RFC 3849). Any of these in a file or in a program's output is a leak.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::Context as _;
use flate2::read::MultiGzDecoder;

/// Every address that the load uses begins with one of these. No other text of the demo does, ports aside.
pub const PREFIXES: [&str; 3] = ["198.51.100.", "2001:db8:", "127.0.0."];

/// An address that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The file.
    pub file: PathBuf,
    /// Bytes before the address, after decompression.
    pub offset: usize,
    /// The address and what follows it.
    pub excerpt: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at byte {}: {}", self.file.display(), self.offset, self.excerpt)
    }
}

/// What was found, and in how much.
#[derive(Debug, Default)]
pub struct Found {
    /// The addresses.
    pub leaks: Vec<Leak>,
    /// Files that were read.
    pub files: usize,
    /// Bytes that were read, after decompression.
    pub bytes: usize,
}

/// Searches all files under `directories`, in gzip files for what they hold.
///
/// `listening` are the demo's own servers, `127.0.0.1:PORT`: programs may name those.
///
/// # Errors
///
/// When something there cannot be read.
pub fn search(directories: &[&Path], listening: &[String]) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for directory in directories {
        for file in files(directory)? {
            let mut bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            if file.extension().is_some_and(|extension| extension == "gz") {
                let mut text = Vec::new();
                MultiGzDecoder::new(&bytes[..])
                    .read_to_end(&mut text)
                    .with_context(|| format!("decompressing {}", file.display()))?;
                bytes = text;
            }
            found.files += 1;
            found.bytes += bytes.len();
            found.leaks.extend(leaks(&bytes, listening).map(|(offset, excerpt)| Leak {
                file: file.clone(),
                offset,
                excerpt,
            }));
        }
    }
    Ok(found)
}

/// All files under a directory, sorted.
///
/// # Errors
///
/// When a directory cannot be read.
pub fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))? {
            let entry = entry.with_context(|| format!("listing {}", directory.display()))?;
            let kind = entry.file_type().with_context(|| format!("looking at {}", entry.path().display()))?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn leaks<'a>(text: &'a [u8], listening: &'a [String]) -> impl Iterator<Item = (usize, String)> + 'a {
    (0..text.len()).filter_map(move |offset| {
        let here = &text[offset..];
        let begins = PREFIXES.iter().any(|prefix| begins_with(here, prefix));
        let server = || {
            listening
                .iter()
                .any(|address| begins_with(here, address) && !here.get(address.len()).is_some_and(u8::is_ascii_digit))
        };
        (begins && !server())
            .then(|| (offset, String::from_utf8_lossy(&here[..here.len().min(40)]).escape_debug().to_string()))
    })
}

/// Hexadecimal digits may be written either way.
fn begins_with(text: &[u8], prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_and_servers_are_not() {
        let listening = ["127.0.0.1:4000".to_owned()];
        let text = b"a 198.51.100.7, 2001:DB8::1 b 127.0.0.1:4000,127.0.0.1:40001 127.0.0.3 198.51.101.1";
        let offsets: Vec<_> = leaks(text, &listening).map(|(offset, _)| offset).collect();
        assert_eq!(offsets, [2, 16, 45, 61]);
    }
}
