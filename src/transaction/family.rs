//! What transactions are to each other: `Begin` names the parent, `Link` the child.

/// What kind of transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    #[default]
    Unknown,
    Session,
    Request,
    BackendRequest,
}

impl Kind {
    /// As the log names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Session => "sess",
            Self::Request => "req",
            Self::BackendRequest => "bereq",
        }
    }
}

/// Why a transaction began, as far as that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Reason {
    #[default]
    Other,
    /// A client sent it.
    Received,
    Esi,
    Restart,
}

/// What a `Begin` or `Link` record says of a transaction and its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) kind: Kind,
    /// The other's id: the parent's in `Begin`, the child's in `Link`.
    pub(super) vxid: u64,
    pub(super) reason: Reason,
}

impl Link {
    /// Reads a payload: type, vxid, reason. `None` where one of them is missing.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let payload = payload.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut words = payload.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let kind = match words.next()? {
            b"sess" => Kind::Session,
            b"req" => Kind::Request,
            b"bereq" => Kind::BackendRequest,
            _ => Kind::Unknown,
        };
        let vxid = str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let reason = match words.next()? {
            b"rxreq" => Reason::Received,
            b"esi" => Reason::Esi,
            b"restart" => Reason::Restart,
            _ => Reason::Other,
        };
        Some(Self { kind, vxid, reason })
    }
}

/// A transaction's relatives, by their slots.
#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) kind: Kind,
    pub(super) reason: Reason,
    /// Its own `Begin` has been seen, not only a relative's record.
    pub(super) begun: bool,
    /// Its own end has been seen.
    pub(super) ended: bool,
    pub(super) parent: Option<u32>,
    /// In the order in which they became known.
    pub(super) children: Vec<u32>,
    /// How many of them have ended, with all of theirs.
    pub(super) children_ready: usize,
}

impl Family {
    /// Forgets all; keeps the memory.
    pub(super) fn begin(&mut self) {
        (self.kind, self.reason, self.parent) = (Kind::Unknown, Reason::Other, None);
        (self.begun, self.ended) = (false, false);
        self.children.clear();
        self.children_ready = 0;
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ended && self.children_ready == self.children.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begin_and_link_records_are_read() {
        let link = |kind, vxid, reason| Some(Link { kind, vxid, reason });
        for (payload, expected) in [
            ("req 1 rxreq\0", link(Kind::Request, 1, Reason::Received)),
            ("bereq 32770 fetch", link(Kind::BackendRequest, 32770, Reason::Other)),
            ("req 5 esi 1", link(Kind::Request, 5, Reason::Esi)),
            ("req 5 restart", link(Kind::Request, 5, Reason::Restart)),
            ("sess 0 HTTP/1", link(Kind::Session, 0, Reason::Other)),
            ("what 1 is", link(Kind::Unknown, 1, Reason::Other)),
            ("req 1", None),
            ("req x rxreq", None),
            ("", None),
        ] {
            assert_eq!(Link::parse(payload.as_bytes()), expected, "{payload}");
        }
    }
}
