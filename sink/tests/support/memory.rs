//! A store in memory, whose machine can lose its power before any of its operations.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use kafkalog_sink::store::{Entry, Operation, Store, StoreError, StoreFile};

/// A store in memory.
#[derive(Debug, Default, Clone)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Content>,
    directories: BTreeSet<String>,
    /// Operations until the power is gone.
    left: Option<u64>,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: bool,
}

impl Memory {
    /// The power goes after so many more operations; with `None` it stays. What was not synced is gone, its name is not.
    pub fn power(&self, left: Option<u64>) {
        let mut state = self.state();
        for content in state.files.values_mut().filter(|content| !content.synced) {
            content.bytes.clear();
        }
        state.left = left;
    }

    /// All files, by path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.state().files.iter().map(|(path, content)| (path.clone(), content.bytes.clone())).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn operate<T>(
        &self,
        operation: Operation,
        path: &str,
        run: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let mut state = self.state();
        state.spend().and_then(|()| run(&mut state)).map_err(|source| self.failed(operation, path, source))
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => return Err(io::Error::other("the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    fn is_taken(&self, path: &str) -> bool {
        self.files.contains_key(path) || self.directories.contains(path)
    }

    fn has_parent(&self, path: &str) -> bool {
        path.rsplit_once('/').is_none_or(|(parent, _)| self.directories.contains(parent))
    }
}

impl Store for Memory {
    fn create(&self, path: &str) -> Result<Box<dyn StoreFile>, StoreError> {
        self.operate(Operation::Create, path, |state| {
            if state.is_taken(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if !state.has_parent(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.files.insert(path.to_owned(), Content::default());
            Ok(())
        })?;
        Ok(Box::new(MemoryFile { store: self.clone(), path: path.to_owned() }))
    }

    fn publish(&self, from: &str, to: &str) -> Result<(), StoreError> {
        self.operate(Operation::Publish, to, |state| {
            if state.is_taken(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if !state.has_parent(to) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            assert!(content.synced, "{from} is published before it is synced");
            state.files.insert(to.to_owned(), content);
            Ok(())
        })
    }

    fn list(&self, directory: &str) -> Result<Vec<Entry>, StoreError> {
        self.operate(Operation::List, directory, |state| {
            let inside = |path: &String| path.strip_prefix(directory)?.strip_prefix('/').map(str::to_owned);
            let direct = |name: &String| !name.contains('/');
            let files = state.files.keys().filter_map(inside).filter(direct);
            let directories = state.directories.iter().filter_map(inside).filter(direct);
            Ok(files
                .map(|name| Entry { name, directory: false })
                .chain(directories.map(|name| Entry { name, directory: true }))
                .collect())
        })
    }

    fn read_small(&self, path: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        self.operate(Operation::Read, path, |state| {
            let bytes = &state.files.get(path).ok_or(io::ErrorKind::NotFound)?.bytes;
            if bytes.len() > limit {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Ok(bytes.clone())
        })
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.operate(Operation::Delete, path, |state| {
            state.files.remove(path);
            Ok(())
        })
    }

    fn make_directories(&self, path: &str) -> Result<(), StoreError> {
        self.operate(Operation::MakeDirectory, path, |state| {
            let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
            state.directories.extend(ends.map(|end| path[..end].to_owned()));
            Ok(())
        })
    }

    fn set_permissions(&self, path: &str, _mode: u32) -> Result<(), StoreError> {
        self.operate(Operation::SetPermissions, path, |_| Ok(()))
    }

    fn locate(&self, path: &str) -> String {
        format!("memory:{path}")
    }
}

#[derive(Debug)]
struct MemoryFile {
    store: Memory,
    path: String,
}

impl Write for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.store.state();
        state.spend()?;
        let content = state.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?;
        content.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StoreFile for MemoryFile {
    fn sync_and_close(self: Box<Self>) -> io::Result<()> {
        let mut state = self.store.state();
        state.spend()?;
        state.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?.synced = true;
        Ok(())
    }
}
