//! The two notations: text with `%` specifiers as varnishncsa has it, and JSON fields as varnishkafka has them.

use super::FormatError;

/// What a JSON field is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A string: `!escape`, or nothing said.
    Text,
    /// A number, or `null`: `!num`.
    Number,
}

/// One `%` specifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Specifier {
    /// Where the `%` stands, in bytes.
    pub(super) offset: usize,
    /// The letter at its end.
    pub(super) letter: char,
    /// What stands in the braces, without the parts below; empty without braces.
    pub(super) argument: String,
    /// `@FIELD`
    pub(super) field: Option<String>,
    /// `?DEFAULT`
    pub(super) missing: Option<String>,
    /// `!TYPE`
    pub(super) kind: Option<Kind>,
}

/// A piece of a text format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Literal(Vec<u8>),
    Specifier(Specifier),
}

/// Reads varnishncsa's notation.
pub(super) fn line(notation: &str) -> Result<Vec<Item>, FormatError> {
    let mut items = Vec::new();
    let mut literal = Vec::new();
    let mut cursor = Cursor { text: notation, at: 0 };
    while let Some(character) = cursor.next() {
        match character {
            '\\' => match cursor.next() {
                Some('t') => literal.push(b'\t'),
                Some('n') => literal.push(b'\n'),
                Some(other) => push(&mut literal, other),
                None => literal.push(b'\\'),
            },
            '%' => {
                if !literal.is_empty() {
                    items.push(Item::Literal(std::mem::take(&mut literal)));
                }
                let (mut specifier, inside) = cursor.specifier()?;
                specifier.argument = inside.unwrap_or_default();
                items.push(Item::Specifier(specifier));
            }
            other => push(&mut literal, other),
        }
    }
    if !literal.is_empty() {
        items.push(Item::Literal(literal));
    }
    Ok(items)
}

/// Reads varnishkafka's notation: specifiers separated by white space, each naming its field.
pub(super) fn fields(notation: &str) -> Result<Vec<Specifier>, FormatError> {
    let mut fields: Vec<Specifier> = Vec::new();
    let mut cursor = Cursor { text: notation, at: 0 };
    while let Some(character) = cursor.next() {
        if character.is_whitespace() {
            continue;
        }
        let start = cursor.at - character.len_utf8();
        if character != '%' {
            return Err(FormatError::new(
                start,
                format!(
                    "`{character}` is outside of any field: a field is written %{{VAR@FIELD?DEFAULT!TYPE}}X or %X@FIELD"
                ),
            ));
        }
        let (mut specifier, inside) = cursor.specifier()?;
        // The parts stand in the braces (varnishkafka) or behind the letter.
        let inside = inside.unwrap_or_default();
        let behind = cursor.take_while(|character| !character.is_whitespace());
        specifier.argument = specifier.take_parts(&inside, start)?;
        let rest = specifier.take_parts(behind, start)?;
        if !rest.is_empty() {
            return Err(FormatError::new(
                cursor.at - behind.len(),
                format!("`{rest}` behind a field: separate fields by spaces"),
            ));
        }
        match &specifier.field {
            None => {
                return Err(FormatError::new(
                    start,
                    "the field has no name: add @NAME, as in %{Host@uri_host}i or %s@http_status",
                ));
            }
            Some(name) if fields.iter().any(|other| other.field.as_ref() == Some(name)) => {
                return Err(FormatError::new(start, format!("there are two fields named `{name}`")));
            }
            Some(_) => fields.push(specifier),
        }
    }
    if fields.is_empty() {
        return Err(FormatError::new(0, "the format has no field: write at least one, as in %{Host@uri_host}i"));
    }
    Ok(fields)
}

