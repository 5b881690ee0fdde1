//! Values with units: `"120s"`, `"8GiB"`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A length of time, written with its unit: `"500ms"`, `"120s"`, `"24h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || {
            de::Error::custom(format!(
                "`{text}` is no length of time: write it with its unit, as in \"500ms\", \"120s\", \"24h\""
            ))
        };
        let signed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
        signed.try_into().map(Self).map_err(|_| wrong())
    }
}

/// A number of bytes, written with its unit: `"64KiB"`, `"8GiB"`, `"1GB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if text.ends_with(['b', 'B']) => Ok(Self(size.as_u64())),
            _ => Err(de::Error::custom(format!(
                "`{text}` is no size: write it with its unit, as in \"64KiB\", \"8GiB\", \"1GB\""
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sample {
        every: Period,
        size: ByteSize,
    }

    #[test]
    fn units_are_read() {
        let sample: Sample = toml::from_str("every = \"120s\"\nsize = \"8GiB\"").expect("both are right");
        assert_eq!(sample.every, Period(Duration::from_secs(120)));
        assert_eq!(sample.size, ByteSize(8 << 30));
        for (text, seconds) in [("24h", 86_400), ("1h30m", 5_400), ("0s", 0)] {
            let sample: Sample = toml::from_str(&format!("every = \"{text}\"\nsize = \"1B\"")).expect(text);
            assert_eq!(sample.every.0.as_secs(), seconds);
        }
    }

    #[test]
    fn numbers_without_a_unit_are_refused() {
        for text in [
            "every = \"120\"\nsize = \"1B\"",
            "every = \"1s\"\nsize = \"1024\"",
            "every = \"-1s\"\nsize = \"1B\"",
            "every = \"\"\nsize = \"1B\"",
        ] {
            let error = toml::from_str::<Sample>(text).expect_err(text).to_string();
            assert!(error.contains("with its unit"), "{error}");
        }
    }
}
