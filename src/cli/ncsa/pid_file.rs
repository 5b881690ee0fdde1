//! The file with the daemon's process id.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Locked for as long as the process runs, and removed at its end.
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Opens the file, which must not be another running process's.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path)?;
        file.try_lock().map_err(io::Error::from)?;
        // The background process is in another directory.
        Ok(Self { path: fs::canonicalize(path)?, file })
    }

    /// Writes this process's id.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Others may have removed it.
        let _ = fs::remove_file(&self.path);
    }
}
