//! Message headers, used again.
//!
//! All lines of a stream have the same headers but for the sequence number. Making a list of five costs librdkafka seven
//! allocations, and freeing them as much again: that was half of the producer thread's time. So a list comes back with its
//! message's report, and only the number is written anew.

use super::client::Headers;
use crate::message::{Boot, HEADER_BOOT, HEADER_HOST, HEADER_SALT, HEADER_SEQUENCE, HEADER_STREAM, SaltId};

/// Where `kl-seq` is in the lists made here.
const SEQUENCE: usize = 3;

/// The headers of one stream's lines.
#[derive(Debug)]
pub(super) struct StreamHeaders {
    host: String,
    boot: Boot,
    stream: String,
    /// Lists without `kl-salt`.
    plain: Vec<Headers>,
    /// Lists with `kl-salt`, all of this one.
    salted: (Option<SaltId>, Vec<Headers>),
}

impl StreamHeaders {
    pub(super) fn new(host: &str, boot: Boot, stream: &str) -> Self {
        Self { host: host.to_owned(), boot, stream: stream.to_owned(), plain: Vec::new(), salted: (None, Vec::new()) }
    }

    /// Headers for a line with this number, whose addresses are hashed under `salt`, if any is.
    #[inline]
    pub(super) fn take(&mut self, sequence: u64, salt: Option<SaltId>) -> Headers {
        let used = match salt {
            None => self.plain.pop(),
            Some(_) if self.salted.0 == salt => self.salted.1.pop(),
            Some(_) => {
                // A new salt: what has the old one is freed, here or when it comes back.
                self.salted = (salt, Vec::new());
                None
            }
        };
        if let Some(mut headers) = used
            && headers.overwrite(SEQUENCE, &sequence.to_be_bytes())
        {
            return headers;
        }
        let mut headers = Headers::with_capacity(4 + usize::from(salt.is_some()));
        headers.add(HEADER_HOST, self.host.as_bytes());
        headers.add(HEADER_BOOT, self.boot.as_bytes());
        headers.add(HEADER_STREAM, self.stream.as_bytes());
        headers.add(HEADER_SEQUENCE, &sequence.to_be_bytes());
        if let Some(salt) = salt {
            headers.add(HEADER_SALT, salt.to_string().as_bytes());
        }
        headers
    }

    /// Keeps the headers of a line that was hashed under `salt`, if it was. There are never more than lines were with
    /// librdkafka at a time.
    #[inline]
    pub(super) fn give_back(&mut self, headers: Headers, salt: Option<SaltId>) {
        match salt {
            None => self.plain.push(headers),
            Some(_) if self.salted.0 == salt => self.salted.1.push(headers),
            Some(_) => {}
        }
    }
}
