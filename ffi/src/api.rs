//! libvarnishapi's log cursors, behind a safe interface. The library is opened at run time, once, and stays open.
//!
//! It checks what it reads by `assert()`: **a recording that is damaged, or a log that is overwritten at the wrong moment, ends
//! the process.** So this is for programs of their own, as a fallback, and for tests as the judge of the native reader; never
//! for varnishd's process.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use thiserror::Error;

use crate::bindings::{
    VSL_COPT_BATCH, VSL_COPT_TAIL, VSL_cursor, VSL_data, VSM_WRK_RUNNING, VarnishApi, vsl_check_e_inval, vsl_e_abandon,
    vsl_e_eof, vsl_e_overrun, vsl_end, vsl_more, vsm,
};
use crate::library::{library, message};
use crate::{layout, tag};

/// Why libvarnishapi does not give a cursor.
#[derive(Debug, Error)]
pub enum ApiError {
    /// None of the library's names can be opened, or it lacks a function.
    #[error("opening libvarnishapi: {0}")]
    Library(String),
    /// The library's tags are not those that this program was built with.
    #[error(
        "libvarnishapi is not of Varnish {}, which this program was built for: its tag {number} is {found}, expected {expected}",
        crate::VARNISH_VERSION
    )]
    OtherTags {
        /// The first tag that differs.
        number: usize,
        /// Its name in the library.
        found: String,
        /// Its name in the header.
        expected: String,
    },
    /// A path that C cannot take.
    #[error("{0} has a NUL character in it")]
    Path(PathBuf),
    /// varnishd is not running there, or its child has not started.
    #[error("attaching to the varnishd in {path}: {reason}")]
    NotRunning {
        /// varnishd's working directory.
        path: PathBuf,
        /// What the library said.
        reason: String,
    },
    /// A recording that it does not take.
    #[error("opening the recording {path}: {reason}")]
    Recording {
        /// The file.
        path: PathBuf,
        /// What the library said.
        reason: String,
    },
    /// The library had no memory.
    #[error("libvarnishapi is out of memory")]
    Memory,
}

/// Where [`VarnishLog::advance`] has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// To a record or a batch of records.
    Record,
    /// To the end of what there is now.
    End,
    /// To the end of a recording.
    Eof,
    /// The log has been let go by varnishd.
    Abandoned,
    /// varnishd has overwritten, or may soon, what comes next.
    Overrun,
    /// Reading failed, or a recording ends inside a record.
    Failed,
}

/// A log, live or recorded, and a cursor in it.
pub struct VarnishLog {
    api: &'static VarnishApi,
    data: NonNull<VSL_data>,
    /// For a live log.
    memory: Option<NonNull<vsm>>,
    /// `None` while there is no log to be had.
    cursor: Option<NonNull<VSL_cursor>>,
    path: PathBuf,
}

// SAFETY: the library keeps its state behind these pointers, none of it bound to a thread, and nobody else has them.
unsafe impl Send for VarnishLog {}

impl VarnishLog {
    /// Attaches to the log of the varnishd with this working directory (`varnishd -n`), without waiting for it: at its end
    /// or at its oldest record. Batches come as one.
    ///
    /// # Errors
    ///
    /// [`ApiError::NotRunning`], or one that says what is wrong with the library.
    pub fn attach(directory: &Path, tail: bool) -> Result<Self, ApiError> {
        let mut log = Self::new(directory)?;
        // A name that does not begin with a slash is looked for in the directory of Varnish's state.
        let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let name = c_path(&absolute)?;
        // SAFETY: VSM_New has no preconditions.
        let memory = NonNull::new(unsafe { log.api.VSM_New() }).ok_or(ApiError::Memory)?;
        // From here on it is destroyed with the log.
        log.memory = Some(memory);
        for (option, value) in [(b'n', name.as_c_str()), (b't', c"0")] {
            // SAFETY: `memory` is VSM_New's, and the strings outlive the calls, which copy what they keep.
            if unsafe { log.api.VSM_Arg(memory.as_ptr(), option as c_char, value.as_ptr()) } != 1 {
                return Err(log.not_running());
            }
        }
        // SAFETY: `memory` is VSM_New's and has not been attached before; with a negative number nothing is printed.
        if unsafe { log.api.VSM_Attach(memory.as_ptr(), -1) } != 0 {
            return Err(log.not_running());
        }
        log.restart(tail)?;
        Ok(log)
    }

    /// Opens a recording of `varnishlog -w`; `-` is standard input.
    ///
    /// # Errors
    ///
    /// [`ApiError::Recording`], or one that says what is wrong with the library.
    pub fn open_file(path: &Path) -> Result<Self, ApiError> {
        let mut log = Self::new(path)?;
        let name = c_path(path)?;
        // SAFETY: `data` is VSL_New's, and the string outlives the call, which does not keep it.
        let cursor = unsafe { log.api.VSL_CursorFile(log.data.as_ptr(), name.as_ptr(), 0) };
        log.cursor = NonNull::new(cursor);
        match log.cursor {
            Some(_) => Ok(log),
            None => Err(ApiError::Recording { path: path.to_owned(), reason: log.data_error() }),
        }
    }

    fn new(path: &Path) -> Result<Self, ApiError> {
        let api = library()?;
        // SAFETY: VSL_New has no preconditions.
        let data = NonNull::new(unsafe { api.VSL_New() }).ok_or(ApiError::Memory)?;
        Ok(Self { api, data, memory: None, cursor: None, path: path.to_owned() })
    }

