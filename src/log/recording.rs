//! Recorded logs: files made by `varnishlog -w`, and standard input.
//!
//! A recording is a marker of four bytes, `VSL\0` or `VSL2`, and then records as they are in the log, batch headers left out.
//! It is read, not mapped: a file that is cut short under a mapping ends the process.
//!
//! Records are handed out from the buffer that they were read into, whether they are wanted or not: whoever takes them looks
//! at their headers anyway. What that walk does not take is part of a record, or damage.
//!
//! Source: `VSL_WriteOpen` and `VSL_Write` in libvarnishapi's `vsl.c`, `VSL_FILE_ID` in its `vsl_api.h`.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use kafkalog_ffi::mapping::Mapping;

use super::record::{Found, find};
use super::words::bytes_of_mut;
use super::{Layout, LogError, LogSource, Read, Records};

/// Words that are read or looked at at a time: few enough to stay in a processor's own cache between being read and being looked at. A
/// record is at most 64 KiB and its header, so that one always fits.
const BUFFER: usize = 32 << 10;

/// A recorded log.
pub struct Recording {
    path: PathBuf,
    input: Box<dyn io::Read + Send>,
    layout: Layout,
    /// The file, as far as it went when it was opened, and the word of it that is next. It is read from memory first; what has
    /// been appended since then comes from the input.
    mapped: Option<(Mapping, File, usize)>,
    words: Vec<u32>,
    /// Bytes of the words that have been read from the input.
    filled: usize,
    /// Words of them that have been taken.
    taken: usize,
    /// Bytes of the recording before the words.
    base: u64,
    /// The input has ended.
    ended: bool,
    /// It has become shorter since it was opened.
    cut: bool,
}

