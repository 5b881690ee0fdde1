//! From a query's text to its tokens.

use std::ops::Range;

use super::QueryError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word or a quoted string.
    Value,
    /// The end of one query.
    End,
    Vxid,
    And,
    Or,
    Not,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `eq`
    Same,
    /// `ne`
    NotSame,
    /// `~`
    Matches,
    /// `!~`
    MatchesNot,
    OpenGroup,
    CloseGroup,
    OpenLevel,
    CloseLevel,
    OpenField,
    CloseField,
    Colon,
    Comma,
}

impl Kind {
    /// Tokens whose text is fixed; a longer one goes before what it begins with.
    const FIXED: [(&'static str, Self); 22] = [
        ("vxid", Self::Vxid),
        ("and", Self::And),
        ("not", Self::Not),
        ("or", Self::Or),
        ("eq", Self::Same),
        ("ne", Self::NotSame),
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
        ("<=", Self::LessOrEqual),
        (">=", Self::GreaterOrEqual),
        ("!~", Self::MatchesNot),
        ("<", Self::Less),
        (">", Self::Greater),
        ("~", Self::Matches),
        ("(", Self::OpenGroup),
        (")", Self::CloseGroup),
        ("{", Self::OpenLevel),
        ("}", Self::CloseLevel),
        ("[", Self::OpenField),
        ("]", Self::CloseField),
        (":", Self::Colon),
        (",", Self::Comma),
    ];

    /// As error messages name it when it is missing.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CloseGroup => "')'",
            Self::CloseLevel => "'}'",
            Self::CloseField => "']'",
            _ => "EOI",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Where it stands.
    pub(super) place: Range<usize>,
    /// A value's text without quotes.
    pub(super) value: Vec<u8>,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'.' | b'*')
}

/// The token of fixed text that a text begins with, and its length.
fn fixed(text: &[u8]) -> Option<(Kind, usize)> {
    let begins = |(fixed, _): &&(&str, Kind)| {
        let length = fixed.len();
        text.starts_with(fixed.as_bytes())
            && !(is_word(text[length - 1]) && text.get(length).copied().is_some_and(is_word))
    };
    Kind::FIXED.iter().find(begins).map(|(fixed, kind)| (*kind, fixed.len()))
}

/// The tokens, with an [`End`](Kind::End) behind each query.
pub(super) fn tokens(query: &str) -> Result<Vec<Token>, QueryError> {
    let text = query.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let (kind, end, value) = match byte {
            b' ' | b'\t' => {
                at += 1;
                continue;
            }
            b'\\' if text.get(at + 1) == Some(&b'\n') => {
                at += 2;
                continue;
            }
            b'#' => {
                at += text[at..].iter().position(|byte| *byte == b'\n').unwrap_or(text.len() - at);
                continue;
            }
            b'"' | b'\'' => {
                let (end, value) = quoted(query, at)?;
                (Kind::Value, end, value)
            }
            b'\n' => (Kind::End, at + 1, Vec::new()),
            _ => match fixed(&text[at..]) {
                Some((kind, length)) => (kind, at + length, Vec::new()),
                None => {
                    let length = text[at..].iter().take_while(|byte| is_word(**byte)).count();
                    if length == 0 {
                        let error = QueryError::at(query, at..at + 1, "Syntax error");
                        // As varnishlog marks it.
                        let touches = tokens.last().is_some_and(|token: &Token| token.place.end == at);
                        return Err(if touches { error.with_caret(0) } else { error });
                    }
                    (Kind::Value, at + length, text[at..at + length].to_vec())
                }
            },
        };
        tokens.push(Token { kind, place: at..end, value });
        at = end;
    }
    tokens.push(Token { kind: Kind::End, place: text.len()..text.len(), value: Vec::new() });
    Ok(tokens)
}

/// The string whose quote stands at `start`: where it ends, and what it says. A backslash makes the next character stand for
/// itself.
fn quoted(query: &str, start: usize) -> Result<(usize, Vec<u8>), QueryError> {
    let text = query.as_bytes();
    let mut value = Vec::new();
    let mut at = start + 1;
    loop {
        match text.get(at) {
            Some(byte) if *byte == text[start] => return Ok((at + 1, value)),
            Some(b'\\') if !matches!(text.get(at + 1), None | Some(b'\n')) => {
                at += 1;
                value.push(text[at]);
            }
            None | Some(b'\n' | b'\\') => {
                // The backslash at a line's end belongs to what is marked.
                let end = (at + usize::from(text.get(at) == Some(&b'\\'))).min(text.len());
                return Err(QueryError::at(query, start..end, "Unterminated string").with_caret(end - start));
            }
            Some(byte) => value.push(*byte),
        }
        at += 1;
    }
}
