//! A directory of this machine.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions as Mode};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Entry, Operation, Store, StoreError, StoreFile};
use crate::config::Permissions;

/// A directory of this machine, or one that is mounted on it.
#[derive(Debug)]
pub struct LocalDirectory {
    base: PathBuf,
    permissions: Permissions,
}

impl LocalDirectory {
    /// The directory `base`, which is made when the first directory in it is.
    #[must_use]
    pub fn new(base: impl Into<PathBuf>, permissions: Permissions) -> Self {
        Self { base: base.into(), permissions }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = path.parent().ok_or(error)?;
                self.make_directory(parent)?;
                return self.make_directory(path);
            }
            Err(error) => return Err(error),
        }
        // Not in the mode above, which the process's umask cuts down.
        fs::set_permissions(path, Mode::from_mode(self.permissions.directory()))?;
        sync_parent(path)
    }
}

impl Store for LocalDirectory {
    fn create(&self, path: &str) -> Result<Box<dyn StoreFile>, StoreError> {
        let open = || {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.at(path))?;
            file.set_permissions(Mode::from_mode(self.permissions.file()))?;
            Ok(Box::new(LocalFile(file)) as Box<dyn StoreFile>)
        };
        open().map_err(|source| self.failed(Operation::Create, path, source))
    }

    fn publish(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let target = self.at(to);
        rename_to_free_name(&self.at(from), &target)
            .and_then(|()| sync_parent(&target))
            .map_err(|source| self.failed(Operation::Publish, to, source))
    }

    fn list(&self, directory: &str) -> Result<Vec<Entry>, StoreError> {
        let list = || {
            let entries = match fs::read_dir(self.at(directory)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let mut found = Vec::new();
            for entry in entries {
                let entry = entry?;
                // A name that is not UTF-8 is none of ours.
                if let Ok(name) = entry.file_name().into_string() {
                    found.push(Entry { name, directory: entry.file_type()?.is_dir() });
                }
            }
            Ok(found)
        };
        list().map_err(|source| self.failed(Operation::List, directory, source))
    }

    fn read_small(&self, path: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        let read = || {
            let mut bytes = Vec::new();
            File::open(self.at(path))?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
            match bytes.len() > limit {
                true => Err(io::Error::other(format!("it has more than {limit} bytes"))),
                false => Ok(bytes),
            }
        };
        read().map_err(|source| self.failed(Operation::Read, path, source))
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        match fs::remove_file(self.at(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(Operation::Delete, path, error)),
            _ => Ok(()),
        }
    }

    fn make_directories(&self, path: &str) -> Result<(), StoreError> {
        self.make_directory(&self.at(path)).map_err(|source| self.failed(Operation::MakeDirectory, path, source))
    }

    fn locate(&self, path: &str) -> String {
        self.at(path).display().to_string()
    }

    fn set_permissions(&self, path: &str, mode: u32) -> Result<(), StoreError> {
        fs::set_permissions(self.at(path), Mode::from_mode(mode))
            .map_err(|source| self.failed(Operation::SetPermissions, path, source))
    }
}

/// rename(2) overwrites; the flag that keeps it from that is not known to every file system (NFS, old FUSE ones).
fn rename_to_free_name(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_to_free_name(from, to),
        result => Ok(result?),
    }
}

/// The same with link(2), which never overwrites. Between its two steps, and after a crash there, the file has both names.
fn link_to_free_name(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_same_file(from, to)? => {}
        result => result?,
    }
    fs::remove_file(from)
}

fn is_same_file(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (fs::symlink_metadata(one)?, fs::symlink_metadata(other)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// A new name is on the disk once its directory is.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[derive(Debug)]
struct LocalFile(File);

impl Write for LocalFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl StoreFile for LocalFile {
    fn sync_and_close(self: Box<Self>) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn store() -> (TempDir, LocalDirectory) {
        let directory = TempDir::new().unwrap();
        let store = LocalDirectory::new(directory.path().join("base"), Permissions::default());
        store.make_directories("t/_tmp").unwrap();
        (directory, store)
    }

    fn write(store: &LocalDirectory, path: &str, bytes: &[u8]) {
        let mut file = store.create(path).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_and_close().unwrap();
    }

    fn mode(store: &LocalDirectory, path: &str) -> u32 {
        fs::metadata(store.at(path)).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_taken_name_is_never_overwritten() {
        for rename in [rename_to_free_name, link_to_free_name] {
            let (_directory, store) = store();
            write(&store, "t/_tmp/a", b"first");
            write(&store, "t/_tmp/b", b"second");
            rename(&store.at("t/_tmp/a"), &store.at("t/c")).unwrap();
            let error = rename(&store.at("t/_tmp/b"), &store.at("t/c")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(store.read_small("t/c", 100).unwrap(), b"first");
            assert_eq!(store.read_small("t/_tmp/b", 100).unwrap(), b"second");
            let error = rename(&store.at("t/_tmp/a"), &store.at("t/d")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn a_rename_that_a_crash_cut_in_two_is_finished() {
        let (_directory, store) = store();
        write(&store, "t/_tmp/a", b"x");
        fs::hard_link(store.at("t/_tmp/a"), store.at("t/a")).unwrap();
        link_to_free_name(&store.at("t/_tmp/a"), &store.at("t/a")).unwrap();
        assert_eq!(store.list("t/_tmp").unwrap(), []);
        assert_eq!(store.read_small("t/a", 9).unwrap(), b"x");
    }

    #[test]
    fn a_file_is_created_once() {
        let (_directory, store) = store();
        write(&store, "t/a", b"x");
        let error = store.create("t/a").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(error.to_string().starts_with("creating /"), "{error}");
    }

    #[test]
    fn permissions_are_the_configured_ones_whatever_the_umask() {
        let (_directory, store) = store();
        write(&store, "t/a", b"x");
        assert_eq!(mode(&store, "t/a"), 0o640);
        assert_eq!((mode(&store, ""), mode(&store, "t"), mode(&store, "t/_tmp")), (0o750, 0o750, 0o750));
        store.set_permissions("t/a", 0o600).unwrap();
        assert_eq!(mode(&store, "t/a"), 0o600);
    }

    #[test]
    fn making_a_directory_again_is_fine_but_not_over_a_file() {
        let (_directory, store) = store();
        store.make_directories("t/_tmp").unwrap();
        write(&store, "t/a", b"x");
        assert!(store.make_directories("t/a").is_err());
        assert!(store.make_directories("t/a/b").is_err());
    }

    #[test]
    fn what_is_not_there_lists_as_nothing_and_is_deleted_already() {
        let (_directory, store) = store();
        assert_eq!(store.list("no/such").unwrap(), []);
        store.delete("no/such").unwrap();
        write(&store, "t/a", b"x");
        let mut names: Vec<_> =
            store.list("t").unwrap().into_iter().map(|entry| (entry.name, entry.directory)).collect();
        names.sort();
        assert_eq!(names, [("_tmp".to_owned(), true), ("a".to_owned(), false)]);
        store.delete("t/a").unwrap();
        assert_eq!(store.list("t").unwrap().len(), 1);
    }

    #[test]
    fn small_means_small() {
        let (_directory, store) = store();
        write(&store, "t/a", b"four");
        assert_eq!(store.read_small("t/a", 4).unwrap(), b"four");
        assert!(store.read_small("t/a", 3).is_err());
    }
}
