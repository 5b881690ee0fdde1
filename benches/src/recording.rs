//! A recording as bytes: counted, multiplied and cut.
//!
//! The format is described in kafkalog's `src/log/recording.rs`. It is read here with code of its own, so that this
//! program does not count with what it measures.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};

/// Bytes of the marker.
const MARKER: usize = 4;

/// A recording, in memory.
#[derive(Debug)]
pub struct Recording {
    bytes: Vec<u8>,
    /// Where each record ends.
    ends: Vec<usize>,
}

impl Recording {
    /// Reads `file`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is no recording, or does not end with a record.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        Self::of(bytes).with_context(|| file.display().to_string())
    }

    fn of(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let header = match bytes.get(..MARKER) {
            Some(b"VSL\0") => 8,
            Some(b"VSL2") => 12,
            _ => bail!("this is no recording by varnishlog -w"),
        };
        let mut ends = Vec::new();
        let mut end = MARKER;
        while end < bytes.len() {
            let word = bytes.get(end..end + 4).and_then(|word| word.try_into().ok());
            let length = u32::from_ne_bytes(word.context("the last record is cut")?) & 0xffff;
            end += header + (length as usize).next_multiple_of(4);
            ends.push(end);
        }
        if end != bytes.len() {
            bail!("the last record is cut");
        }
        Ok(Self { bytes, ends })
    }

    /// How many records there are.
    #[must_use]
    pub fn records(&self) -> usize {
        self.ends.len()
    }

    /// How many bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Writes a recording with these records `times` times over.
    ///
    /// Transactions get the same numbers again, which is no matter as each has ended before.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_repeated(&self, times: u32, file: &Path) -> anyhow::Result<()> {
        let (marker, records) = self.bytes.split_at(MARKER);
        let write = || {
            let mut out = File::create(file)?;
            out.write_all(marker)?;
            (0..times).try_for_each(|_| out.write_all(records))
        };
        write().with_context(|| format!("writing {}", file.display()))
    }

    /// Writes a recording with the first `part` of `of` records.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_part(&self, part: u64, of: u64, file: &Path) -> anyhow::Result<()> {
        let records = (self.ends.len() as u64 * part.min(of)).checked_div(of).unwrap_or(0) as usize;
        let end = records.checked_sub(1).map_or(MARKER, |last| self.ends[last]);
        fs::write(file, &self.bytes[..end]).with_context(|| format!("writing {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<u8> {
        let mut bytes = b"VSL\0".to_vec();
        for length in [1_u8, 4, 5] {
            bytes.extend((u32::from(length) | 7 << 24).to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.resize(bytes.len() + usize::from(length).next_multiple_of(4), length);
        }
        bytes
    }

    #[test]
    fn records_are_counted_repeated_and_cut() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("recording");
        let recording = Recording::of(bytes()).unwrap();
        assert_eq!(recording.records(), 3);
        recording.write_repeated(4, &file).unwrap();
        assert_eq!(Recording::read(&file).unwrap().records(), 12);
        recording.write_part(2, 3, &file).unwrap();
        assert_eq!(Recording::read(&file).unwrap().records(), 2);
        recording.write_part(0, 3, &file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"VSL\0");
    }

    #[test]
    fn what_is_cut_is_refused() {
        let whole = bytes();
        assert!(Recording::of(whole[..whole.len() - 1].to_vec()).is_err());
        assert!(Recording::of(whole[..6].to_vec()).is_err());
        assert!(Recording::of(b"nothing".to_vec()).is_err());
    }
}
