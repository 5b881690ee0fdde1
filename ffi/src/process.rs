//! What becomes of the process.

#![allow(unsafe_code)]

use std::io;

/// Goes on in the background, as a process of its own session: the working directory is `/`, standard input, output and
/// error lead nowhere (daemon(3)). Only the calling thread goes along.
///
/// # Errors
///
/// What the system says.
pub fn daemon() -> io::Result<()> {
    // SAFETY: without pointers, and no other thread's state is relied on afterwards.
    if unsafe { libc::daemon(0, 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
