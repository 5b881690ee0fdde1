//! `kafkalog-sink.toml`: what the sink is told.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kafkalog::config::{ByteSize, ConfigError, Period, Source, Spanned};
use serde::{Deserialize, Deserializer, de};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where lines come from.
    pub kafka: Kafka,
    /// Where files go.
    pub store: StoreConfig,
    /// Which topics make which table.
    #[serde(rename = "table")]
    pub tables: Spanned<Vec<Table>>,
}

/// `[kafka]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Brokers to ask for the cluster, `host:port`.
    pub bootstrap: Spanned<Vec<String>>,
    /// The consumer group that the sinks share the partitions in.
    #[serde(default = "default_group")]
    pub group: Spanned<String>,
    /// Passed to librdkafka as they are, but for [those](RESERVED_PROPERTIES) that the sink's guarantees rest on.
    #[serde(default)]
    pub properties: BTreeMap<Spanned<String>, String>,
}

/// Properties of librdkafka that the sink sets itself, and why nobody else may.
pub const RESERVED_PROPERTIES: [(&str, &str); 9] = [
    ("bootstrap.servers", "it is kafka.bootstrap"),
    ("metadata.broker.list", "it is kafka.bootstrap"),
    ("group.id", "it is kafka.group"),
    ("group.protocol", "partitions are handed over all at once"),
    ("partition.assignment.strategy", "partitions are handed over all at once"),
    ("enable.auto.commit", "an offset is committed only after its file is in place"),
    ("enable.auto.offset.store", "an offset is committed only after its file is in place"),
    ("auto.offset.reset", "a new group begins with the oldest message"),
    ("isolation.level", "messages of aborted transactions are not data"),
];

/// `[store]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// Where.
    pub url: StoreUrl,
    /// Mode bits of files; directories get an `x` beside each `r`.
    #[serde(default)]
    pub permissions: Permissions,
}

/// A place for files, written `file:///absolute/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A directory of this machine.
    Directory(PathBuf),
}

impl<'de> Deserialize<'de> for StoreUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => Ok(Self::Directory(PathBuf::from(path))),
            _ => Err(de::Error::custom(format!(
                "`{text}` is no place that files can go to: expected file:///absolute/path"
            ))),
        }
    }
}

/// Mode bits of a file, written in octal: `"0640"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions(u32);

impl Permissions {
    /// Bits for files.
    #[must_use]
    pub fn file(self) -> u32 {
        self.0
    }

    /// Bits for directories: whoever may read a file may enter the directory.
    #[must_use]
    pub fn directory(self) -> u32 {
        self.0 | (self.0 & 0o444) >> 2
    }
}

impl Default for Permissions {
    fn default() -> Self {
        Self(0o640)
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        match u32::from_str_radix(&text, 8) {
            // Without them the sink could not write its own files, nor look into its own directories.
            Ok(bits) if octal && bits & 0o600 == 0o600 && bits <= 0o777 => Ok(Self(bits)),
            _ => Err(de::Error::custom(format!(
                "`{text}` is no mode for the files: write it in octal and let the owner read and write, as in \"0640\""
            ))),
        }
    }
}

/// `[[table]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The name, which is the directory's.
    pub name: Spanned<String>,
    /// The Kafka topics whose messages are its records.
    pub topics: Spanned<Vec<Spanned<String>>>,
    /// What the records are; the bytes pass through unchanged, so that this only names the files.
    #[serde(default)]
    pub format: Format,
    /// How files are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// When files are closed.
    #[serde(default)]
    pub rotate: Rotate,
}

/// What the records are, one a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// JSON objects.
    #[default]
    Json,
    /// Lines of text.
    Text,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Text => "text",
        })
    }
}

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, which every engine on the Hadoop side reads.
    #[default]
    Gzip,
}

/// When files are closed: whichever comes first.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rotate {
    /// Once a file has this many bytes in the store, that is after compression.
    pub bytes: Spanned<ByteSize>,
    /// This long after the first message, whether or not more have come.
    pub every: Spanned<Period>,
}

