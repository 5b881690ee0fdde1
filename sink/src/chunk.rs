//! A chunk: consecutive messages of one partition, as files of one or more hours that become visible together.
//!
//! ```text
//!  Chunk ──seal──▶ Sealed ──publish──▶ Published ──▶ the partition's offset may be committed
//!    │ write           files synced, closed     files under their final names
//!    └──discard──▶ nothing is left of it
//! ```
//!
//! # How a chunk becomes visible
//!
//! A chunk has a file for each hour that its messages' timestamps fall into, and there is no one rename for several
//! files. So:
//!
//! 1. every file is written under `_tmp/`, synced and closed;
//! 2. if there is more than one, a *chunk record* that lists them is published in `_tmp/`, in one rename. From here on the
//!    chunk is decided: whoever gets the partition next finishes it;
//! 3. every file is renamed to its final name, which must be free, and its directory synced;
//! 4. the record is deleted.
//!
//! A chunk with one file needs no record: its rename decides. [`crate::recover`] has the other half.
//!
//! # What this does not guarantee yet
//!
//! A process can lose its partition without knowing it, for instance because it was stopped for longer than the session
//! time-out. Its successor deletes its open files, so that it cannot publish them; but if it is in step 3 already when
//! the successor lists what there is, the successor reads the same messages again. Two ends of one range then have
//! different names, which no collision reveals. A chain of manifests, each created only if nobody else has created it,
//! will decide that: the chunk record is its place.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::accounting::Account;
use crate::compress::LineWriter;
use crate::config::Table;
use crate::path::{self, DataFile, Hour};
use crate::store::{Operation, Store, StoreError};

/// More hours than this in a chunk close it: each has an open file and a compressor's memory (0.4 MiB).
///
/// Reading up a backlog touches many hours; messages with nonsense for a timestamp any number of them.
pub const MOST_HOURS: usize = 24;

/// A chunk record is a list of at most [`MOST_HOURS`] + 1 pairs of paths.
const RECORD_LIMIT: usize = 1 << 20;

/// Which partition a chunk is of.
#[derive(Debug, Clone)]
pub struct Place {
    /// The table that the topic is in.
    pub table: Arc<Table>,
    /// The Kafka topic.
    pub topic: String,
    /// The topic's partition.
    pub partition: i32,
}

/// A chunk that is being written.
#[derive(Debug)]
pub struct Chunk {
    first: i64,
    next: i64,
    opened: Instant,
    files: Vec<HourFile>,
    /// Where the latest record's file is in `files`: the next one's is mostly the same.
    latest: usize,
    /// What the chunk holds, by whoever numbered it.
    pub account: Account,
}

#[derive(Debug)]
struct HourFile {
    hour: Hour,
    temporary: String,
    writer: LineWriter,
    first: i64,
    last: i64,
}

impl Chunk {
    /// An empty chunk, whose first message is at the offset `first` and was read at `now`.
    #[must_use]
    pub fn begin(first: i64, now: Instant) -> Self {
        Self { first, next: first, opened: now, files: Vec::new(), latest: 0, account: Account::default() }
    }

    /// When its first message was read.
    #[must_use]
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// The size of its largest file, in bytes that the store was given so far.
    #[must_use]
    pub fn largest_file(&self) -> u64 {
        self.files.iter().map(|file| file.writer.stored_bytes()).max().unwrap_or(0)
    }

    /// How many hours it spans.
    #[must_use]
    pub fn hours(&self) -> usize {
        self.files.len()
    }

    /// Takes in the message at `offset`, whether or not anything is written of it.
    pub fn advance(&mut self, offset: i64) {
        self.next = offset + 1;
    }

    /// Writes a record.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store does not take it; the chunk can only be discarded then.
    pub fn write(
        &mut self,
        store: &dyn Store,
        place: &Place,
        session: &str,
        hour: Hour,
        offset: i64,
        record: &[u8],
    ) -> Result<(), StoreError> {
        if self.files.get(self.latest).is_none_or(|file| file.hour != hour) {
            self.latest = match self.files.iter().position(|file| file.hour == hour) {
                Some(place) => place,
                None => self.open(store, place, session, hour, offset)?,
            };
        }
        let file = &mut self.files[self.latest];
        file.last = offset;
        file.writer.append(record).map_err(|source| store.failed(Operation::Write, &file.temporary, source))
    }

    fn open(
        &mut self,
        store: &dyn Store,
        place: &Place,
        session: &str,
        hour: Hour,
        offset: i64,
    ) -> Result<usize, StoreError> {
        let table = place.table.name.get_ref();
        let temporary = path::open_file(table, &place.topic, place.partition, self.first, hour, session);
        let writer = LineWriter::new(store.create(&temporary)?, place.table.compression);
        self.files.push(HourFile { hour, temporary, writer, first: offset, last: offset });
        Ok(self.files.len() - 1)
    }

