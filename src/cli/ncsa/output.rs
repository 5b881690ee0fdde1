//! Where varnishncsa's lines go: a file that can be rotated, or standard output.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::options::strerror;

/// Bytes that are written at a time.
const BATCH: usize = 64 << 10;

pub(super) struct Output {
    file: File,
    /// None for standard output.
    path: Option<PathBuf>,
    /// Lines that are to be written; the first one may be the rest of one that was cut.
    lines: Vec<u8>,
    /// Lines that could not be written since the last that could.
    lost: u64,
}

impl Output {
    pub(super) fn open(path: Option<&Path>, append: bool) -> io::Result<Self> {
        let file = match path {
            Some(path) => open(path, append)?,
            None => standard_output()?,
        };
        Ok(Self { file, path: path.map(Path::to_owned), lines: Vec::with_capacity(2 * BATCH), lost: 0 })
    }

    /// Adds a line, which `render` appends.
    pub(super) fn line(&mut self, render: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        render(&mut self.lines);
        self.lines.push(b'\n');
        if self.lines.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Writes what there is. After an error the whole lines that could not be written are dropped and counted, so that memory
    /// is bounded; the rest of one that was cut is kept, so that the next one begins on a line of its own.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            if written == self.lines.len() {
                break Ok(());
            }
            match self.file.write(&self.lines[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        match &result {
            Ok(()) if self.lost > 0 && written > 0 => {
                super::say(&format!("Output works again; lines lost: {}", self.lost));
                self.lost = 0;
            }
            Ok(()) => {}
            Err(error) => {
                if self.lost == 0 {
                    super::say(&format!("Can't write output ({}); lines are lost", strerror(error)));
                }
                self.drop_unwritten(written);
            }
        }
        self.lines.drain(..written.min(self.lines.len()));
        result
    }

    fn drop_unwritten(&mut self, written: usize) {
        let is_whole = written == 0 || self.lines[written - 1] == b'\n';
        let rest = &self.lines[written..];
        let kept = if is_whole { 0 } else { rest.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1) };
        self.lost += rest[kept..].iter().filter(|byte| **byte == b'\n').count() as u64;
        self.lines.truncate(written + kept);
    }

    /// Lines that could not be written.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Opens the file once more by its name: the old one has been moved away.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = open(path, true)?;
        // What fails is counted.
        let _ = self.flush();
        self.file = file;
        Ok(())
    }
}

fn open(path: &Path, append: bool) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).append(append).truncate(!append).open(path)
}

/// Standard output without the library's own buffer.
fn standard_output() -> io::Result<File> {
    use std::os::fd::AsFd as _;
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_full_disk_cuts_is_counted() {
        let mut output = Output::open(Some(Path::new("/dev/full")), true).expect("Linux has it");
        for _ in 0..3 {
            output.line(|line| line.extend_from_slice(b"abc")).expect("it is not written yet");
        }
        assert!(output.flush().is_err());
        assert_eq!((output.lost(), output.lines.len()), (3, 0));
        output.lines.extend_from_slice(b"one\ntwo\nthree\n");
        output.drop_unwritten(5);
        assert_eq!((output.lost(), output.lines.as_slice()), (4, &b"one\ntwo\n"[..]));
    }

    #[test]
    fn a_rotated_file_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("log"), directory.path().join("log.1"));
        let mut output = Output::open(Some(&path), false).unwrap();
        output.line(|line| line.push(b'a')).unwrap();
        std::fs::rename(&path, &old).unwrap();
        output.rotate().unwrap();
        output.line(|line| line.push(b'b')).unwrap();
        output.flush().unwrap();
        assert_eq!(std::fs::read_to_string(old).unwrap(), "a\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "b\n");
    }
}