impl Default for Rotate {
    fn default() -> Self {
        Self {
            bytes: Spanned::new(0..0, ByteSize(256 << 20)),
            every: Spanned::new(0..0, Period(Duration::from_secs(300))),
        }
    }
}

fn default_group() -> Spanned<String> {
    Spanned::new(0..0, "kafkalog-sink".to_owned())
}

impl Config {
    /// Reads the file and checks what can be checked without Kafka and the store.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] at the first thing that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&Source::read(path)?)
    }

    /// Parses and checks a text that has been read.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] at the first thing that is wrong.
    pub fn parse(source: &Source) -> Result<Self, ConfigError> {
        let config: Self = source.parse()?;
        config.check(source)?;
        Ok(config)
    }

    /// The table that a topic's messages go to.
    #[must_use]
    pub fn table_of(&self, topic: &str) -> Option<&Table> {
        self.tables.get_ref().iter().find(|table| table.topics().any(|other| other == topic))
    }

    /// All topics, in the file's order.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.tables.get_ref().iter().flat_map(Table::topics)
    }

    fn check(&self, source: &Source) -> Result<(), ConfigError> {
        let bootstrap = &self.kafka.bootstrap;
        if bootstrap.get_ref().is_empty() {
            return Err(source.error(bootstrap.span(), "kafka.bootstrap is empty, expected [\"host:port\", …]"));
        }
        if self.kafka.group.get_ref().is_empty() {
            return Err(source.error(self.kafka.group.span(), "kafka.group is empty"));
        }
        for key in self.kafka.properties.keys() {
            if let Some((name, reason)) = RESERVED_PROPERTIES.iter().find(|(name, _)| name == key.get_ref()) {
                return Err(source.error(key.span(), format!("`{name}` cannot be set here: {reason}")));
            }
        }
        self.check_tables(source)
    }

    fn check_tables(&self, source: &Source) -> Result<(), ConfigError> {
        let tables = self.tables.get_ref();
        if tables.is_empty() {
            return Err(source.error(self.tables.span(), "there is no table: at least one [[table]] is needed"));
        }
        let mut topics = BTreeMap::new();
        for (index, table) in tables.iter().enumerate() {
            let name = table.name.get_ref();
            // Readers skip what begins with `_` or `.`, and `..` would leave the store.
            if !is_name(name, 64) || name.starts_with(['_', '.']) {
                return Err(source.error(
                    table.name.span(),
                    "a table's name has 1 to 64 letters, digits, `_`, `-` and `.`, and begins with a letter or digit",
                ));
            }
            if tables[..index].iter().any(|other| other.name.get_ref() == name) {
                return Err(source.error(table.name.span(), format!("there are two tables named `{name}`")));
            }
            if table.topics.get_ref().is_empty() {
                return Err(source.error(table.topics.span(), "a table needs at least one topic"));
            }
            for topic in table.topics.get_ref() {
                // Kafka's own rule (org.apache.kafka.common.internals.Topic) allows `_` and `.` at the start as well,
                // but then the files would not be data.
                if !is_name(topic.get_ref(), 249) || topic.get_ref().starts_with(['_', '.']) {
                    return Err(source.error(
                        topic.span(),
                        "a topic's name has 1 to 249 letters, digits, `_`, `-` and `.`, and begins with a letter, a digit or `-`",
                    ));
                }
                if let Some(other) = topics.insert(topic.get_ref(), name) {
                    return Err(source.error(
                        topic.span(),
                        format!("the topic is in table `{other}` already, and one is the limit"),
                    ));
                }
            }
            if table.rotate.bytes.get_ref().0 == 0 {
                return Err(source.error(table.rotate.bytes.span(), "rotate.bytes must be more than nothing"));
            }
            let every = table.rotate.every.get_ref().0;
            if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&every) {
                return Err(source.error(table.rotate.every.span(), "rotate.every must be \"1s\" to \"24h\""));
            }
        }
        Ok(())
    }
}