fn push(literal: &mut Vec<u8>, character: char) {
    literal.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

impl Specifier {
    /// Takes `@FIELD`, `?DEFAULT` and `!TYPE`, in any order, out of a text, and gives back what stands before them.
    fn take_parts(&mut self, text: &str, offset: usize) -> Result<String, FormatError> {
        let mut parts = text.split_inclusive(['@', '?', '!']);
        let strip = |part: &str| part.trim_end_matches(['@', '?', '!']).to_owned();
        let first = parts.next().unwrap_or_default();
        let mut mark = first.chars().last();
        for part in parts {
            let value = strip(part);
            match mark {
                Some('@') if value.is_empty() => return Err(FormatError::new(offset, "the name behind `@` is empty")),
                Some('@') => self.field = Some(value),
                Some('?') => self.missing = Some(value),
                _ => self.kind = Some(kind(&value, offset)?),
            }
            mark = part.chars().last();
        }
        // A mark at the very end: an empty default is the only part that may be empty.
        if text.ends_with(['@', '!']) {
            return Err(FormatError::new(
                offset,
                format!("nothing stands behind the last `{}`", &text[text.len() - 1..]),
            ));
        }
        if text.ends_with('?') {
            self.missing = Some(String::new());
        }
        Ok(strip(first))
    }
}

fn kind(name: &str, offset: usize) -> Result<Kind, FormatError> {
    match name {
        "num" => Ok(Kind::Number),
        "escape" | "string" => Ok(Kind::Text),
        _ => Err(FormatError::new(offset, format!("`!{name}` is no type: expected !num or !escape"))),
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn next(&mut self) -> Option<char> {
        let character = self.text[self.at..].chars().next()?;
        self.at += character.len_utf8();
        Some(character)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let taken = &rest[..rest.find(|character| !wanted(character)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// What follows a `%`: the specifier, and what its braces hold if it has any.
    fn specifier(&mut self) -> Result<(Specifier, Option<String>), FormatError> {
        let offset = self.at - 1;
        let mut inside = None;
        let mut letter = self.next();
        if letter == Some('{') {
            let start = self.at;
            let mut depth = 1;
            while depth > 0 {
                match self.next() {
                    Some('{') => depth += 1,
                    Some('}') => depth -= 1,
                    Some(_) => {}
                    None => {
                        return Err(FormatError::new(offset, "`%{` has no matching `}`")
                            .or_in_varnishncsa(format!("Unmatched bracket at: {}", &self.text[offset..])));
                    }
                }
            }
            inside = Some(self.text[start..self.at - 1].to_owned());
            letter = self.next();
        }
        let letter = letter.ok_or_else(|| {
            FormatError::new(offset, "the format ends inside a specifier: a letter must follow")
                .or_in_varnishncsa(format!("Unknown format specifier at: {}", &self.text[offset..]))
        })?;
        Ok((Specifier { offset, letter, argument: String::new(), field: None, missing: None, kind: None }, inside))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(notation: &str) -> (char, String, Option<String>, Option<String>, Option<Kind>) {
        let mut fields = fields(notation).expect(notation);
        assert_eq!(fields.len(), 1);
        let Specifier { letter, argument, field, missing, kind, .. } = fields.remove(0);
        (letter, argument, field, missing, kind)
    }

    #[test]
    fn varnishkafkas_parts_come_in_any_order() {
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(field("%{Host@uri_host}i"), ('i', "Host".to_owned(), named("uri_host"), None, None));
        assert_eq!(
            field("%{@sequence!num?0}n"),
            ('n', String::new(), named("sequence"), named("0"), Some(Kind::Number))
        );
        assert_eq!(field("%{%FT%T@dt}t"), ('t', "%FT%T".to_owned(), named("dt"), None, None));
        assert_eq!(field("%{fake@host?cp1}x"), ('x', "fake".to_owned(), named("host"), named("cp1"), None));
        assert_eq!(field("%s@http_status!num"), ('s', String::new(), named("http_status"), None, Some(Kind::Number)));
        assert_eq!(field("%{Range?@range}i"), ('i', "Range".to_owned(), named("range"), named(""), None));
        assert_eq!(field("%{Range@range?}i"), ('i', "Range".to_owned(), named("range"), named(""), None));
    }

    #[test]
    fn errors_name_the_place() {
        for (notation, offset, what) in [
            ("%s@a x", 5, "outside of any field"),
            ("%s", 0, "has no name"),
            ("%s@a %b@a", 5, "two fields named `a`"),
            ("%{Host@a", 0, "no matching `}`"),
            ("%s@a %", 5, "ends inside"),
            ("%s@a!int", 0, "`!int` is no type"),
            ("%s@", 0, "behind the last `@`"),
            ("", 0, "has no field"),
            ("%{Host@a}ixy", 10, "`xy` behind a field"),
        ] {
            let error = fields(notation).expect_err(notation);
            assert!(error.offset == offset && error.message.contains(what), "{notation}: {error:?}");
        }
    }

    #[test]
    fn text_formats_have_literals_and_escapes() {
        let items = line("a\\tb %h \\\"%{X}i\\").unwrap();
        assert!(matches!(&items[0], Item::Literal(text) if text == b"a\tb "));
        assert!(matches!(&items[1], Item::Specifier(specifier) if specifier.letter == 'h'));
        assert!(matches!(&items[3], Item::Specifier(specifier) if specifier.argument == "X"));
        assert!(matches!(&items[4], Item::Literal(text) if text == b"\\"));
    }

    proptest! {
        #[test]
        fn no_notation_panics(notation in "[%{}@?!a-z \\\\\u{0}-\u{ff}]{0,40}") {
            let _ = fields(&notation);
            let _ = line(&notation);
        }
    }
}
