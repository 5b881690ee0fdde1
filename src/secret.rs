//! Memory for secrets: not on disk, not in core dumps, not in children, and wiped in the end.
//!
//! A [`Secret`] has pages of its own. They come from memfd_secret(2), which takes them out of the kernel's own map, so that
//! not even root reads them through `/proc`; or, where the kernel has none, they are locked, left out of core dumps and
//! empty in children. A secret has no `Debug`, no `Display` and no `Clone`: what would print one does not compile.
//!
//! ```compile_fail
//! let secret = kafkalog::secret::Secret::new(|| [7_u8; 16]).unwrap();
//! println!("{secret:?}");
//! ```
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};
use zeroize::Zeroize;

/// Bytes of stack that are wiped after work on secrets, which goes some 3 KiB deep.
pub const STACK: usize = 16 << 10;

/// How well the memory of secrets is kept, from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protection {
    /// It may be swapped out: the system does not let this process lock memory (`ulimit -l`). It is in no core dump.
    Plain = 1,
    /// mlock(2): never swapped out, in no core dump, but whoever may trace the process can read it.
    Locked = 2,
    /// memfd_secret(2): nobody but this process can read it.
    Hidden = 3,
}

impl Protection {
    /// The worst that a secret of this process has had, once there was one.
    #[must_use]
    pub fn worst() -> Option<Self> {
        match WORST.load(Ordering::Relaxed) {
            1 => Some(Self::Plain),
            2 => Some(Self::Locked),
            3 => Some(Self::Hidden),
            _ => None,
        }
    }
}

static WORST: AtomicU8 = AtomicU8::new(u8::MAX);
static BEST: AtomicU8 = AtomicU8::new(Protection::Hidden as u8);

/// Keeps the secrets that are made from now on no better than this: a test that looks for what is left of them has to see them
/// while they are there.
pub fn protect_at_best(best: Protection) {
    BEST.store(best as u8, Ordering::Relaxed);
}

/// A value in memory of its own, which is wiped when it is dropped.
#[allow(missing_debug_implementations, reason = "nothing prints a secret")]
pub struct Secret<T> {
    memory: NonNull<c_void>,
    length: usize,
    value: PhantomData<T>,
}

// SAFETY: the memory belongs to the value alone, as a `Box`'s does.
unsafe impl<T: Send> Send for Secret<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Secret<T> {}

impl<T> Secret<T> {
    /// Moves what `make` returns to memory for secrets, and wipes the stack that making and moving it used.
    ///
    /// # Errors
    ///
    /// When the system gives no memory.
    pub fn new(make: impl FnOnce() -> T) -> io::Result<Self> {
        Self::with(Protection::Hidden, make)
    }

    fn with(best: Protection, make: impl FnOnce() -> T) -> io::Result<Self> {
        let page = rustix::param::page_size();
        debug_assert!(align_of::<T>() <= page);
        let length = size_of::<T>().max(1).next_multiple_of(page);
        let (memory, protection) = allocate(length, best)?;
        WORST.fetch_min(protection as u8, Ordering::Relaxed);
        // SAFETY: the memory is ours, writable, aligned to a page and large enough.
        unsafe { place(memory.cast(), make) };
        scrub_stack::<STACK>();
        Ok(Self { memory, length, value: PhantomData })
    }

    /// The secret.
    #[must_use]
    pub fn expose(&self) -> &T {
        // SAFETY: a value was written there before anybody had the `Secret`, and is dropped with it.
        unsafe { self.memory.cast().as_ref() }
    }
}

impl<T: Copy> Secret<T> {
    /// Another one with the same value.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn duplicate(&self) -> io::Result<Self> {
        Self::new(|| *self.expose())
    }
}

impl<T> Drop for Secret<T> {
    fn drop(&mut self) {
        // SAFETY: the value is there and nobody else's; afterwards its bytes are overwritten, and the mapping, which is this
        // value's alone, is given back.
        unsafe {
            self.memory.cast::<T>().drop_in_place();
            std::slice::from_raw_parts_mut(self.memory.as_ptr().cast::<MaybeUninit<u8>>(), self.length).zeroize();
            // It cannot fail for a mapping that exists.
            let _ = munmap(self.memory.as_ptr(), self.length);
        }
    }
}

/// Not inlined, so that the value is on the stack below what [`scrub_stack`] is called from.
#[inline(never)]
unsafe fn place<T>(memory: NonNull<T>, make: impl FnOnce() -> T) {
    // SAFETY: the caller's promise: room for a `T`.
    unsafe { memory.write(make()) };
}

/// Overwrites so many bytes of stack below the caller: what functions that have returned left there.
#[inline(never)]
pub fn scrub_stack<const BYTES: usize>() {
    let mut below = [MaybeUninit::<u8>::uninit(); BYTES];
    below.zeroize();
}

/// Whole pages of zeros.
fn allocate(length: usize, best: Protection) -> io::Result<(NonNull<c_void>, Protection)> {
    if best == Protection::Hidden
        && BEST.load(Ordering::Relaxed) == Protection::Hidden as u8
        && let Ok(memory) = hidden(length)
    {
        return Ok((memory, Protection::Hidden));
    }
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at no particular place.
    let memory = unsafe { mmap_anonymous(null_mut(), length, protection, MapFlags::PRIVATE)? };
    // SAFETY: the whole of the mapping that was just made.
    let locked = unsafe {
        // Kernels before 4.14 have no WIPEONFORK; nothing here forks without exec.
        let _ = madvise(memory, length, Advice::LinuxWipeOnFork);
        let _ = madvise(memory, length, Advice::LinuxDontDump);
        mlock(memory, length)
    };
    let memory = NonNull::new(memory).ok_or(io::ErrorKind::OutOfMemory)?;
    Ok((memory, if locked.is_ok() { Protection::Locked } else { Protection::Plain }))
}

/// memfd_secret(2), in Linux from 5.14 on where it is enabled.
fn hidden(length: usize) -> io::Result<NonNull<c_void>> {
    // SAFETY: the call takes flags alone and returns a new descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: it has just been opened for us. The mapping outlives it.
    let file = unsafe { OwnedFd::from_raw_fd(descriptor) };
    rustix::fs::ftruncate(&file, length as u64)?;
    // SAFETY: a new mapping of a file that nobody else knows, so nobody truncates it.
    let memory = unsafe { mmap(null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)? };
    // SAFETY: the whole of the mapping that was just made. Children would share it.
    unsafe { madvise(memory, length, Advice::LinuxDontFork)? };
    NonNull::new(memory).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_kept_in_each_kind_of_memory() {
        for best in [Protection::Hidden, Protection::Locked] {
            let secret = Secret::with(best, || [7_u64; 1000]).unwrap();
            assert!(secret.expose().iter().all(|word| *word == 7));
            assert_eq!(secret.length % rustix::param::page_size(), 0);
        }
        assert!(Protection::worst().is_some());
    }

    #[test]
    fn values_are_dropped_once() {
        let shared = std::sync::Arc::new(());
        let secret = Secret::new(|| std::sync::Arc::clone(&shared)).unwrap();
        assert_eq!(std::sync::Arc::strong_count(&shared), 2);
        drop(secret);
        assert_eq!(std::sync::Arc::strong_count(&shared), 1);
    }
}
