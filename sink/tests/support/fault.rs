//! A store that fails at a chosen point.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kafkalog_sink::store::{Entry, Operation, Store, StoreError, StoreFile};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The process dies before the rename with this number, from 0 on.
    DiesBeforeRename(usize),
    /// The process dies right after it.
    DiesAfterRename(usize),
    /// The process dies before it deletes anything.
    DiesBeforeDelete,
    /// The disk is full after so many bytes.
    DiskFull(u64),
    /// The first file takes so many seconds to be created.
    Stalls(u64),
    /// Somebody else has a file of that name, just before the rename into an hour's directory.
    NameTaken,
}

/// A store that fails at a chosen point; dead processes do nothing any more.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Store>,
    fault: Fault,
    dead: AtomicBool,
    created: AtomicUsize,
    renames: AtomicUsize,
    written: Arc<AtomicU64>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Store>, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fault,
            dead: AtomicBool::new(false),
            created: AtomicUsize::new(0),
            renames: AtomicUsize::new(0),
            written: Arc::default(),
        })
    }

    /// Whether the chosen point was reached.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// How many files were created.
    pub fn created(&self) -> usize {
        self.created.load(Ordering::Acquire)
    }

    fn alive(&self, operation: Operation, path: &str) -> Result<(), StoreError> {
        match self.is_dead() {
            true => Err(self.dead(operation, path)),
            false => Ok(()),
        }
    }

    fn dead(&self, operation: Operation, path: &str) -> StoreError {
        self.dead.store(true, Ordering::Release);
        self.failed(operation, path, io::Error::other("the process is dead"))
    }
}

impl Store for Faulty {
    fn create(&self, path: &str) -> Result<Box<dyn StoreFile>, StoreError> {
        self.alive(Operation::Create, path)?;
        let number = self.created.fetch_add(1, Ordering::AcqRel);
        if let Fault::Stalls(seconds) = self.fault
            && number == 0
        {
            thread::sleep(Duration::from_secs(seconds));
        }
        let space = match self.fault {
            Fault::DiskFull(bytes) => bytes,
            _ => u64::MAX,
        };
        Ok(Box::new(FaultyFile { inner: self.inner.create(path)?, written: Arc::clone(&self.written), space }))
    }

    fn publish(&self, from: &str, to: &str) -> Result<(), StoreError> {
        self.alive(Operation::Publish, to)?;
        let number = self.renames.fetch_add(1, Ordering::AcqRel);
        if self.fault == Fault::DiesBeforeRename(number) {
            return Err(self.dead(Operation::Publish, to));
        }
        if self.fault == Fault::NameTaken && to.contains("/hour=") {
            let mut other = self.inner.create(to)?;
            other.write_all(b"somebody else's\n").unwrap();
            other.sync_and_close().unwrap();
        }
        self.inner.publish(from, to)?;
        match self.fault == Fault::DiesAfterRename(number) {
            true => Err(self.dead(Operation::Publish, to)),
            false => Ok(()),
        }
    }

    fn list(&self, directory: &str) -> Result<Vec<Entry>, StoreError> {
        self.inner.list(directory)
    }

    fn read_small(&self, path: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        self.inner.read_small(path, limit)
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.alive(Operation::Delete, path)?;
        match self.fault {
            Fault::DiesBeforeDelete => Err(self.dead(Operation::Delete, path)),
            _ => self.inner.delete(path),
        }
    }

    fn make_directories(&self, path: &str) -> Result<(), StoreError> {
        self.inner.make_directories(path)
    }

    fn set_permissions(&self, path: &str, mode: u32) -> Result<(), StoreError> {
        self.inner.set_permissions(path, mode)
    }

    fn locate(&self, path: &str) -> String {
        self.inner.locate(path)
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn StoreFile>,
    written: Arc<AtomicU64>,
    space: u64,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.fetch_add(bytes.len() as u64, Ordering::AcqRel) + bytes.len() as u64 > self.space {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl StoreFile for FaultyFile {
    fn sync_and_close(self: Box<Self>) -> io::Result<()> {
        self.inner.sync_and_close()
    }
}
