//! The shared page: a memfd that is found through `/proc/self/fd` and mapped.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::{fs, io};

use kafkalog::engine::HandOver;
use kafkalog::log::Position;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use super::{NAME, VERSION};

/// "KLENGINE", written last when a page is made.
const MAGIC: u64 = u64::from_le_bytes(*b"KLENGINE");

/// Longer build ids are cut.
const BUILD_WORDS: usize = 8;

/// What is in the memfd, in every build with the same [`VERSION`].
#[repr(C)]
#[derive(Debug)]
struct Layout {
    magic: AtomicU64,
    version: AtomicU32,
    /// The process that made it.
    pid: AtomicU32,
    word: AtomicU64,
    standby: AtomicU32,
    /// 0: the last holder could not tell its positions.
    known: AtomicU32,
    from_segment: AtomicU32,
    from_offset: AtomicU32,
    until_segment: AtomicU32,
    until_offset: AtomicU32,
    /// The holder's build id, padded with zeros; for messages.
    build: [AtomicU64; BUILD_WORDS],
}

/// A mapping of the shared page. It is never unmapped: the keeper thread looks at it for as long as the process lives.
#[derive(Debug)]
pub(super) struct Page {
    layout: NonNull<Layout>,
}

// SAFETY: what the pointer leads to is made of atomics alone, and stays mapped for the life of the process.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Finds the page among this process's open files, or makes one.
    pub(super) fn find_or_create() -> io::Result<Self> {
        let ours = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
        for number in open_files()? {
            // SAFETY: the number is that of an open file that `open_files` found to be a page, and pages are never closed.
            let file = unsafe { BorrowedFd::borrow_raw(number) };
            let page = Self::map(file)?;
            if page.layout().magic.load(Ordering::Acquire) != MAGIC || page.layout().pid.load(Ordering::Relaxed) != ours
            {
                continue;
            }
            let version = page.layout().version.load(Ordering::Relaxed);
            if version != VERSION {
                return Err(io::Error::other(format!(
                    "another build of this module is loaded whose hand-over protocol is version {version}, not {VERSION}; \
                     restart varnishd's child"
                )));
            }
            return Ok(page);
        }
        Self::create(ours)
    }

    /// A new page, which later calls of [`find_or_create`](Self::find_or_create) find.
    pub(super) fn create(pid: u32) -> io::Result<Self> {
        let name = CString::new(NAME).expect("it has no NUL");
        let file = rustix::fs::memfd_create(name.as_c_str(), MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, size_of::<Layout>() as u64)?;
        let page = Self::map(&file)?;
        page.layout().version.store(VERSION, Ordering::Relaxed);
        page.layout().pid.store(pid, Ordering::Relaxed);
        page.layout().magic.store(MAGIC, Ordering::Release);
        // Stays open for the rest of the process's life: that is how other builds find it.
        let _ = file.into_raw_fd();
        Ok(page)
    }

    fn map(file: impl AsFd) -> io::Result<Self> {
        // SAFETY: a new mapping, at a place that the kernel chooses, of at least a page of the file; pages are created with
        // the layout's size and never shrink.
        let address = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                size_of::<Layout>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        let layout = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap returned no address"))?;
        Ok(Self { layout })
    }

    /// Another mapping of the same memory, as another build would have it.
    #[cfg(test)]
    pub(super) fn create_twice() -> io::Result<(Self, Self)> {
        let name = CString::new("kafkalog-test").expect("it has no NUL");
        let file = rustix::fs::memfd_create(name.as_c_str(), MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, size_of::<Layout>() as u64)?;
        Ok((Self::map(&file)?, Self::map(&file)?))
    }

    fn layout(&self) -> &Layout {
        // SAFETY: mapped for good (see the type), as large as the layout, page-aligned, and any bytes are valid atomics.
        unsafe { self.layout.as_ref() }
    }

    pub(super) fn word(&self) -> &AtomicU64 {
        &self.layout().word
    }

    pub(super) fn standby(&self) -> &AtomicU32 {
        &self.layout().standby
    }

    pub(super) fn positions(&self) -> Option<HandOver> {
        let layout = self.layout();
        let get = |field: &AtomicU32| field.load(Ordering::Relaxed);
        (get(&layout.known) != 0).then(|| HandOver {
            from: Position { segment: get(&layout.from_segment), offset: get(&layout.from_offset) },
            until: Position { segment: get(&layout.until_segment), offset: get(&layout.until_offset) },
        })
    }

    pub(super) fn set_positions(&self, positions: Option<HandOver>) {
        let layout = self.layout();
        layout.known.store(positions.is_some().into(), Ordering::Relaxed);
        if let Some(HandOver { from, until }) = positions {
            layout.from_segment.store(from.segment, Ordering::Relaxed);
            layout.from_offset.store(from.offset, Ordering::Relaxed);
            layout.until_segment.store(until.segment, Ordering::Relaxed);
            layout.until_offset.store(until.offset, Ordering::Relaxed);
        }
    }

    pub(super) fn build(&self) -> String {
        let bytes: Vec<u8> =
            self.layout().build.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    pub(super) fn set_build(&self, build: &str) {
        let mut bytes = [0; BUILD_WORDS * 8];
        let length = build.len().min(bytes.len());
        bytes[..length].copy_from_slice(&build.as_bytes()[..length]);
        for (word, bytes) in self.layout().build.iter().zip(bytes.as_chunks().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }
}

/// The numbers of this process's open files that are memfds with the page's name and size.
fn open_files() -> io::Result<Vec<i32>> {
    let directory = Path::new("/proc/self/fd");
    let context = |error: io::Error| io::Error::new(error.kind(), format!("reading {}: {error}", directory.display()));
    let expected = format!("/memfd:{NAME} (deleted)");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(context)? {
        let entry = entry.map_err(context)?;
        // A file may have been closed meanwhile by another thread.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number
            && target.as_os_str() == expected.as_str()
            && fs::metadata(entry.path()).is_ok_and(|file| file.len() >= size_of::<Layout>() as u64)
        {
            found.push(number);
        }
    }
    Ok(found)
}
