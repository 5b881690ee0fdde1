//! Whether the two programs say the same of every request.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::logger::ADDRESSES;

/// What is compared of a line. A value that is not there is empty to one program and `-` to the other; a size is text
/// to one and a number to the other.
type Fields = BTreeMap<String, String>;

/// Compares what both have printed, and returns the number of lines.
///
/// Lines are put in order first, as those of requests that ended together may come in either.
///
/// # Errors
///
/// When there are more lines of one, and at the first that differ in anything but addresses.
pub fn check(theirs: &Path, ours: &Path) -> anyhow::Result<u64> {
    let (theirs, ours) = (read(theirs)?, read(ours)?);
    compare(&theirs, &ours)?;
    Ok(ours.len() as u64)
}

/// Compares what both have printed byte for byte, and returns the number of lines.
///
/// # Errors
///
/// At the first line that differs.
pub fn check_bytes(theirs: &Path, ours: &Path) -> anyhow::Result<u64> {
    let read = |file: &Path| fs::read(file).with_context(|| format!("reading {}", file.display()));
    let (theirs, ours) = (read(theirs)?, read(ours)?);
    let lines = |bytes: &[u8]| bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    if theirs != ours {
        let (theirs, ours) = (lines(&theirs), lines(&ours));
        let same = theirs.iter().zip(&ours).take_while(|(theirs, ours)| theirs == ours).count();
        let show = |lines: &[Vec<u8>]| lines.get(same).map(|line| line.escape_ascii().to_string());
        bail!("line {} differs:\n  varnishncsa: {:?}\n  kafkalog:    {:?}", same + 1, show(&theirs), show(&ours));
    }
    Ok(ours.iter().filter(|byte| **byte == b'\n').count() as u64)
}

fn read(file: &Path) -> anyhow::Result<Vec<Fields>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let fields = fields(line).with_context(|| format!("{}, line {}: {line}", file.display(), index + 1))?;
        lines.push(fields);
    }
    lines.sort_unstable();
    Ok(lines)
}

fn fields(line: &str) -> anyhow::Result<Fields> {
    let object: BTreeMap<String, Value> = serde_json::from_str(line)?;
    let text = |value| match value {
        Value::String(text) if text == "-" => String::new(),
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let named = object.into_iter().filter(|(name, _)| !ADDRESSES.contains(&name.as_str()));
    Ok(named.map(|(name, value)| (name, text(value))).collect())
}

fn compare(theirs: &[Fields], ours: &[Fields]) -> anyhow::Result<()> {
    if theirs.len() != ours.len() {
        bail!("varnishncsa prints {} lines and kafkalog {}", theirs.len(), ours.len());
    }
    for (theirs, ours) in theirs.iter().zip(ours) {
        if theirs != ours {
            bail!("the lines differ:\n  varnishncsa: {theirs:?}\n  kafkalog:    {ours:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_by_design_may_differ() {
        let theirs = fields(r#"{"ip":"192.0.2.1","size":"12","range":"","path":"/a"}"#).unwrap();
        let ours = fields(r#"{"ip":"abcdef","size":12,"range":"-","path":"/a"}"#).unwrap();
        assert!(compare(std::slice::from_ref(&theirs), std::slice::from_ref(&ours)).is_ok());
        let other = fields(r#"{"ip":"abcdef","size":12,"range":"-","path":"/b"}"#).unwrap();
        assert!(compare(std::slice::from_ref(&theirs), &[other]).is_err());
        assert!(compare(&[theirs], &[ours.clone(), ours]).is_err());
        assert!(fields("{").is_err());
    }
}
