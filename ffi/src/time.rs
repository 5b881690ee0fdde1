//! The C library's calendar.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;

/// Whose hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Coordinated universal time.
    Utc,
    /// The system's time zone, or what the environment variable `TZ` says.
    Local,
}

/// The most bytes of a time's text, with its NUL.
const WIDTH: usize = 1024;

/// Puts a time, seconds since 1970, into `text` in a strftime(3) format. `false` for times that no calendar reaches. The text
/// is empty if it is longer than some 1,000 bytes.
pub fn show_time(format: &CStr, time: i64, zone: Zone, text: &mut Vec<u8>) -> bool {
    let mut broken_down = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both are given a time, and room for what it is broken down into.
    let filled = unsafe {
        match zone {
            Zone::Utc => libc::gmtime_r(&raw const time, broken_down.as_mut_ptr()),
            Zone::Local => libc::localtime_r(&raw const time, broken_down.as_mut_ptr()),
        }
    };
    if filled.is_null() {
        return false;
    }
    text.clear();
    text.resize(WIDTH, 0);
    // SAFETY: the room is as long as is said, the format ends with a NUL, and the time has been filled in.
    let length =
        unsafe { libc::strftime(text.as_mut_ptr().cast(), WIDTH, format.as_ptr(), broken_down.assume_init_ref()) };
    text.truncate(length);
    true
}
