//! Configuration files: TOML, read strictly, with errors that name the place.
//!
//! Producer and sink read theirs the same way: [`load`] into a type that denies unknown fields, then checks of what the
//! values mean, whose complaints carry a [`Spanned`] value's place through [`Source::error`].

#[cfg(feature = "edge")]
mod edge;
mod property;
mod units;

#[cfg(feature = "edge")]
pub use edge::{
    Anonymize, Config, IpFunction, Journal, JournalMode, Kafka, OnMissing, OutputConfig, SaltSource, StreamConfig,
    StreamSide, Varnish,
};
pub use property::Property;
pub use toml::Spanned;
pub use units::{ByteSize, Period};

use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::de::DeserializeOwned;
use thiserror::Error;

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("reading the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something in the file is wrong.
    #[error("{path}:{line}:{column}: {message}\n{excerpt}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line of the offence, from 1.
        line: usize,
        /// Column of the offence in characters, from 1.
        column: usize,
        /// What is wrong and what would be right.
        message: String,
        /// The line and a caret under the offence.
        excerpt: String,
    },
}

/// A configuration file's text, kept for the places of later complaints.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`] when it cannot be read as UTF-8 text.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self { path: path.to_owned(), text }),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// A text that is not in a file, for tests.
    #[must_use]
    pub fn from_text(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// Parses the text.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] at the first thing that is not as `T` wants it.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(&self.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            // The message may quote the value.
            let secret = names_secret(self.line_at(span.start).1);
            let message = if secret { "this is not what is expected here" } else { error.message().trim_end() };
            self.error(span, message)
        })
    }

    /// The text, as it was read.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where the line begins that holds the byte at `offset`, and the line.
    fn line_at(&self, offset: usize) -> (usize, &str) {
        let offset = self.text.floor_char_boundary(offset.min(self.text.len()));
        let start = self.text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        (start, self.text[start..].lines().next().unwrap_or_default())
    }

    /// A complaint about the bytes `span` of the text. It shows the line, but no secret in it.
    #[must_use]
    pub fn error(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        let secret = names_secret(self.line_at(span.start).1);
        self.complaint(span, message.into(), secret)
    }

    /// As [`error`](Self::error), where a value might be a secret whose key has a wrong name: no value is shown.
    #[must_use]
    pub fn error_without_values(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        self.complaint(span, message.into(), true)
    }

    fn complaint(&self, span: Range<usize>, message: String, hide: bool) -> ConfigError {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let (line_start, line_text) = self.line_at(start);
        let line = self.text[..line_start].matches('\n').count() + 1;
        let column = self.text[line_start..start].chars().count() + 1;
        let end =
            self.text.floor_char_boundary(span.end.clamp(start, line_start + line_text.len().max(start - line_start)));
        let width = self.text[start..end].chars().count().max(1);
        let shown = if hide { hide_values(line_text) } else { line_text.to_owned() };
        let mut excerpt = String::new();
        let margin = line.to_string().len();
        write!(
            excerpt,
            "{:margin$} |\n{line} | {shown}\n{:margin$} | {:indent$}{}",
            "",
            "",
            "",
            "^".repeat(width),
            indent = column - 1
        )
        .expect("a string takes it");
        ConfigError::Invalid { path: self.path.clone(), line, column, message, excerpt }
    }

    /// A complaint about a place *inside* a string value, `offset` bytes from its start: a format, say.
    ///
    /// Exact for strings that are written on one line without escapes; otherwise it points at the value's start.
    #[must_use]
    pub fn error_within<T: AsRef<str>>(
        &self,
        value: &Spanned<T>,
        offset: usize,
        message: impl Into<String>,
    ) -> ConfigError {
        let span = value.span();
        let written = self.text.get(span.clone()).unwrap_or_default();
        let quote = if written.starts_with("\"\"\"") || written.starts_with("'''") { 3 } else { 1 };
        let value = value.get_ref().as_ref();
        let literal = written.len() == value.len() + 2 * quote && written[quote..].starts_with(value);
        match literal {
            true => {
                let start = span.start + quote + offset.min(value.len());
                self.error(start..start + 1, message)
            }
            false => self.error(span, message),
        }
    }
}