    /// For a live log, a new cursor: in the current child's log, at its end or at its oldest record.
    ///
    /// # Errors
    ///
    /// [`ApiError::NotRunning`] while there is no child; try again later.
    pub fn restart(&mut self, tail: bool) -> Result<(), ApiError> {
        let Some(memory) = self.memory else { return Ok(()) };
        self.delete_cursor();
        self.refresh();
        let options = VSL_COPT_BATCH | if tail { VSL_COPT_TAIL } else { 0 };
        // SAFETY: `data` is VSL_New's and `memory` is VSM_New's, attached; both are deleted after the cursor.
        let cursor = unsafe { self.api.VSL_CursorVSM(self.data.as_ptr(), memory.as_ptr(), options) };
        self.cursor = NonNull::new(cursor);
        match self.cursor {
            Some(_) => Ok(()),
            None => Err(ApiError::NotRunning { path: self.path.clone(), reason: self.data_error() }),
        }
    }

    /// For a live log, looks whether varnishd and its child are still the same: without it [`Status::Abandoned`] never comes.
    /// Returns whether a child runs.
    pub fn refresh(&mut self) -> bool {
        // SAFETY: `memory` is VSM_New's.
        self.memory.is_some_and(|memory| unsafe { self.api.VSM_Status(memory.as_ptr()) } & VSM_WRK_RUNNING != 0)
    }

    /// Goes to the next record.
    pub fn advance(&mut self) -> Status {
        let Some(cursor) = self.cursor else { return Status::Abandoned };
        // SAFETY: the cursor is the library's and has not been deleted.
        match unsafe { self.api.VSL_Next(cursor.as_ptr()) } {
            status if status == vsl_more => Status::Record,
            status if status == vsl_end => Status::End,
            status if status == vsl_e_eof => Status::Eof,
            status if status == vsl_e_abandon => Status::Abandoned,
            status if status == vsl_e_overrun => Status::Overrun,
            _ => Status::Failed,
        }
    }

    /// The number of the segment that the current record is in; 0 in a recording.
    #[must_use]
    pub fn segment(&self) -> u32 {
        // SAFETY: the cursor is the library's and has not been deleted; this field is public.
        self.cursor.map_or(0, |cursor| unsafe { cursor.as_ref() }.rec.priv_)
    }

    /// Adds the words of the current record, or of a batch with the records in it, to `copy`. Returns whether they are what
    /// varnishd wrote; otherwise nothing is added.
    pub fn copy_record(&self, copy: &mut Vec<u32>) -> bool {
        let Some(cursor) = self.cursor else { return false };
        // SAFETY: as above. The record is copied: it is the library's, and changes with every call.
        let record = unsafe { cursor.as_ref() }.rec;
        if record.ptr.is_null() {
            return false;
        }
        let still_valid = || {
            // SAFETY: the cursor is the library's, and the record is one that it gave.
            unsafe { self.api.VSL_Check(cursor.as_ptr(), &raw const record) != vsl_check_e_inval }
        };
        // SAFETY: the library gives records of which at least the header's words are readable. They are shared with
        // varnishd, so they are read as something that may change at any time.
        let [first, second] = [0, 1].map(|word| unsafe { record.ptr.add(word).read_volatile() });
        let payload = if first >> 24 == u32::from(tag::number::BATCH) { second } else { first & 0xffff };
        // What was read of the length may only be believed if the record was still whole afterwards.
        if !still_valid() {
            return false;
        }
        let length = layout::HEADER_WORDS + (payload as usize).div_ceil(4);
        let start = copy.len();
        // SAFETY: the library has seen that the record or batch of this length ends inside its memory.
        copy.extend((0..length).map(|word| unsafe { record.ptr.add(word).read_volatile() }));
        let valid = still_valid();
        if !valid {
            copy.truncate(start);
        }
        valid
    }

    fn delete_cursor(&mut self) {
        if let Some(cursor) = self.cursor.take() {
            // SAFETY: the cursor is the library's, and is deleted once, before what it belongs to.
            unsafe { self.api.VSL_DeleteCursor(cursor.as_ptr()) }
        }
    }

    fn data_error(&self) -> String {
        // SAFETY: `data` is VSL_New's; the message is the library's until its next, and copied.
        unsafe { message(self.api.VSL_Error(self.data.as_ptr())) }
    }

    fn not_running(&self) -> ApiError {
        // SAFETY: `memory` is VSM_New's; the message is the library's until its next, and copied.
        let reason = self.memory.map(|memory| unsafe { message(self.api.VSM_Error(memory.as_ptr())) });
        ApiError::NotRunning { path: self.path.clone(), reason: reason.unwrap_or_default() }
    }
}

impl Drop for VarnishLog {
    fn drop(&mut self) {
        self.delete_cursor();
        // SAFETY: `data` is VSL_New's, `memory` is VSM_New's, and nothing uses them after this.
        unsafe {
            self.api.VSL_Delete(self.data.as_ptr());
            if let Some(memory) = self.memory.take() {
                let mut memory = memory.as_ptr();
                self.api.VSM_Destroy(&raw mut memory);
            }
        }
    }
}

impl fmt::Debug for VarnishLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VarnishLog").field("path", &self.path).finish_non_exhaustive()
    }
}

fn c_path(path: &Path) -> Result<CString, ApiError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| ApiError::Path(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_that_of_the_header() {
        library().unwrap();
    }

    #[test]
    fn where_no_varnishd_runs_there_is_no_log() {
        let error = VarnishLog::attach(Path::new("/nonexistent"), true).unwrap_err();
        assert!(matches!(error, ApiError::NotRunning { .. }), "{error}");
        let error = VarnishLog::open_file(Path::new("/nonexistent")).unwrap_err();
        assert!(matches!(error, ApiError::Recording { .. }), "{error}");
        assert!(matches!(VarnishLog::open_file(Path::new("a\0b")), Err(ApiError::Path(_))));
    }
}
