//! What is wrong with a query.

use std::fmt;
use std::ops::Range;

/// A query that cannot be compiled, in the words of varnishlog: what, where, and the query with the place marked below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryError {
    /// What is wrong.
    pub message: String,
    /// Where, in bytes; `None` for the whole of it.
    pub place: Option<Range<usize>>,
    /// The byte of the place that a caret stands below.
    caret: Option<usize>,
    query: String,
}

impl QueryError {
    pub(super) fn whole(query: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, caret: None, query: query.to_owned() }
    }

    pub(super) fn at(query: &str, place: Range<usize>, message: impl Into<String>) -> Self {
        Self { place: Some(place), ..Self::whole(query, message) }
    }

    /// With a caret below a byte of the place, which is counted from the place's start.
    pub(super) fn with_caret(self, caret: usize) -> Self {
        Self { caret: Some(caret), ..self }
    }

    /// Where it is, to the byte.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.place.as_ref().map_or(0, |place| place.start + self.caret.unwrap_or(0))
    }
}

impl std::error::Error for QueryError {}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else { return f.write_str(&self.message) };
        writeln!(f, "{} (Pos {})", self.message, self.offset() + 1)?;
        let shown =
            |character: char| if character.is_ascii_whitespace() || character == '\x0b' { ' ' } else { character };
        writeln!(f, "{}", self.query.chars().map(shown).collect::<String>())?;
        let mark = |at: usize| match at.checked_sub(place.start) {
            Some(inside) if at < place.end && Some(inside) == self.caret => '^',
            Some(_) if at < place.end => '#',
            _ => '-',
        };
        writeln!(f, "{}", (0..self.query.len()).map(mark).collect::<String>())
    }
}
