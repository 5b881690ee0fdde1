//! Where the values that formats show stand in the log, and which record wins: as varnishncsa of Varnish 7.1 has it.

use crate::log::Tag;
use crate::transaction::{Capture, Pick, Select, Source};

pub(super) fn header(name: &str) -> Select {
    Select::Header(name.as_bytes().into())
}

pub(super) fn method() -> Capture {
    Capture::of([Tag::REQ_METHOD, Tag::BEREQ_METHOD], &Select::Line, Pick::First)
}

pub(super) fn protocol() -> Capture {
    Capture::of([Tag::REQ_PROTOCOL, Tag::BEREQ_PROTOCOL], &Select::Line, Pick::First)
}

pub(super) fn url() -> Capture {
    Capture::of([Tag::REQ_URL, Tag::BEREQ_URL], &Select::Line, Pick::First)
}

/// The client's address, or the backend's.
pub(super) fn remote_address() -> Capture {
    Capture(vec![
        Source { tag: Tag::REQ_START, select: Select::Field(1), pick: Pick::First },
        Source { tag: Tag::BACKEND_OPEN, select: Select::Field(3), pick: Pick::Last },
    ])
}

/// Byte counts: a field of `ReqAcct` and `BereqAcct`, and of `PipeAcct` where it has one.
pub(super) fn accounting(field: u8, pipe: Option<u8>) -> Capture {
    let source = |tag, field| Source { tag, select: Select::Field(field), pick: Pick::First };
    let mut sources = vec![source(Tag::REQ_ACCT, field), source(Tag::BEREQ_ACCT, field)];
    sources.extend(pipe.map(|field| source(Tag::PIPE_ACCT, field)));
    Capture(sources)
}

/// A field of the first `Timestamp` record with one of these labels.
pub(super) fn timestamp(labels: &[&str], field: u8) -> Capture {
    let source = |label: &&str| Source {
        tag: Tag::TIMESTAMP,
        select: Select::HeaderField(label.as_bytes().into(), field),
        pick: Pick::First,
    };
    Capture(labels.iter().map(source).collect())
}

/// When the request started, seconds since 1970: the message's time, and the one that its salt is chosen by.
#[must_use]
pub fn request_start() -> Capture {
    timestamp(&["Start"], 1)
}

pub(super) fn response_end() -> Capture {
    timestamp(&["Resp", "PipeSess", "BerespBody"], 1)
}

pub(super) fn first_byte() -> Capture {
    timestamp(&["Process", "Pipe", "Beresp"], 2)
}

/// What follows `Basic` in a header `Authorization`.
pub(super) fn basic_authorization() -> Capture {
    let select = Select::Scheme(b"Authorization"[..].into(), b"basic"[..].into());
    Capture::of([Tag::REQ_HEADER, Tag::BEREQ_HEADER], &select, Pick::First)
}

/// The host that a request names first.
pub(super) fn host() -> Capture {
    Capture::of([Tag::REQ_HEADER, Tag::BEREQ_HEADER], &header("Host"), Pick::First)
}

pub(super) fn status() -> Capture {
    Capture::of([Tag::RESP_STATUS, Tag::BERESP_STATUS], &Select::Line, Pick::Last)
}

/// What follows a key in the records of `std.log()`.
pub(super) fn logged(key: &str) -> Capture {
    let select = Select::Key(key.as_bytes().into());
    Capture(vec![Source { tag: Tag::VCL_LOG, select, pick: Pick::First }])
}
