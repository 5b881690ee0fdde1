//! Tags.

use std::fmt;

use kafkalog_ffi::tag::{self, number};

/// What kind of record: `VSL_tag_e` of the installed Varnish.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u8);

macro_rules! tags {
    ($($name:ident),+ $(,)?) => {
        $(
            #[doc = concat!("`kafkalog_ffi::tag::number::", stringify!($name), "`")]
            pub const $name: Self = Self(number::$name);
        )+
    };
}

impl Tag {
    tags! {
        BACKEND_OPEN, BACKEND_START, BATCH, BEGIN, BEREQ_ACCT, BEREQ_HEADER, BEREQ_METHOD, BEREQ_PROTOCOL, BEREQ_URL,
        BERESP_HEADER, BERESP_STATUS, END, HTTP_GARBAGE, LINK, PIPE_ACCT, PROXY, REQ_ACCT, REQ_HEADER, REQ_METHOD,
        REQ_PROTOCOL, REQ_START, REQ_URL, RESERVED, RESP_HEADER, RESP_STATUS, SESS_OPEN, TIMESTAMP, VCL_CALL, VCL_LOG, VCL_RETURN,
        VSL,
    }

    /// The tag in a record's first word.
    #[inline]
    #[must_use]
    pub const fn from_header(word: u32) -> Self {
        Self((word >> 24) as u8)
    }

    /// The tag with this number, known to the header or not.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }

    /// The number in a record's header.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether records can have it: 0 and the highest two numbers, which mark the log's end and batches, are no record's.
    #[inline]
    pub(super) const fn is_of_record(self) -> bool {
        self.0.wrapping_sub(1) < Self::RESERVED.0 - 1
    }

    /// The tag of this name, upper or lower case; a prefix will do while it is the only one, as for varnishlog. `None`
    /// where there is none, or more than one.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let matches = |full: &str| {
            full.len() >= name.len() && full.as_bytes()[..name.len()].eq_ignore_ascii_case(name.as_bytes())
        };
        let mut found = None;
        for row in tag::all().filter(|row| matches(row.name)) {
            if row.name.len() == name.len() {
                return Some(Self(row.number));
            }
            if found.replace(Self(row.number)).is_some() {
                return None;
            }
        }
        found
    }

    /// Whether payloads are binary, not text (`SLT_F_BINARY`).
    #[must_use]
    pub fn is_binary(self) -> bool {
        self.flags() & tag::FLAG_BINARY != 0
    }

    /// Whether payloads can hold control characters (`SLT_F_UNSAFE`).
    #[must_use]
    pub fn is_unsafe(self) -> bool {
        self.flags() & tag::FLAG_UNSAFE != 0
    }

    fn flags(self) -> u8 {
        tag::all().find(|row| row.number == self.0).map_or(0, |row| row.flags)
    }

    /// Whether varnishd itself writes addresses into payloads of this tag, as words among others.
    #[must_use]
    pub fn may_hold_addresses(self) -> bool {
        let tags = [
            "SessOpen",
            "SessError",
            "ReqStart",
            "Proxy",
            "ProxyGarbage",
            "HttpGarbage",
            "BackendOpen",
            "BackendStart",
            "BackendReuse",
            "BackendClose",
            "Debug",
            "Error",
            "Notice",
            "VCL_acl",
        ];
        self.name().is_some_and(|name| tags.contains(&name))
    }

    /// The name as varnishlog prints it; `None` for a number that the header does not have.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        tag::all().find(|row| row.number == self.0).map(|row| row.name)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "tag {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_abbreviated_while_unique() {
        assert_eq!(Tag::by_name("ReqURL"), Some(Tag::REQ_URL));
        assert_eq!(Tag::by_name("requrl"), Some(Tag::REQ_URL));
        assert_eq!(Tag::by_name("ReqUR"), Some(Tag::REQ_URL));
        assert_eq!(Tag::by_name("Req"), None, "ReqStart, ReqURL, …");
        assert_eq!(Tag::by_name("Hit"), Tag::by_name("hit"), "a whole name wins over its longer neighbours");
        assert_eq!(Tag::by_name("NoSuch"), None);
        assert_eq!(Tag::REQ_URL.name(), Some("ReqURL"));
    }
}
