//! Where files go: what the sink needs of a file system, and nothing more.
//!
//! Paths are text relative to the store's base, with `/` between their parts. What returns `Ok` is durable: it survives
//! the loss of the machine's power. Tests put faults in through this trait.

mod local;

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use thiserror::Error;

pub use local::LocalDirectory;

use crate::config::{StoreConfig, StoreUrl};

/// A place for files.
pub trait Store: fmt::Debug + Send + Sync {
    /// Creates a file that must not exist, in a directory that must, with the configured permissions.
    ///
    /// # Errors
    ///
    /// [`StoreError`], with the kind [`io::ErrorKind::AlreadyExists`] when there is something of that name.
    fn create(&self, path: &str) -> Result<Box<dyn StoreFile>, StoreError>;

    /// Renames a closed file, in one step, to a name that must be free.
    ///
    /// Called again after a crash in the middle, it finishes what it began.
    ///
    /// # Errors
    ///
    /// [`StoreError`], with the kind [`io::ErrorKind::AlreadyExists`] when the name is taken, which is left as it is,
    /// and [`io::ErrorKind::NotFound`] when `from` is not there.
    fn publish(&self, from: &str, to: &str) -> Result<(), StoreError>;

    /// What is in a directory, in no particular order; nothing, if there is no such directory.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot be read.
    fn list(&self, directory: &str) -> Result<Vec<Entry>, StoreError>;

    /// A whole file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot be read or is larger.
    fn read_small(&self, path: &str, limit: usize) -> Result<Vec<u8>, StoreError>;

    /// Deletes a file; one that is not there is deleted already.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it is still there.
    fn delete(&self, path: &str) -> Result<(), StoreError>;

    /// Makes a directory and those above it, as far as they are not there, with the configured permissions.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when one of them cannot be made.
    fn make_directories(&self, path: &str) -> Result<(), StoreError>;

    /// Sets a file's or directory's mode bits.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it is not there or not ours.
    fn set_permissions(&self, path: &str, mode: u32) -> Result<(), StoreError>;

    /// A path as people know it, with the store's base: a relative one does not say which disk is full.
    fn locate(&self, path: &str) -> String;

    /// The error for `operation` with `path`, of which the system said `source`.
    fn failed(&self, operation: Operation, path: &str, source: io::Error) -> StoreError {
        StoreError { operation, path: self.locate(path), source }
    }
}

/// A file that is being written. Dropping it leaves what was written so far under its name.
pub trait StoreFile: Write + Send + fmt::Debug {
    /// Closes the file, with all that was written safely stored.
    ///
    /// # Errors
    ///
    /// What the system said; nothing is known of the file then.
    fn sync_and_close(self: Box<Self>) -> io::Result<()>;
}

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the directory's.
    pub name: String,
    /// Whether it is a directory itself.
    pub directory: bool,
}

/// What a store was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Each is said in its Display form.
pub enum Operation {
    Create,
    Write,
    SyncAndClose,
    Publish,
    List,
    Read,
    Delete,
    MakeDirectory,
    SetPermissions,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "creating",
            Self::Write => "writing",
            Self::SyncAndClose => "syncing and closing",
            Self::Publish => "renaming a finished file to",
            Self::List => "listing",
            Self::Read => "reading",
            Self::Delete => "deleting",
            Self::MakeDirectory => "making the directory",
            Self::SetPermissions => "setting the permissions of",
        })
    }
}

/// A store did not do what it was asked to: the disk is full, a directory is not writable, a name is taken.
#[derive(Debug, Error)]
#[error("{operation} {path}: {source}")]
pub struct StoreError {
    /// What it was asked.
    pub operation: Operation,
    /// With which path; of a rename, the new name.
    pub path: String,
    /// What the system said.
    pub source: io::Error,
}

impl StoreError {
    /// What kind of error the system's is.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// The store that the configuration names.
#[must_use]
pub fn open(config: &StoreConfig) -> Arc<dyn Store> {
    match &config.url {
        StoreUrl::Directory(base) => Arc::new(LocalDirectory::new(base, config.permissions)),
    }
}
