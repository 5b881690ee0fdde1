//! The file that holds varnishd's log, mapped into memory for reading.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::area::{Area, NotALog, Shape};
use super::index::Entry;
use super::{Layout, LogError};

/// A log in shared memory. It stays as it is when varnishd unlinks the file.
#[derive(Debug)]
pub(super) struct SharedLog {
    memory: Memory,
    /// Where in the memory the log begins, in bytes.
    offset: usize,
    shape: Shape,
}

impl SharedLog {
    /// Maps the log that an index in this directory names.
    pub(super) fn open(directory: &Path, entry: &Entry) -> Result<Self, LogError> {
        let path = directory.join(&entry.file);
        let not_running =
            |reason| LogError::NotRunning { path: directory.parent().unwrap_or(directory).to_owned(), reason };
        let failed = |doing| {
            let path = path.clone();
            move |source| LogError::Io { doing, path, source }
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_running("its log has just gone")),
            Err(error) => return Err(failed("opening")(error)),
        };
        let size = file.metadata().map_err(failed("looking at"))?.len();
        let Some(length) = entry.offset.checked_add(entry.length).filter(|end| *end as u64 <= size) else {
            return Err(not_running("its index tells of more log than there is"));
        };
        let memory = Memory::map(&file, length).map_err(failed("mapping"))?;
        let shape = Shape::of(memory.words(entry.offset)).map_err(|wrong| match wrong {
            // The marker is the last that varnishd writes of a new log's head.
            NotALog::Marker([0, 0, 0, 0, 0, 0, 0, 0]) => not_running("its log is not set up yet"),
            NotALog::Size => not_running("its log is smaller than its head tells"),
            NotALog::Marker(marker) => LogError::UnknownLayout {
                path: path.clone(),
                found: marker.escape_ascii().to_string(),
                expected: "`VSLHEAD1` or `VSLHEAD2`",
            },
        })?;
        if shape.layout() != Layout::INSTALLED {
            return Err(LogError::OtherGeneration { path, written: shape.layout().written_by() });
        }
        Ok(Self { memory, offset: entry.offset, shape })
    }

    /// Its words.
    pub(super) fn area(&self) -> Area<'_> {
        Area::new(self.memory.words(self.offset), self.shape)
    }
}

/// A file in memory, read-only, shared with whoever writes it.
#[derive(Debug)]
struct Memory {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, is not bound to a thread, and is only read.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps the first bytes of a file, which must be at least as long.
    fn map(file: &File, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists. The caller has looked at the
        // file's length, and varnishd never makes a log file shorter: it unlinks it, which leaves the mapping as it is.
        let start = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, length })
    }

    /// The words from a byte on; none where that is outside, or words cannot be.
    fn words(&self, offset: usize) -> &[AtomicU32] {
        if offset > self.length || !offset.is_multiple_of(align_of::<AtomicU32>()) {
            return &[];
        }
        // SAFETY: from `offset` on there are `length - offset` readable bytes that live as long as `self`, in a page-aligned
        // mapping at a multiple of 4. Others write to them, which is what atomics are for; this side does nothing but relaxed
        // loads of 32 bits, which read-only memory allows (`std::sync::atomic`, "Atomic accesses to read-only memory").
        unsafe {
            let start = self.start.as_ptr().cast::<u8>().add(offset).cast::<AtomicU32>();
            std::slice::from_raw_parts(start, (self.length - offset) / size_of::<AtomicU32>())
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and no borrow of it outlives `self`. A failure leaves it mapped, which
        // harms nobody.
        let _ = unsafe { munmap(self.start.as_ptr(), self.length) };
    }
}
