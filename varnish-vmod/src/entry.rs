//! What the shim calls (`shim/shim.h`). No panic leaves from here: one that crossed into C would abort the cache.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kafkalog::engine::Setup;

use crate::host::Host;
use crate::lifecycle::VclId;
use crate::module::Module;

/// A VCL's part: what its call of `kafkalog.start()` read.
#[derive(Debug)]
struct Vcl {
    id: VclId,
    setup: Arc<Setup>,
}

/// A text for C, to be given back to [`kafkalog_vmod_free`]; NULL for success.
///
/// The lines behind the first are indented, as varnishd indents the first where it shows it.
fn answer(result: Result<(), String>) -> *mut c_char {
    let Err(message) = result else { return ptr::null_mut() };
    let indented = message.trim_end().replace('\0', " ").replace('\n', "\n\t");
    CString::new(indented).unwrap_or_default().into_raw()
}

fn contained(work: impl FnOnce() -> Result<(), String>) -> *mut c_char {
    let result = catch_unwind(AssertUnwindSafe(work));
    answer(result.unwrap_or_else(|_| Err("kafkalog: a panic, which is a defect of this module".into())))
}

/// # Safety
///
/// `vcl` must be writable, `configuration` a terminated text.
#[unsafe(no_mangle)]
unsafe extern "C" fn kafkalog_vmod_start(vcl: *mut *mut c_void, configuration: *const c_char) -> *mut c_char {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    contained(|| {
        // SAFETY: the shim passes VCL's string, which it has found not to be NULL.
        let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(configuration) }.to_bytes()));
        let setup = Setup::load(path).map_err(|error| error.to_string())?;
        setup.check_for_module().map_err(|error| error.to_string())?;
        let setup = Arc::new(setup);
        let id = VclId(NEXT.fetch_add(1, Ordering::Relaxed));
        // SAFETY: the shim passes the address of varnishd's private pointer of this VCL.
        unsafe { *vcl = Box::into_raw(Box::new(Vcl { id, setup })).cast() };
        Ok(())
    })
}

/// # Safety
///
/// `vcl` must come from [`kafkalog_vmod_start`], `host` must stay for ever.
#[unsafe(no_mangle)]
unsafe extern "C" fn kafkalog_vmod_warm(vcl: *const c_void, host: *const Host) -> *mut c_char {
    contained(|| {
        // SAFETY: varnishd keeps the pointer until it calls the VCL's finaliser; the shim's table is static.
        let (vcl, host) = unsafe { (&*vcl.cast::<Vcl>(), &*host) };
        Module::get_or_start(host)?.warm(vcl.id, &vcl.setup)
    })
}

/// # Safety
///
/// `vcl` must come from [`kafkalog_vmod_start`].
#[unsafe(no_mangle)]
unsafe extern "C" fn kafkalog_vmod_cold(vcl: *const c_void) {
    let _ = catch_unwind(|| {
        // SAFETY: varnishd keeps the pointer until it calls the VCL's finaliser.
        let vcl = unsafe { &*vcl.cast::<Vcl>() };
        if let Some(module) = Module::get() {
            module.cold(vcl.id);
        }
    });
}

/// # Safety
///
/// `vcl` must come from [`kafkalog_vmod_start`], and not be used after this.
#[unsafe(no_mangle)]
unsafe extern "C" fn kafkalog_vmod_discard(vcl: *mut c_void) {
    let _ = catch_unwind(|| {
        // SAFETY: made by `Box::into_raw`, and varnishd calls a VCL's finaliser once.
        let vcl = unsafe { Box::from_raw(vcl.cast::<Vcl>()) };
        // A VCL that failed to load had no COLD event.
        if let Some(module) = Module::get() {
            module.cold(vcl.id);
        }
    });
}

/// Whether lines are being acknowledged, or there is nothing to send.
#[unsafe(no_mangle)]
extern "C" fn kafkalog_vmod_healthy() -> c_int {
    catch_unwind(|| Module::get().is_some_and(Module::is_healthy)).unwrap_or(false).into()
}

/// What becomes of an address.
///
/// # Safety
///
/// `address` must be a terminated text, `text` have `size` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn kafkalog_vmod_hash_ip(address: *const c_char, text: *mut c_char, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    let address = unsafe { CStr::from_ptr(address) };
    // SAFETY: the caller's promise.
    unsafe {
        tell(text, size, |out| Module::get().is_some_and(|module| module.append_address(address.to_bytes(), out)))
    }
}

/// The id of the current salt.
///
/// # Safety
///
/// `text` must have `size` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn kafkalog_vmod_salt_id(text: *mut c_char, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { tell(text, size, |out| Module::get().is_some_and(|module| module.append_salt_id(out))) }
}

/// Writes what `make` appends to a text for C. Whether there is something, and it fits.
unsafe fn tell(text: *mut c_char, size: usize, make: impl FnOnce(&mut Vec<u8>) -> bool) -> c_int {
    let mut out = Vec::with_capacity(size);
    let is_there = catch_unwind(AssertUnwindSafe(|| make(&mut out))).unwrap_or(false);
    if !is_there || out.len() >= size {
        return 0;
    }
    out.push(0);
    // SAFETY: there is room for `size` bytes, which these are no more than.
    unsafe { ptr::copy_nonoverlapping(out.as_ptr(), text.cast(), out.len()) };
    1
}

/// The process ends.
#[unsafe(no_mangle)]
extern "C" fn kafkalog_vmod_exit() {
    let _ = catch_unwind(|| {
        if let Some(module) = Module::get() {
            module.exit();
        }
    });
}

/// # Safety
///
/// `text` must come from one of the functions above, and not be used after this.
#[unsafe(no_mangle)]
unsafe extern "C" fn kafkalog_vmod_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: made by `CString::into_raw` in `answer`.
        drop(unsafe { CString::from_raw(text) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_its_lines_and_its_caret() {
        let text = answer(Err("k.toml:2:1: unknown field\n  |\n2 | formt\n  | ^^^^^\n".into()));
        // SAFETY: just made.
        let shown = unsafe { CStr::from_ptr(text) }.to_str().expect("UTF-8").to_owned();
        // SAFETY: just made, and not used after this.
        unsafe { kafkalog_vmod_free(text) };
        assert_eq!(shown, "k.toml:2:1: unknown field\n\t  |\n\t2 | formt\n\t  | ^^^^^");
    }

    #[test]
    fn a_panic_is_an_error() {
        let text = contained(|| panic!("a defect"));
        assert!(!text.is_null());
        // SAFETY: just made, and not used after this.
        unsafe { kafkalog_vmod_free(text) };
        assert!(contained(|| Ok(())).is_null());
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let mut vcl = ptr::null_mut();
        // SAFETY: both are what the shim would pass.
        let text = unsafe { kafkalog_vmod_start(&raw mut vcl, c"/no/such/kafkalog.toml".as_ptr()) };
        assert!(vcl.is_null());
        // SAFETY: an error was returned, so this is a text.
        assert!(unsafe { CStr::from_ptr(text) }.to_string_lossy().contains("/no/such/kafkalog.toml"));
        // SAFETY: made above, and not used after this.
        unsafe { kafkalog_vmod_free(text) };
    }
}