impl Recording {
    /// Opens a recording; `-` is standard input.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, is no recording, or comes from a Varnish whose tags have other numbers.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let recording = if path == Path::new("-") {
            Self::from_input(Box::new(io::stdin()), path)?
        } else {
            Self::from_file(path).map_err(|source| LogError::Io {
                doing: "opening",
                path: path.to_owned(),
                source,
            })??
        };
        if recording.layout != Layout::INSTALLED {
            return Err(LogError::OtherGeneration { path: path.to_owned(), written: recording.layout.written_by() });
        }
        Ok(recording)
    }

    fn from_file(path: &Path) -> io::Result<Result<Self, LogError>> {
        let file = File::open(path)?;
        let mapping = Mapping::of(&file);
        let copy = if mapping.is_some() { Some(file.try_clone()?) } else { None };
        Ok(Self::from_input(Box::new(file), path).map(|recording| Self {
            // The marker is one word.
            mapped: mapping.zip(copy).map(|(mapping, file)| (mapping, file, 1)),
            ..recording
        }))
    }

    /// A recording in either layout from any input; `path` names it in errors.
    ///
    /// # Errors
    ///
    /// When the input cannot be read or does not begin with a recording's marker.
    pub fn from_input(mut input: Box<dyn io::Read + Send>, path: &Path) -> Result<Self, LogError> {
        let mut marker = Vec::new();
        input.by_ref().take(4).read_to_end(&mut marker).map_err(|source| LogError::Io {
            doing: "reading",
            path: path.to_owned(),
            source,
        })?;
        let layout = match marker.as_slice() {
            b"VSL\0" => Layout::One,
            b"VSL2" => Layout::Two,
            other => {
                return Err(LogError::UnknownLayout {
                    path: path.to_owned(),
                    found: other.escape_ascii().to_string(),
                    expected: "`VSL\\0` or `VSL2`, as varnishlog -w writes",
                });
            }
        };
        Ok(Self {
            path: path.to_owned(),
            input,
            layout,
            mapped: None,
            words: vec![0; BUFFER],
            filled: 0,
            taken: 0,
            base: marker.len() as u64,
            ended: false,
            cut: false,
        })
    }

    /// The generation of the Varnish that it was made with.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Drops what was taken and reads once, so that a pipe is read as it is written.
    fn fill(&mut self) -> io::Result<()> {
        // What is left is part of a record, or nothing.
        let used = self.filled.div_ceil(4);
        self.words.copy_within(self.taken..used, 0);
        self.base += 4 * self.taken as u64;
        self.filled -= 4 * self.taken;
        self.taken = 0;
        loop {
            match self.input.read(&mut bytes_of_mut(&mut self.words)[self.filled..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }

    /// Looks in memory for the next records. `false` where there is no whole one: the rest goes on from the input.
    fn advance_mapped(&mut self) -> io::Result<bool> {
        let Some((mapping, file, next)) = &mut self.mapped else { return Ok(false) };
        (*next, self.taken) = (*next + self.taken, 0);
        if matches!(find(window(mapping, *next), self.layout), Found::Record(..)) {
            return Ok(true);
        }
        // Batch headers at the end of it are passed over there.
        let bytes = mapping.bytes();
        let at = (4 * *next).min(bytes.len());
        let rest = &bytes[at..];
        let length = rest.len().min(4 * BUFFER);
        bytes_of_mut(&mut self.words)[..length].copy_from_slice(&rest[..length]);
        (self.base, self.filled) = (at as u64, length);
        file.seek(io::SeekFrom::Start((at + length) as u64))?;
        self.cut = mapping.was_cut();
        self.mapped = None;
        Ok(false)
    }

    /// What is wrong behind the records that were taken. It is told once, and nothing behind it is read.
    fn damaged(&mut self, reason: String) -> LogError {
        let offset = self.base + 4 * self.taken as u64;
        self.ended = true;
        self.filled = 4 * self.taken;
        LogError::Corrupt { path: self.path.clone(), offset, reason }
    }
}

/// Some words of a recording in memory: few enough that what is found in them stays near.
fn window(mapping: &Mapping, next: usize) -> &[u32] {
    let words = mapping.words();
    words.get(next..words.len().min(next + BUFFER)).unwrap_or_default()
}

impl LogSource for Recording {
    fn waits(&self) -> bool {
        true
    }

    fn read(&mut self) -> Result<Read<'_>, LogError> {
        let is_mapped = self.advance_mapped();
        if is_mapped.map_err(|source| LogError::Io { doing: "reading", path: self.path.clone(), source })? {
            let Some((mapping, _, next)) = &self.mapped else { return Ok(Read::Idle) };
            return Ok(Read::Records(Records::new(window(mapping, *next), self.layout, &mut self.taken)));
        }
        loop {
            let end = self.filled / 4;
            match find(&self.words[self.taken..end], self.layout) {
                Found::Record(..) => {
                    return Ok(Read::Records(Records::new(&self.words[..end], self.layout, &mut self.taken)));
                }
                Found::Part(rest) => self.taken = end - rest.len(),
                Found::Damage(rest) => {
                    let reason = if self.cut {
                        "the file has become shorter while it was read".to_owned()
                    } else {
                        format!("expected a record, found {:#010x}", rest.first().copied().unwrap_or_default())
                    };
                    self.taken = end - rest.len();
                    return Err(self.damaged(reason));
                }
            }
            if self.ended {
                let rest = self.filled - 4 * self.taken;
                if rest == 0 {
                    return Ok(Read::End);
                }
                return Err(self.damaged(format!("it ends inside a record, {rest} bytes after the record's start")));
            }
            self.fill().map_err(|source| LogError::Io { doing: "reading", path: self.path.clone(), source })?;
        }
    }
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("path", &self.path).field("layout", &self.layout).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hands out a few bytes at a time, as a pipe does.
    struct Drip(Vec<u8>, usize);

    impl io::Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    fn file(layout: Layout, records: &[(u8, u64, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = match layout {
            Layout::One => b"VSL\0".to_vec(),
            Layout::Two => b"VSL2".to_vec(),
        };
        for (tag, vxid, payload) in records {
            bytes.extend((u32::from(*tag) << 24 | payload.len() as u32).to_ne_bytes());
            match layout {
                Layout::One => bytes.extend((*vxid as u32 | 1 << 30).to_ne_bytes()),
                Layout::Two => bytes.extend((*vxid | 1 << 62).to_ne_bytes()),
            }
            bytes.extend(payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    type Owned = (u8, u64, Vec<u8>);

    fn read_all(bytes: Vec<u8>, drip: usize) -> (Vec<Owned>, Option<LogError>) {
        let mut records = Vec::new();
        let mut recording = match Recording::from_input(Box::new(Drip(bytes, drip)), Path::new("r")) {
            Ok(recording) => recording,
            Err(error) => return (records, Some(error)),
        };
        loop {
            match recording.read() {
                Ok(Read::Records(run)) => {
                    records.extend(run.map(|record| (record.tag.number(), record.vxid, record.payload.to_vec())));
                }
                Ok(Read::End) => return (records, None),
                Ok(_) => {}
                Err(error) => {
                    assert!(matches!(recording.read(), Ok(Read::End)), "an error is told once");
                    return (records, Some(error));
                }
            }
        }
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        let error = read_all(b"ELF\x7f....".to_vec(), 100).1.expect("no marker").to_string();
        assert!(error.contains("ELF\\x7f"), "{error}");
        assert!(read_all(Vec::new(), 100).1.is_some());
    }

    #[test]
    fn damage_is_told_with_its_offset_after_all_that_is_whole() {
        let records: Vec<Owned> = vec![(1, 2, b"ab\0".to_vec()), (3, 4, Vec::new())];
        let whole = file(Layout::One, &records);
        let mut cut = whole.clone();
        cut.extend([1, 2, 3]);
        let (read, error) = read_all(cut, 5);
        assert_eq!(read, records);
        assert!(matches!(error, Some(LogError::Corrupt { offset, .. }) if offset == whole.len() as u64), "{error:?}");
        let mut zeroed = whole.clone();
        zeroed.extend([0; 64]);
        let (read, error) = read_all(zeroed, 500);
        assert_eq!(read, records);
        assert!(error.expect("zeros are no record").to_string().contains("at byte 24"));
    }

    #[test]
    fn a_file_is_read_from_memory_and_what_is_appended_behind_it() {
        let records: Vec<Owned> = (0..20_000).map(|vxid| (7, vxid, vec![b'x'; (vxid % 100) as usize])).collect();
        let bytes = file(Layout::INSTALLED, &records);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        // The last record that is there at first is cut.
        let (first, behind) = bytes.split_at(bytes.len() / 2 / 4 * 4 + 2);
        std::fs::write(&path, first).unwrap();
        let mut recording = Recording::open(&path).unwrap();
        std::io::Write::write_all(&mut File::options().append(true).open(&path).unwrap(), behind).unwrap();
        let mut read = Vec::new();
        while let Read::Records(run) = recording.read().unwrap() {
            read.extend(run.map(|record| (record.tag.number(), record.vxid, record.payload.to_vec())));
        }
        assert!(read == records);
    }

    #[test]
    fn a_file_that_becomes_shorter_is_told_of() {
        let records: Vec<Owned> = (0..20_000).map(|vxid| (7, vxid, vec![b'x'; 100])).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        std::fs::write(&path, file(Layout::INSTALLED, &records)).unwrap();
        let mut recording = Recording::open(&path).unwrap();
        let Read::Records(run) = recording.read().unwrap() else { panic!("it has records") };
        assert!(run.count() < records.len());
        File::options().write(true).open(&path).unwrap().set_len(1_000_000).unwrap();
        let error = loop {
            match recording.read() {
                Ok(Read::Records(run)) => drop(run.count()),
                Ok(_) => panic!("it is not whole"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("shorter") || error.contains("ends inside a record"), "{error}");
        assert!(matches!(recording.read(), Ok(Read::End)));
    }

    proptest! {
        #[test]
        fn records_are_read_back(
            records in proptest::collection::vec((1_u8..=253, 0_u64..1 << 30, proptest::collection::vec(any::<u8>(), 0..40)), 0..50),
            two: bool,
            drip in 1_usize..300,
            cut in 0_usize..2000,
        ) {
            let bytes = file(if two { Layout::Two } else { Layout::One }, &records);
            let (read, error) = read_all(bytes.clone(), drip);
            prop_assert!(error.is_none());
            prop_assert_eq!(&read, &records);
            let (read, _) = read_all(bytes[..cut.min(bytes.len())].to_vec(), drip);
            prop_assert_eq!(&records[..read.len()], &read[..]);
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes: Vec<u8>, two: bool) {
            let mut file = file(if two { Layout::Two } else { Layout::One }, &[]);
            file.extend(bytes);
            let _ = read_all(file, 7);
        }
    }
}