    /// Ends its files and closes them, safely stored.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store does not take the rest of them.
    pub fn seal(self, store: &dyn Store, place: &Place) -> Result<Sealed, StoreError> {
        let extension = place.table.extension();
        let mut moves = Vec::with_capacity(self.files.len());
        let mut bytes = 0;
        for HourFile { hour, temporary, writer, first, last } in self.files {
            bytes += writer.finish().map_err(|source| store.failed(Operation::SyncAndClose, &temporary, source))?;
            let name = DataFile { topic: &place.topic, partition: place.partition, first, last, extension: &extension };
            let directory = format!("{}/{}", place.table.name.get_ref(), hour.directory());
            moves.push(Move { temporary, target: format!("{directory}/{name}") });
        }
        Ok(Sealed { first: self.first, next: self.next, moves, bytes, account: self.account })
    }

    /// Deletes its files: its messages will be read again, by this process or another.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when one of them is still there.
    pub fn discard(self, store: &dyn Store) -> Result<(), StoreError> {
        for file in self.files {
            let temporary = file.temporary.clone();
            // Ends the compressor's stream, whose last bytes would go to a deleted file otherwise.
            drop(file);
            store.delete(&temporary)?;
        }
        Ok(())
    }
}

/// A chunk whose files are complete, under temporary names.
#[derive(Debug)]
pub struct Sealed {
    first: i64,
    next: i64,
    moves: Vec<Move>,
    bytes: u64,
    account: Account,
}

impl Sealed {
    /// Gives the files their final names.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when a name is taken (nothing is overwritten), or when a temporary file is gone because another
    /// process was given the partition and cleaned up; and when the store fails. If all files had their names before, the
    /// chunk is finished when the partition is assigned the next time.
    pub fn publish(self, store: &dyn Store, place: &Place) -> Result<Published, StoreError> {
        let Self { first, next, moves, bytes, account } = self;
        let table = place.table.name.get_ref();
        for directory in moves.iter().filter_map(Move::directory) {
            store.make_directories(directory)?;
        }
        let files = moves.len();
        if files > 1 {
            let path = path::chunk_record(table, &place.topic, place.partition, first, next);
            let record = Record { first, next, moves };
            record.publish(store, &path)?;
            record.finish(store, &path)?;
        } else {
            for Move { temporary, target } in &moves {
                store.publish(temporary, target)?;
            }
        }
        Ok(Published { first, next, files, bytes, account })
    }
}

/// A chunk whose files have their final names.
#[derive(Debug)]
pub struct Published {
    /// The offset of its first message.
    pub first: i64,
    /// The offset behind its last message: what may be committed now.
    pub next: i64,
    /// How many files.
    pub files: usize,
    /// What they take in the store, in bytes.
    pub bytes: u64,
    /// What they hold.
    pub account: Account,
}

/// What a chunk record says: the files, and where they belong.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The offset of the chunk's first message.
    pub first: i64,
    /// The offset behind its last message.
    pub next: i64,
    /// Its files.
    pub moves: Vec<Move>,
}

/// A file and where it belongs.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The path that it was written under.
    pub temporary: String,
    /// The path that it gets.
    pub target: String,
}

impl Move {
    fn directory(&self) -> Option<&str> {
        self.target.rsplit_once('/').map(|(directory, _)| directory)
    }
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot be read or is none.
    pub fn read(store: &dyn Store, path: &str) -> Result<Self, StoreError> {
        let bytes = store.read_small(path, RECORD_LIMIT)?;
        serde_json::from_slice(&bytes).map_err(|error| store.failed(Operation::Read, path, error.into()))
    }

    fn publish(&self, store: &dyn Store, path: &str) -> Result<(), StoreError> {
        let temporary = format!("{path}.open");
        let write = |source: io::Error| store.failed(Operation::Write, &temporary, source);
        let mut file = store.create(&temporary)?;
        serde_json::to_writer(&mut file, self).map_err(|error| write(error.into()))?;
        file.sync_and_close().map_err(|source| store.failed(Operation::SyncAndClose, &temporary, source))?;
        store.publish(&temporary, path)
    }

    /// Renames what is left to rename, and deletes the record, which is at `path`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails; it can be tried again.
    pub fn finish(&self, store: &dyn Store, path: &str) -> Result<(), StoreError> {
        for each in &self.moves {
            each.finish(store)?;
        }
        store.delete(path)
    }
}

impl Move {
    /// The record decides, so that a file which is in its place already is as good as one that is put there now.
    fn finish(&self, store: &dyn Store) -> Result<(), StoreError> {
        if let Some(directory) = self.directory() {
            store.make_directories(directory)?;
        }
        match store.publish(&self.temporary, &self.target) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.is_done(store)? => Ok(()),
            result => result,
        }
    }

    fn is_done(&self, store: &dyn Store) -> Result<bool, StoreError> {
        let Some((directory, name)) = self.target.rsplit_once('/') else { return Ok(false) };
        Ok(store.list(directory)?.iter().any(|entry| entry.name == name))
    }
}
