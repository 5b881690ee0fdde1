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

    /// The tag of this name, upper or lower case; a prefix will do while it is the only one, as for varnishlog.
    ///
    /// # Errors
    ///
    /// [`TagGlobError`] where there is none, or more than one.
    pub fn by_name(name: &str) -> Result<Self, TagGlobError> {
        let mut tags = Vec::new();
        if name.contains('*') {
            return Err(TagGlobError::None);
        }
        Self::add_by_glob(name.as_bytes(), &mut tags)?;
        Ok(tags[0])
    }

    /// Adds the tags that a glob names: a name as for [`by_name`](Self::by_name), or one with a `*` in it for any text.
    ///
    /// # Errors
    ///
    /// [`TagGlobError`] when it names none, or says nothing clear.
    pub fn add_by_glob(glob: &[u8], tags: &mut Vec<Self>) -> Result<(), TagGlobError> {
        let before = tags.len();
        let begins =
            |full: &&[u8], text: &[u8]| full.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text));
        let rows = || tag::all().map(|row| (row.name.as_bytes(), Self(row.number)));
        let mut parts = glob.split(|byte| *byte == b'*');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(name), None, _) if !name.is_empty() => {
                let mut found = rows().filter(|(full, _)| begins(full, name));
                let exact = rows().find(|(full, _)| full.eq_ignore_ascii_case(name));
                match (exact, found.next(), found.next()) {
                    (Some((_, tag)), ..) | (None, Some((_, tag)), None) => tags.push(tag),
                    (None, Some(_), Some(_)) => return Err(TagGlobError::Ambiguous),
                    (None, None, _) => {}
                }
            }
            (Some(first), Some(last), None) => tags.extend(
                rows()
                    .filter(|(full, _)| {
                        full.len() >= first.len() + last.len()
                            && begins(full, first)
                            && full[full.len() - last.len()..].eq_ignore_ascii_case(last)
                    })
                    .map(|(_, tag)| tag),
            ),
            (_, _, Some(_)) => return Err(TagGlobError::Syntax),
            _ => {}
        }
        if tags.len() > before { Ok(()) } else { Err(TagGlobError::None) }
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

/// What is wrong with the name of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagGlobError {
    /// There is none.
    None,
    /// Several begin so.
    Ambiguous,
    /// Only one `*` is understood.
    Syntax,
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
        assert_eq!(Tag::by_name("ReqURL"), Ok(Tag::REQ_URL));
        assert_eq!(Tag::by_name("requrl"), Ok(Tag::REQ_URL));
        assert_eq!(Tag::by_name("ReqUR"), Ok(Tag::REQ_URL));
        assert_eq!(Tag::by_name("Req"), Err(TagGlobError::Ambiguous), "ReqStart, ReqURL, …");
        assert_eq!(Tag::by_name("Hit"), Tag::by_name("hit"), "a whole name wins over its longer neighbours");
        assert_eq!(Tag::by_name("NoSuch"), Err(TagGlobError::None));
        assert_eq!(Tag::REQ_URL.name(), Some("ReqURL"));
    }

    #[test]
    fn globs_name_many_tags() {
        let tags = |glob: &str| {
            let mut tags = Vec::new();
            Tag::add_by_glob(glob.as_bytes(), &mut tags).map(|()| tags)
        };
        assert_eq!(tags("*reqURL"), Ok(vec![Tag::REQ_URL, Tag::BEREQ_URL]));
        assert_eq!(tags("bereq*url"), Ok(vec![Tag::BEREQ_URL]));
        assert_eq!(tags("ReqUR"), Ok(vec![Tag::REQ_URL]));
        assert!(tags("*").is_ok_and(|tags| tags.len() > 80));
        assert_eq!(tags("ReqURLReqURL*"), Err(TagGlobError::None));
        assert_eq!(tags("Req"), Err(TagGlobError::Ambiguous));
        assert_eq!(tags("*e*"), Err(TagGlobError::Syntax));
        assert_eq!(tags(""), Err(TagGlobError::None));
    }
}