/// Whether the value of a property of this name is not to be shown.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    ["password", "secret", "key.pem", "jaas", "username", "oauthbearer"].iter().any(|part| name.contains(part))
}

/// Whether a line of a file gives a value to such a property: `key = value`, or several in braces.
fn names_secret(line: &str) -> bool {
    let (key, value) = line.split_once('=').unwrap_or((line, ""));
    is_secret(key) || value.trim_start().starts_with('{') && is_secret(value)
}

/// The line with a star for each character of its values, those in an inline table as well.
fn hide_values(line: &str) -> String {
    let (mut in_value, mut quote, mut escaped) = (false, None, false);
    let hide = |character: char| {
        match (quote, character) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                return if in_value { '*' } else { character };
            }
            (Some(open), _) if open == character && !escaped => quote = None,
            (Some(_), _) => {}
            (None, '=') if !in_value => {
                in_value = true;
                return character;
            }
            (None, '{' | '}' | ',') => in_value = false,
            (None, '"' | '\'') => quote = Some(character),
            (None, _) => {}
        }
        escaped = false;
        if in_value && !(quote.is_none() && character.is_whitespace()) { '*' } else { character }
    };
    line.chars().map(hide).collect()
}

/// Reads and parses a configuration file.
///
/// # Errors
///
/// See [`Source::read`] and [`Source::parse`].
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<(Source, T), ConfigError> {
    let source = Source::read(path)?;
    let value = source.parse()?;
    Ok((source, value))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[allow(dead_code)]
        format: Spanned<String>,
    }

    #[test]
    fn unknown_keys_are_named_with_their_place_and_the_known_ones() {
        let source = Source::from_text("k.toml", "format = \"x\"\nformt = \"y\"\n");
        let error = source.parse::<Sample>().expect_err("an unknown key").to_string();
        assert_eq!(error, "k.toml:2:1: unknown field `formt`, expected `format`\n  |\n2 | formt = \"y\"\n  | ^^^^^");
    }

    #[test]
    fn a_place_inside_a_string_gets_its_caret() {
        let source = Source::from_text("k.toml", "\nformat = \"%h %{nö\"\n");
        let sample: Sample = source.parse().expect("it is well-formed");
        let error = source.error_within(&sample.format, 3, "`%{` has no end").to_string();
        assert_eq!(error, "k.toml:2:14: `%{` has no end\n  |\n2 | format = \"%h %{nö\"\n  |              ^");
    }

    #[test]
    fn no_complaint_shows_a_secret() {
        type Properties = std::collections::BTreeMap<String, Spanned<String>>;
        for text in ["sasl.password = 4711", "\"sasl.password\" = \"4711", "p = { \"sasl.password\" = 4711 }"] {
            let error = Source::from_text("k.toml", text).parse::<Properties>().expect_err(text).to_string();
            assert!(!error.contains("4711") && error.contains("k.toml:1:"), "{error}");
        }
        let source = Source::from_text("k.toml", "\"sasl.password\" = \"4711\"");
        let error = source.error(18..24, "too short").to_string();
        assert_eq!(error, "k.toml:1:19: too short\n  |\n1 | \"sasl.password\" = ******\n  |                   ^^^^^^");
    }

    #[test]
    fn values_are_hidden_and_keys_are_not() {
        for (line, shown) in [
            (r#"p = { "a.b" = "x,y\"}=z", c = 'd' } # e"#, r#"p = { "a.b" = **********, c = *** } # e"#),
            ("n = 12 # more", "n = ** * ****"),
            ("[[\"=\"]]", "[[\"=\"]]"),
            ("k = \"no end, {", "k = **********"),
        ] {
            assert_eq!(hide_values(line), shown);
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Source::read(Path::new("/no/such/kafkalog.toml")).expect_err("it is not there").to_string();
        assert!(error.contains("/no/such/kafkalog.toml"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_span_panics(text: String, start: usize, length: u16) {
            let start = start % (text.len() + 3);
            let _ = Source::from_text("k.toml", text).error(start..start + usize::from(length), "x").to_string();
        }
    }
}
