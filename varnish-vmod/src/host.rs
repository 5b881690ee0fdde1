//! What varnishd and the C library offer, as the shim hands it over (`shim/shim.h`).
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::sync::atomic::AtomicU64;

/// The functions of `struct kafkalog_host`.
#[repr(C)]
pub(crate) struct Host {
    segment: unsafe extern "C" fn(
        name: *const c_char,
        counters: usize,
        documentation: *const c_char,
        length: usize,
        handle: *mut *const c_void,
    ) -> *mut u64,
    hide: unsafe extern "C" fn(handle: *const c_void),
    reveal: unsafe extern "C" fn(handle: *const c_void),
    log: unsafe extern "C" fn(is_error: c_int, line: *const c_char),
    pin: unsafe extern "C" fn() -> *const c_char,
    at_exit: unsafe extern "C" fn() -> *const c_char,
}

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Host")
    }
}

/// Counters in varnishd's shared memory. varnishd is never told to free them.
#[derive(Debug)]
pub(crate) struct Segment {
    /// The counters, in the order of their documentation.
    pub(crate) values: &'static [AtomicU64],
    shown: Option<Shown>,
}

#[derive(Debug)]
struct Shown {
    host: &'static Host,
    handle: *const c_void,
}

// SAFETY: the handle is only given back to varnishd, which keeps what it points to, as segments are never destroyed; hiding
// and revealing are single stores to the segment's head.
unsafe impl Send for Shown {}

impl Segment {
    /// A segment that nobody sees.
    #[cfg(test)]
    pub(crate) fn detached(counters: usize) -> Self {
        let values: Vec<AtomicU64> = (0..counters).map(|_| AtomicU64::new(0)).collect();
        Self { values: values.leak(), shown: None }
    }

    /// Shows the segment in varnishstat, or takes it out.
    pub(crate) fn show(&self, visible: bool) {
        if let Some(Shown { host, handle }) = &self.shown {
            let change = if visible { host.reveal } else { host.hide };
            // SAFETY: the handle is what `segment` returned, and segments are never destroyed.
            unsafe { change(*handle) };
        }
    }
}

impl Host {
    /// A new segment `KAFKALOG.<name>`. Must be called from varnishd's CLI thread.
    pub(crate) fn segment(&'static self, name: &str, counters: usize, documentation: &'static CStr) -> Segment {
        // varnishd takes the name for a printf format, and the index for words between blanks.
        let name: String = name.chars().map(|c| if c.is_ascii_graphic() && c != '%' { c } else { '_' }).collect();
        let name = c_string(&name);
        let mut handle = std::ptr::null();
        // SAFETY: the texts are terminated and outlive the call, the documentation for ever; `handle` is written to once.
        let values = unsafe {
            (self.segment)(
                name.as_ptr(),
                counters,
                documentation.as_ptr(),
                documentation.to_bytes_with_nul().len(),
                &raw mut handle,
            )
        };
        // SAFETY: varnishd returns zeroed, aligned memory of the asked size, which it keeps until the segment is destroyed,
        // which never happens; everybody in this process accesses it as atomics.
        let values = unsafe { std::slice::from_raw_parts(values.cast::<AtomicU64>(), counters) };
        Segment { values, shown: Some(Shown { host: self, handle }) }
    }

    /// Writes a line to standard error, and to varnishd's log where it is an error.
    pub(crate) fn log(&self, is_error: bool, line: &str) {
        let line = c_string(line);
        // SAFETY: the text is terminated and outlives the call.
        unsafe { (self.log)(is_error.into(), line.as_ptr()) };
    }

    /// Keeps this library in memory for good: its threads outlive the VCLs that it came with.
    ///
    /// # Errors
    ///
    /// What the dynamic linker said.
    pub(crate) fn pin(&self) -> Result<(), String> {
        // SAFETY: takes nothing, returns NULL or a text.
        text(unsafe { (self.pin)() }).map_or(Ok(()), |error| Err(format!("keeping the library in memory: {error}")))
    }

    /// Has the process wait for what is outstanding when it ends. Does nothing the second time.
    ///
    /// # Errors
    ///
    /// When there is no room for another function.
    pub(crate) fn at_exit(&self) -> Result<(), String> {
        // SAFETY: takes nothing, returns NULL or a text.
        text(unsafe { (self.at_exit)() }).map_or(Ok(()), Err)
    }
}

/// The text up to its first NUL, as C would see it anyway.
fn c_string(text: &str) -> CString {
    let bytes = text.bytes().take_while(|byte| *byte != 0).collect::<Vec<u8>>();
    CString::new(bytes).unwrap_or_default()
}

fn text(text: *const c_char) -> Option<String> {
    // SAFETY: the shim returns NULL or a terminated text, static or the dynamic linker's, which lives until its next call
    // in this thread.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}
