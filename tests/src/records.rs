//! The records in the sink's files.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use flate2::read::MultiGzDecoder;
use serde_json::Value;

use crate::addresses;

/// What the finished files of a store hold.
#[derive(Debug)]
pub struct Records {
    store: PathBuf,
    read: BTreeSet<PathBuf>,
    /// How often each request's number was seen.
    pub seen: HashMap<u64, u64>,
    /// Records in all files.
    pub count: u64,
    /// Records that belong to no numbered request.
    pub unnumbered: u64,
    /// One of the records.
    pub sample: Option<Value>,
}

impl Records {
    /// Of the store in this directory; nothing has been read yet.
    #[must_use]
    pub fn new(store: &Path) -> Self {
        Self {
            store: store.to_owned(),
            read: BTreeSet::new(),
            seen: HashMap::new(),
            count: 0,
            unnumbered: 0,
            sample: None,
        }
    }

    /// Reads the files that have come since the last time. A file never changes once it has its name.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or holds something else than JSON objects, one a line.
    pub fn read_new(&mut self) -> anyhow::Result<()> {
        for file in addresses::files(&self.store)? {
            if is_data(&file, &self.store) && !self.read.contains(&file) {
                self.read_file(&file).with_context(|| format!("reading {}", file.display()))?;
                self.read.insert(file);
            }
        }
        Ok(())
    }

    /// Files that were read.
    #[must_use]
    pub fn files(&self) -> usize {
        self.read.len()
    }

    fn read_file(&mut self, file: &Path) -> anyhow::Result<()> {
        let text = BufReader::new(MultiGzDecoder::new(BufReader::new(File::open(file)?)));
        for (index, line) in text.lines().enumerate() {
            let record: Value = serde_json::from_str(&line?).with_context(|| format!("line {}", index + 1))?;
            self.count += 1;
            match number(&record) {
                Some(number) => *self.seen.entry(number).or_default() += 1,
                None => self.unnumbered += 1,
            }
            if self.sample.is_none() && record["cache_status"] == "hit" {
                self.sample = Some(record);
            }
        }
        Ok(())
    }
}

/// The number that the load gave the request.
pub(crate) fn number(record: &Value) -> Option<u64> {
    record["uri_query"].as_str()?.strip_prefix("?id=")?.parse().ok()
}

/// Readers pass over names that begin with `_` or `.`.
fn is_data(file: &Path, store: &Path) -> bool {
    let inside = file.strip_prefix(store).unwrap_or(file);
    let hidden = |name: &str| name.starts_with(['_', '.']);
    inside.to_string_lossy().ends_with(".json.gz")
        && !inside.components().any(|component| component.as_os_str().to_str().is_none_or(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finished_files_are_data() {
        let store = Path::new("/.s/_t");
        for (file, data) in [
            ("w/year=2026/t+0+1+2.json.gz", true),
            ("w/_tmp/t+0+1+2.json.gz", false),
            ("w/year=2026/_SUCCESS", false),
            ("w/.t.json.gz", false),
        ] {
            assert_eq!(is_data(&store.join(file), store), data, "{file}");
        }
    }

    #[test]
    fn the_number_is_in_the_query() {
        assert_eq!(number(&serde_json::json!({ "uri_query": "?id=12" })), Some(12));
        assert_eq!(number(&serde_json::json!({ "uri_query": "" })), None);
    }
}