impl Table {
    /// The topics' names.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.get_ref().iter().map(|topic| topic.get_ref().as_str())
    }

    /// What the names of its data files end with: `json.gz`.
    #[must_use]
    pub fn extension(&self) -> String {
        match self.compression {
            Compression::None => self.format.to_string(),
            Compression::Gzip => format!("{}.gz", self.format),
        }
    }
}

fn is_name(name: &str, longest: usize) -> bool {
    !name.is_empty()
        && name.len() <= longest
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"
[kafka]
bootstrap = ["b:9092"]
[store]
url = "file:///srv/raw"
[[table]]
name = "webrequest"
topics = ["webrequest_text"]
"#;

    #[test]
    fn the_smallest_configuration_gets_the_defaults() {
        let config = Config::parse(&Source::from_text("s.toml", SMALLEST)).expect("it is complete");
        assert_eq!(config.kafka.group.get_ref(), "kafkalog-sink");
        assert_eq!(config.store.url, StoreUrl::Directory(PathBuf::from("/srv/raw")));
        assert_eq!((config.store.permissions.file(), config.store.permissions.directory()), (0o640, 0o750));
        let table = config.table_of("webrequest_text").expect("its only table");
        assert_eq!(table.extension(), "json.gz");
        assert_eq!(table.rotate.every.get_ref().0, Duration::from_secs(300));
        assert!(config.table_of("other").is_none());
    }

    #[test]
    fn directories_can_be_entered_by_whoever_reads_the_files() {
        for (file, directory) in [(0o640, 0o750), (0o644, 0o755), (0o600, 0o700), (0o660, 0o770)] {
            assert_eq!(Permissions(file).directory(), directory);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, place, what) in [
            (format!("{SMALLEST}grace = \"10m\"\n"), "s.toml:9:1", "unknown field `grace`"),
            (format!("{SMALLEST}rotate = {{ every = \"0s\" }}\n"), "s.toml:9:20", "\"1s\" to \"24h\""),
            (format!("{SMALLEST}rotate = {{ bytes = \"0B\" }}\n"), "s.toml:9:20", "more than nothing"),
            (format!("{SMALLEST}compression = \"zstd\"\n"), "s.toml:9:15", "unknown variant `zstd`"),
            (format!("{SMALLEST}[[table]]\nname = \"webrequest\"\ntopics = [\"x\"]\n"), "s.toml:10:8", "two tables"),
            (
                format!("{SMALLEST}[[table]]\nname = \"x\"\ntopics = [\"webrequest_text\"]\n"),
                "s.toml:11:11",
                "in table `webrequest` already",
            ),
            (SMALLEST.replace("[\"webrequest_text\"]", "[]"), "s.toml:8:10", "at least one topic"),
            (SMALLEST.replace("[\"webrequest_text\"]", "[\"a+b\"]"), "s.toml:8:11", "topic's name"),
            (SMALLEST.replace("\"webrequest\"", "\"_x\""), "s.toml:7:8", "table's name"),
            (SMALLEST.replace("[\"b:9092\"]", "[]"), "s.toml:3:13", "kafka.bootstrap is empty"),
            (SMALLEST.replace("file:///srv/raw", "s3://bucket"), "s.toml:5:7", "file:///absolute/path"),
            (SMALLEST.replace("/raw\"", "/raw\"\npermissions = \"640 \""), "s.toml:6:15", "in octal"),
            (SMALLEST.replace("/raw\"", "/raw\"\npermissions = \"0440\""), "s.toml:6:15", "owner"),
            (
                SMALLEST.replace("[store]", "properties = { \"enable.auto.commit\" = \"true\" }\n[store]"),
                "s.toml:4:16",
                "only after its file is in place",
            ),
            (SMALLEST.replace("[store]", "coordination = \"kafka\"\n[store]"), "s.toml:4:1", "unknown field"),
        ] {
            let error = Config::parse(&Source::from_text("s.toml", text.clone())).expect_err(&text).to_string();
            assert!(error.starts_with(place) && error.contains(what) && error.contains('^'), "{error}");
        }
    }
}
