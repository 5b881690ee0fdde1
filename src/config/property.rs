//! The value of a librdkafka property, in the file or in one of its own.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

/// No secret or certificate is longer.
const LONGEST: u64 = 1 << 20;

/// A property's value: a string, a number, a truth value, or `{ file = "/PATH" }` for what that file holds, without the line end
/// behind it. Its `Debug` output does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Property(String);

impl Property {
    /// The value as librdkafka takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn from_file(path: &Path) -> io::Result<Self> {
        if !path.is_absolute() {
            return Err(io::Error::other("the path must be absolute"));
        }
        if fs::metadata(path)?.len() > LONGEST {
            return Err(io::Error::other("the file is too large, expected one of a mebibyte at most"));
        }
        // An error of the text would show where it is wrong, but not what it is.
        let text = fs::read_to_string(path)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Self(text.strip_suffix('\r').unwrap_or(text).to_owned()))
    }
}

impl From<&str> for Property {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PropertyVisitor)
    }
}

struct PropertyVisitor;

impl<'de> Visitor<'de> for PropertyVisitor {
    type Value = Property;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, true, false or { file = \"/PATH\" }")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Property, E> {
        Ok(Property(value.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Property, E> {
        Ok(Property(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Property, E> {
        Ok(Property(value.to_string()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Property, E> {
        Ok(Property(value.to_string()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Property, A::Error> {
        let mut path: Option<PathBuf> = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "file" {
                return Err(de::Error::unknown_field(&key, &["file"]));
            }
            path = Some(map.next_value()?);
        }
        let path = path.ok_or_else(|| de::Error::missing_field("file"))?;
        Property::from_file(&path).map_err(|error| de::Error::custom(format!("{}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn parse(text: &str) -> Result<BTreeMap<String, Property>, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn values_are_taken_as_they_are_written() {
        let properties = parse("a = \"x\"\nb = 5\nc = true\nd = 0.5\n").expect("they are right");
        let values: Vec<_> = properties.values().map(Property::as_str).collect();
        assert_eq!(values, ["x", "5", "true", "0.5"]);
        assert_eq!(format!("{properties:?}"), "{\"a\": ***, \"b\": ***, \"c\": ***, \"d\": ***}");
    }

    #[test]
    fn secrets_come_from_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        for text in ["hush hush", "hush hush\n", "hush hush\r\n"] {
            fs::write(&path, text).expect("a file");
            let properties = parse(&format!("a = {{ file = \"{}\" }}", path.display())).expect("it is there");
            assert_eq!(properties["a"].as_str(), "hush hush");
        }
        for (text, what) in [
            ("a = { file = \"password\" }", "password: the path must be absolute"),
            ("a = { file = \"/nonexistent/password\" }", "/nonexistent/password: No such file"),
            ("a = { fiel = \"/x\" }", "unknown field `fiel`, expected `file`"),
            ("a = { file = \"/x\", b = 1 }", "unknown field `b`"),
            ("a = {}", "missing field `file`"),
            ("a = [1]", "expected a string"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(what), "{error}");
        }
    }
}
