//! libvarnishapi itself: opened at run time, and only if it is that of the header.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::ptr;
use std::sync::OnceLock;

use crate::api::ApiError;
use crate::bindings::VarnishApi;
use crate::tag;

/// The names that the library goes by: `.3` since Varnish 6.6, `.2` before; the bare name comes with development packages.
const NAMES: [&str; 3] = ["libvarnishapi.so.3", "libvarnishapi.so.2", "libvarnishapi.so"];

/// What the library exports.
struct Library(VarnishApi);

// SAFETY: all of it is functions and a constant table; neither is bound to a thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// The library, opened by the first who needs it. It is never closed: cursors point into it.
pub(crate) fn library() -> Result<&'static VarnishApi, ApiError> {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    if let Some(Library(api)) = LIBRARY.get() {
        return Ok(api);
    }
    let mut reasons = Vec::new();
    for name in NAMES {
        // SAFETY: libvarnishapi does nothing when it is loaded, and what is taken from it has the types of its header.
        match unsafe { VarnishApi::new(name) } {
            Ok(api) => {
                check_tags(&api)?;
                return Ok(&LIBRARY.get_or_init(|| Library(api)).0);
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(ApiError::Library(reasons.join("; ")))
}

/// The types are those of the header: the library must be of the same Varnish. It has no version, but its table of tags
/// changes with nearly every release.
fn check_tags(api: &VarnishApi) -> Result<(), ApiError> {
    // SAFETY: VSL_tags is an array of 256 pointers, which are null or strings that live as long as the library.
    let names: [*const c_char; 256] = unsafe { ptr::read(api.VSL_tags.cast()) };
    for (number, name) in names.into_iter().enumerate() {
        // SAFETY: as above.
        let found = if name.is_null() { String::new() } else { unsafe { message(name) } };
        let expected = tag::all().find(|row| usize::from(row.number) == number).map_or("", |row| row.name);
        // Reserved numbers have names in the header's enumeration only.
        if found != expected && !expected.starts_with('_') {
            return Err(ApiError::OtherTags { number, found, expected: expected.to_owned() });
        }
    }
    Ok(())
}

/// A message of the library.
///
/// # Safety
///
/// Null, or a string that ends with NUL and stays as it is during the call.
pub(crate) unsafe fn message(text: *const c_char) -> String {
    if text.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim_end().to_owned()
}
