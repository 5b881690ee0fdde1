//! What a partition's earlier owner left behind, and where to go on.
//!
//! Done whenever a partition is assigned, before its first message is read. Kafka assigns a partition to one member of the
//! group, so that what lies in `_tmp/` for it is nobody's any more: the earlier owner is dead, has closed everything, or
//! has been taken for dead, in which case it is good that it can't publish any more.
//!
//! 1. Chunks whose record is there are finished ([`crate::chunk`] says why that is right).
//! 2. Whatever else lies there was never committed; it is deleted, and its messages are read again.
//! 3. Files may be in place without the offset having been committed: the process was killed between the two. So the
//!    highest offset in the names of the partition's files is looked for, and if it is beyond the committed one, reading
//!    goes on behind it.
//!
//! Step 3 lists all hour directories that the table has: 2,160 for 90 days, once per assignment and table. A bound by
//! time would be cheaper and wrong: a sink that reads up a backlog writes into hours long past.
//!
//! What is not covered: messages at a chunk's end of which nothing was written (because they came twice) are in no name;
//! they are read again, and written if the process that knew their numbers is gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::Record;
use crate::config::Table;
use crate::path::{self, DataFile};
use crate::store::{Store, StoreError};

/// A table's partitions, by topic and number.
pub type Partitions = BTreeSet<(String, i32)>;

/// What was found and done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Where the files of a partition end: the offset behind the highest one in their names. Only partitions with files.
    pub ends: BTreeMap<(String, i32), i64>,
    /// Chunks that were finished.
    pub finished: usize,
    /// Temporary files that were deleted.
    pub deleted: usize,
}

/// Cleans up after the earlier owners of `partitions`, and finds out how far they got.
///
/// # Errors
///
/// [`StoreError`] when the store fails; it can be called again.
pub fn recover(store: &dyn Store, table: &Table, partitions: &Partitions) -> Result<Recovered, StoreError> {
    let mut recovered = Recovered::default();
    let table = table.name.get_ref();
    let directory = path::temporary_directory(table);
    let (records, open): (Vec<_>, Vec<_>) = store
        .list(&directory)?
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| {
            path::temporary_owner(name)
                .is_some_and(|(topic, partition)| partitions.contains(&(topic.to_owned(), partition)))
        })
        .partition(|name| name.ends_with(".chunk"));
    for name in records {
        let path = format!("{directory}/{name}");
        Record::read(store, &path)?.finish(store, &path)?;
        recovered.finished += 1;
    }
    // Only now: the finished chunks' files were among them.
    let left: BTreeSet<_> = store.list(&directory)?.into_iter().map(|entry| entry.name).collect();
    for name in open.iter().filter(|name| left.contains(*name)) {
        store.delete(&format!("{directory}/{name}"))?;
        recovered.deleted += 1;
    }
    recovered.ends = ends(store, table, partitions)?;
    Ok(recovered)
}

fn ends(store: &dyn Store, table: &str, partitions: &Partitions) -> Result<BTreeMap<(String, i32), i64>, StoreError> {
    let mut ends = BTreeMap::new();
    let mut directories = vec![table.to_owned()];
    for level in ["year=", "month=", "day=", "hour="] {
        let mut below = Vec::new();
        for directory in directories {
            let entries = store.list(&directory)?;
            let entries = entries.iter().filter(|entry| entry.directory && entry.name.starts_with(level));
            below.extend(entries.map(|entry| format!("{directory}/{}", entry.name)));
        }
        directories = below;
    }
    for directory in directories {
        for entry in store.list(&directory)? {
            let Some(file) = DataFile::parse(&entry.name) else { continue };
            let key = (file.topic.to_owned(), file.partition);
            if partitions.contains(&key) {
                let end = ends.entry(key).or_insert(0);
                *end = file.last.saturating_add(1).max(*end);
            }
        }
    }
    Ok(ends)
}
