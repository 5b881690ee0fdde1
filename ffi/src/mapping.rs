//! Files in memory that may be cut while they are read.
//!
//! Reading a page of a mapping that the file does not reach any more ends a process with SIGBUS. Here such a page reads as
//! zeros instead, and the mapping knows that it was cut.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::sync::Once;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The one mapping that is guarded: where it begins and ends. Empty when there is none.
static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
/// A page of it was not there.
static CUT: AtomicBool = AtomicBool::new(false);
/// There is one.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Bytes of a page.
static PAGE: AtomicUsize = AtomicUsize::new(0);
/// What was to be done on SIGBUS before.
static BEFORE: OnceLock<Action> = OnceLock::new();

struct Action(libc::sigaction);

// SAFETY: a description of what to do, which is only read.
unsafe impl Sync for Action {}
// SAFETY: as above.
unsafe impl Send for Action {}

/// A file in memory, as it was long when it was mapped.
#[derive(Debug)]
pub struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, is not bound to a thread, and is only read.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps a regular file. `None` for any other, an empty one, where the system refuses, and while there is another mapping:
    /// only one is guarded.
    #[must_use]
    pub fn of(file: &File) -> Option<Self> {
        let metadata = file.metadata().ok().filter(|metadata| metadata.is_file())?;
        let length = usize::try_from(metadata.len()).ok().filter(|length| *length > 0)?;
        if TAKEN.swap(true, Ordering::AcqRel) {
            return None;
        }
        guard();
        let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            TAKEN.store(false, Ordering::Release);
            return None;
        }
        // SAFETY: this is the mapping; what the kernel makes of the advice changes nothing that can be seen.
        unsafe { libc::madvise(start, length, libc::MADV_SEQUENTIAL) };
        CUT.store(false, Ordering::Relaxed);
        END.store(start.addr() + length, Ordering::Relaxed);
        START.store(start.addr(), Ordering::Release);
        Some(Self { start, length })
    }

    /// The file's bytes in whole words of 32 bits, in memory order. Whoever changes the file meanwhile can change what is read,
    /// as with any file; recordings are only ever appended to.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        // SAFETY: the mapping is readable, aligned to a page, and lives as long as `self`; every pattern of bits is a number.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length / size_of::<u32>()) }
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }

    /// Whether the file has become shorter than what has been read of it.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        CUT.load(Ordering::Acquire)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        START.store(0, Ordering::Relaxed);
        END.store(0, Ordering::Release);
        // SAFETY: this is the mapping that was made, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.start, self.length) };
        TAKEN.store(false, Ordering::Release);
    }
}

/// Has SIGBUS looked at, once.
fn guard() {
    static GUARD: Once = Once::new();
    GUARD.call_once(|| {
        // SAFETY: zeros are a valid action; the function has the type that SA_SIGINFO wants, and does nothing but what is
        // allowed in a signal handler.
        unsafe {
            PAGE.store(usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096), Ordering::Relaxed);
            let mut before: libc::sigaction = std::mem::zeroed();
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before);
            let _ = BEFORE.set(Action(before));
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
        }
    });
}

/// Puts a page of zeros where the guarded mapping has none. Anything else is left to what was there before.
extern "C" fn on_bus_error(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let page = PAGE.load(Ordering::Relaxed);
    // SAFETY: the kernel hands over a valid description.
    let address = unsafe { (*info).si_addr() }.addr();
    let is_ours = (START.load(Ordering::Acquire)..END.load(Ordering::Acquire)).contains(&address);
    let at = ptr::without_provenance_mut(address & !(page - 1));
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the page lies inside the guarded mapping, which nobody else replaces.
    if is_ours && unsafe { libc::mmap(at, page, libc::PROT_READ, flags, -1, 0) } != libc::MAP_FAILED {
        CUT.store(true, Ordering::Release);
        return;
    }
    // The instruction is tried again, and then meets what was there before.
    if let Some(Action(before)) = BEFORE.get() {
        // SAFETY: it was read from the system.
        unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_reads_as_zeros() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mapping = Mapping::of(&file).unwrap();
        assert!(Mapping::of(&file).is_none(), "only one is guarded");
        assert_eq!(
            (mapping.bytes().len(), mapping.words().len(), mapping.words()[24_999]),
            (100_000, 25_000, 0x0101_0101)
        );
        assert!(!mapping.was_cut());
        file.set_len(10_000).unwrap();
        assert_eq!((mapping.bytes()[9_999], mapping.bytes()[99_999], mapping.was_cut()), (1, 0, true));
        drop(mapping);
        assert!(Mapping::of(&file).is_some());
        assert!(Mapping::of(&File::open("/dev/null").unwrap()).is_none());
    }
}
