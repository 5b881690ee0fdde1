//! `kafkalog.toml`: what the edge is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{ByteSize, ConfigError, Period, Property, Source};
use crate::transaction::Grouping;
use crate::zookeeper::Ensemble;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name that lines carry; the machine's name where it is not given.
    #[serde(default = "machine_name")]
    pub host: String,
    /// Where the log is and how much of it may be unfinished.
    #[serde(default)]
    pub varnish: Varnish,
    /// Where lines go whose output is Kafka.
    pub kafka: Option<Kafka>,
    /// What becomes of addresses.
    #[serde(default)]
    pub anonymize: Anonymize,
    /// Where lines wait for Kafka.
    #[serde(default)]
    pub journal: Journal,
    /// What is made of each request; those that go to Kafka come first, whatever their order in the file.
    #[serde(rename = "stream")]
    pub streams: Spanned<Vec<StreamConfig>>,
}

/// `[varnish]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Varnish {
    /// varnishd's working directory or instance name (`-n`); ignored inside varnishd.
    pub name: Option<PathBuf>,
    /// Transactions that may be unfinished at a time; beyond, the oldest is rendered as it is.
    pub incomplete_limit: Spanned<usize>,
    /// How long a transaction may stay unfinished; then it is rendered as it is.
    pub incomplete_timeout: Period,
}

impl Default for Varnish {
    fn default() -> Self {
        Self {
            name: None,
            incomplete_limit: Spanned::new(0..0, 10_000),
            incomplete_timeout: Period(Duration::from_secs(120)),
        }
    }
}

/// `[kafka]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Brokers to ask for the cluster, `host:port`; or what stands before them, such as a virtual address. Beside `zookeeper`, what
    /// is tried first.
    #[serde(default = "no_brokers")]
    pub bootstrap: Spanned<Vec<String>>,
    /// The ZooKeeper that tells of the brokers.
    pub zookeeper: Option<Spanned<Ensemble>>,
    /// The listener, or else the protocol, whose endpoints are taken from there; by default, that of `security.protocol`.
    pub listener: Option<Spanned<String>>,
    /// Passed to librdkafka.
    #[serde(default)]
    pub properties: BTreeMap<Spanned<String>, Property>,
}

/// `[anonymize]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Anonymize {
    /// What an address becomes.
    pub ip: Spanned<IpFunction>,
    /// That addresses may be shown as they are.
    pub allow_raw_ip: bool,
    /// Where the salt comes from; by default, from ZooKeeper if there is one.
    pub salt: Option<Spanned<SaltSource>>,
    /// The ZooKeeper that the cluster's nodes agree in, with the path that everything is below.
    pub zookeeper: Option<Spanned<Ensemble>>,
    /// The file that holds the secret of the cluster's nodes; without a `/`, the name of a systemd credential.
    pub cluster_key: Option<Spanned<PathBuf>>,
    /// `user:password` for ZooKeeper; what is written there is then its writers' alone.
    pub zookeeper_digest: Option<Property>,
    /// What becomes of addresses while there is no shared salt.
    pub on_missing: OnMissing,
    /// How long a salt lasts; epochs begin at multiples of it since 1970, so it must divide a day.
    pub rotate: Spanned<Period>,
    /// Bits of an IPv6 address that are hashed.
    pub ip6_prefix: Spanned<u8>,
    /// Request headers that hold addresses.
    pub headers: Vec<String>,
    /// Where addresses are looked for in other text: `url`, `VCL_Log`, `VCL_Log:KEY`, or a header's name.
    pub search: Vec<String>,
}

impl Default for Anonymize {
    fn default() -> Self {
        Self {
            ip: Spanned::new(0..0, IpFunction::Hash),
            allow_raw_ip: false,
            salt: None,
            zookeeper: None,
            cluster_key: None,
            zookeeper_digest: None,
            on_missing: OnMissing::Local,
            rotate: Spanned::new(0..0, Period(Duration::from_secs(DAY))),
            ip6_prefix: Spanned::new(0..0, 64),
            headers: ["X-Forwarded-For", "X-Real-IP", "X-Client-IP", "Forwarded"].map(str::to_owned).to_vec(),
            search: Vec::new(),
        }
    }
}

/// What an address becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IpFunction {
    /// SipHash-2-4 with 128 bits under the salt.
    Hash,
    /// The first 128 bits of HMAC-SHA-256 under the salt.
    HmacSha256,
    /// Its first 24 bits, of an IPv6 address 48.
    Truncate,
    /// Nothing.
    Drop,
    /// Itself. Only with `allow_raw_ip = true`.
    Raw,
}

impl IpFunction {
    /// Whether it takes a salt.
    #[must_use]
    pub fn is_salted(self) -> bool {
        matches!(self, Self::Hash | Self::HmacSha256)
    }
}

/// Where the salt comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaltSource {
    /// The cluster's nodes agree on one in ZooKeeper.
    Zookeeper,
    /// The operating system's random source, for this node alone.
    Local,
}

/// What becomes of addresses while there is no shared salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnMissing {
    /// They are hashed under a random salt of this node.
    Local,
    /// They are left out.
    Drop,
}

impl Anonymize {
    /// Where the salt comes from.
    #[must_use]
    pub fn salt_source(&self) -> SaltSource {
        match (&self.salt, &self.zookeeper) {
            (Some(source), _) => *source.get_ref(),
            (None, Some(_)) => SaltSource::Zookeeper,
            (None, None) => SaltSource::Local,
        }
    }

    fn check(&self, source: &Source) -> Result<(), ConfigError> {
        let rotate = self.rotate.get_ref().0;
        if rotate < Duration::from_secs(60) || rotate.subsec_nanos() != 0 || !DAY.is_multiple_of(rotate.as_secs()) {
            return Err(source.error(
                self.rotate.span(),
                "anonymize.rotate must divide a day and last a minute at least: \"24h\", \"12h\", \"1h\", …",
            ));
        }
        let prefix = *self.ip6_prefix.get_ref();
        if !(16..=128).contains(&prefix) {
            return Err(
                source.error(self.ip6_prefix.span(), format!("anonymize.ip6_prefix is {prefix}, expected 16 to 128"))
            );
        }
        if *self.ip.get_ref() == IpFunction::Raw && !self.allow_raw_ip {
            return Err(source.error(
                self.ip.span(),
                "this would show the addresses of people: if it must be, add allow_raw_ip = true; expected \"hash\"",
            ));
        }
        match (self.salt_source(), &self.salt, &self.zookeeper, &self.cluster_key) {
            (SaltSource::Local, _, None, None) | (SaltSource::Zookeeper, _, Some(_), Some(_)) => Ok(()),
            (SaltSource::Zookeeper, _, Some(zookeeper), None) => Err(source.error(
                zookeeper.span(),
                "who may read ZooKeeper must not learn the salt: add cluster_key = \"/PATH\", a file of 32 random bytes that all nodes have",
            )),
            (SaltSource::Zookeeper, Some(salt), None, _) => Err(source.error(
                salt.span(),
                "which ZooKeeper? Add zookeeper = \"host:port,host:port/path\"",
            )),
            (_, Some(salt), ..) => Err(source.error(
                salt.span(),
                "a local salt needs no zookeeper and no cluster_key: leave them out, or expected \"zookeeper\"",
            )),
            (.., Some(cluster_key)) => Err(source.error(
                cluster_key.span(),
                "the key is for a salt in ZooKeeper: add zookeeper = \"host:port,host:port/path\"",
            )),
            (.., None, None) => Ok(()),
            (_, None, Some(_), None) => Ok(()),
        }
    }
}

/// `[journal]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// What unacknowledged lines survive.
    pub mode: JournalMode,
    /// The most that unacknowledged lines may take; beyond, new ones are dropped and counted.
    pub max_bytes: Spanned<ByteSize>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { mode: JournalMode::Memory, max_bytes: Spanned::new(0..0, ByteSize(256 << 20)) }
    }
}

/// What unacknowledged lines survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalMode {
    /// Nothing: they are held in memory.
    Memory,
}

/// `[[stream]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The name in metrics and in the header `kl-stream`.
    pub name: Spanned<String>,
    /// The Kafka topic, if that is where lines go.
    pub topic: Option<Spanned<String>>,
    /// Where lines go.
    #[serde(default = "default_output")]
    pub output: Spanned<OutputConfig>,
    /// Only every so many lines.
    #[serde(default = "default_sample")]
    pub sample: Spanned<u64>,
    /// Which transactions.
    #[serde(default)]
    pub side: StreamSide,
    /// A preset format.
    pub format: Option<Spanned<String>>,
    /// JSON, field by field in varnishkafka's notation.
    pub json: Option<Spanned<String>>,
    /// A text line in varnishncsa's notation.
    pub line: Option<Spanned<String>>,
    /// Only what this query holds for: vsl-query(7).
    pub query: Option<Spanned<String>>,
    /// What the query looks at together.
    #[serde(default = "default_group")]
    pub group: Spanned<Grouping>,
    /// Sub-requests for ESI, too.
    #[serde(default)]
    pub esi: bool,
}

fn no_brokers() -> Spanned<Vec<String>> {
    Spanned::new(0..0, Vec::new())
}

fn default_output() -> Spanned<OutputConfig> {
    Spanned::new(0..0, OutputConfig::Kafka)
}

fn default_sample() -> Spanned<u64> {
    Spanned::new(0..0, 1)
}

/// Where a stream's lines go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum OutputConfig {
    /// `kafka`
    Kafka,
    /// `stdout`
    Stdout,
    /// `file:PATH`: lines are appended, and the file is opened again when it has been moved away.
    File(PathBuf),
    /// `udp://HOST:PORT`: a datagram a line.
    Udp(String),
}

impl TryFrom<String> for OutputConfig {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let has_port = |address: &str| {
            address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        match text.as_str() {
            "kafka" => Ok(Self::Kafka),
            "stdout" => Ok(Self::Stdout),
            other => match (other.strip_prefix("file:"), other.strip_prefix("udp://")) {
                (Some(path), _) if path.starts_with('/') => Ok(Self::File(path.into())),
                (_, Some(address)) if has_port(address) => Ok(Self::Udp(address.to_owned())),
                _ => Err(format!(
                    "`{other}` is no output, expected \"kafka\", \"stdout\", \"file:/PATH\" or \"udp://HOST:PORT\""
                )),
            },
        }
    }
}

fn default_group() -> Spanned<Grouping> {
    Spanned::new(0..0, Grouping::default())
}

/// Which transactions a stream takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamSide {
    /// Requests of clients.
    #[default]
    Client,
    /// Requests to backends.
    Backend,
}

impl Config {
    /// Reads the file and checks what can be checked without the formats.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] at the first thing that is wrong.
    pub fn load(path: &Path) -> Result<(Source, Self), ConfigError> {
        let source = Source::read(path)?;
        let config = Self::parse(&source)?;
        Ok((source, config))
    }

    /// Parses and checks a text that has been read.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] at the first thing that is wrong.
    pub fn parse(source: &Source) -> Result<Self, ConfigError> {
        let mut config: Self = source.parse()?;
        config.check(source)?;
        config.streams.get_mut().sort_by_key(|stream| !stream.is_for_kafka());
        Ok(config)
    }

    fn check(&self, source: &Source) -> Result<(), ConfigError> {
        self.anonymize.check(source)?;
        if !(1..=1_000_000).contains(self.varnish.incomplete_limit.get_ref()) {
            return Err(
                source.error(self.varnish.incomplete_limit.span(), "varnish.incomplete_limit must be 1 to 1000000")
            );
        }
        if self.journal.max_bytes.get_ref().0 < 4 << 20 {
            return Err(source.error(self.journal.max_bytes.span(), "journal.max_bytes must be \"4MiB\" at least"));
        }
        if let Some(kafka) = &self.kafka {
            kafka.check(source)?;
        }
        self.check_streams(source)
    }

    fn check_streams(&self, source: &Source) -> Result<(), ConfigError> {
        let streams = self.streams.get_ref();
        if streams.is_empty() {
            return Err(source.error(self.streams.span(), "there is no stream: at least one [[stream]] is needed"));
        }
        for (index, stream) in streams.iter().enumerate() {
            let name = stream.name.get_ref();
            if name.is_empty() || name.len() > 64 || !name.bytes().all(is_name_byte) {
                return Err(
                    source.error(stream.name.span(), "a stream's name has 1 to 64 letters, digits, `_`, `-` and `.`")
                );
            }
            if streams[..index].iter().any(|other| other.name.get_ref() == name) {
                return Err(source.error(stream.name.span(), format!("there are two streams named `{name}`")));
            }
            if *stream.sample.get_ref() == 0 {
                return Err(
                    source.error(stream.sample.span(), "sample is 0, expected 1 for every line, 2 for every other, …")
                );
            }
            self.check_topic(stream, source)?;
        }
        Ok(())
    }

    fn check_topic(&self, stream: &StreamConfig, source: &Source) -> Result<(), ConfigError> {
        let name = stream.name.get_ref();
        match (&stream.topic, stream.is_for_kafka()) {
            (None, false) => Ok(()),
            (None, true) => Err(source.error(
                stream.name.span(),
                format!("the stream `{name}` has no topic: add topic = \"…\", or an output other than \"kafka\""),
            )),
            (Some(topic), false) => {
                Err(source.error(topic.span(), "a topic is for Kafka, but the stream's output is another"))
            }
            (Some(topic), true) if !is_topic(topic.get_ref()) => {
                Err(source.error(topic.span(), "a topic's name has 1 to 249 letters, digits, `_`, `-` and `.`"))
            }
            (Some(_), true) if self.kafka.is_none() => Err(source.error(
                stream.name.span(),
                format!(
                    "the stream `{name}` goes to Kafka, but there is no [kafka] with bootstrap = [\"host:port\", …]"
                ),
            )),
            (Some(_), true) => Ok(()),
        }
    }
}

impl Kafka {
    /// The value of a property, if the configuration gives one.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value.as_str())
    }

    /// A list of brokers, without a ZooKeeper.
    #[must_use]
    pub fn listed(bootstrap: Vec<String>, properties: BTreeMap<Spanned<String>, Property>) -> Self {
        Self { bootstrap: Spanned::new(0..0, bootstrap), zookeeper: None, listener: None, properties }
    }

    fn check(&self, source: &Source) -> Result<(), ConfigError> {
        if self.bootstrap.get_ref().is_empty() && self.zookeeper.is_none() {
            let message = "[kafka] tells of no broker, expected bootstrap = [\"host:port\", …] or zookeeper = \"host:port,…/chroot\"";
            return Err(source.error(self.bootstrap.span(), message));
        }
        match &self.listener {
            Some(listener) if self.zookeeper.is_none() => Err(source.error(
                listener.span(),
                "a listener is picked from what ZooKeeper tells, but there is no kafka.zookeeper",
            )),
            Some(listener) if listener.get_ref().is_empty() => {
                Err(source.error(listener.span(), "kafka.listener is empty, expected a name such as \"SSL\""))
            }
            _ => Ok(()),
        }
    }
}

impl StreamConfig {
    /// Whether its lines go to Kafka.
    #[must_use]
    pub fn is_for_kafka(&self) -> bool {
        *self.output.get_ref() == OutputConfig::Kafka
    }
}

/// Kafka's own rule: org.apache.kafka.common.internals.Topic.
fn is_topic(name: &str) -> bool {
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// The machine's name as the kernel has it.
fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "[kafka]\nbootstrap = [\"b:9092\"]\n[[stream]]\nname = \"w\"\ntopic = \"webrequest\"\nformat = \"webrequest\"\n";

    fn error(text: &str) -> String {
        let source = Source::from_text("k.toml", text);
        Config::parse(&source).expect_err(text).to_string()
    }

    #[test]
    fn the_smallest_configuration_gets_the_defaults() {
        let source = Source::from_text("k.toml", SMALLEST);
        let config = Config::parse(&source).expect("it is complete");
        assert!(!config.host.is_empty());
        assert_eq!(config.anonymize.headers.len(), 4);
        assert_eq!(config.streams.get_ref()[0].side, StreamSide::Client);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, place, what) in [
            (format!("{SMALLEST}sampel = 3\n"), "k.toml:7:1", "unknown field `sampel`"),
            (format!("{SMALLEST}sample = 0\n"), "k.toml:7:10", "sample is 0"),
            (format!("{SMALLEST}output = \"file:x\"\n"), "k.toml:7:10", "`file:x` is no output"),
            (format!("{SMALLEST}output = \"udp://h\"\n"), "k.toml:7:10", "`udp://h` is no output"),
            (format!("{SMALLEST}output = \"stdout\"\n"), "k.toml:5:9", "a topic is for Kafka"),
            (SMALLEST.replace("topic = \"webrequest\"\n", ""), "k.toml:4:8", "has no topic"),
            (SMALLEST.replace("[kafka]\nbootstrap = [\"b:9092\"]\n", ""), "k.toml:2:8", "there is no [kafka]"),
            (format!("{SMALLEST}[anonymize]\nrotate = \"7h\"\n"), "k.toml:8:10", "must divide a day"),
            (format!("{SMALLEST}[anonymize]\nip = \"raw\"\n"), "k.toml:8:6", "add allow_raw_ip"),
            (format!("{SMALLEST}[anonymize]\nip = \"md5\"\n"), "k.toml:8:6", "unknown variant `md5`"),
            (format!("{SMALLEST}[anonymize]\nsalt = \"zookeeper\"\n"), "k.toml:8:8", "which ZooKeeper?"),
            (format!("{SMALLEST}[anonymize]\nzookeeper = \"zk/k\"\n"), "k.toml:8:13", "add cluster_key"),
            (format!("{SMALLEST}[anonymize]\ncluster_key = \"/k\"\n"), "k.toml:8:15", "add zookeeper"),
            (
                format!("{SMALLEST}[anonymize]\nsalt = \"local\"\nzookeeper = \"zk/k\"\n"),
                "k.toml:8:8",
                "a local salt needs no zookeeper",
            ),
            (format!("{SMALLEST}[anonymize]\nip6_prefix = 8\n"), "k.toml:8:14", "expected 16 to 128"),
            (format!("{SMALLEST}[[stream]]\nname = \"w\"\ntopic = \"t\"\n"), "k.toml:8:8", "two streams named `w`"),
            (SMALLEST.replace("\"webrequest\"\nf", "\"web request\"\nf"), "k.toml:5:9", "topic's name"),
            (SMALLEST.replace("[\"b:9092\"]", "[]"), "k.toml:2:13", "[kafka] tells of no broker"),
            (
                SMALLEST.replace("bootstrap = [\"b:9092\"]", "zookeeper = \"zk:x\""),
                "k.toml:2:13",
                "`zk:x` is no ZooKeeper server",
            ),
            (SMALLEST.replace("[[", "listener = \"SSL\"\n[["), "k.toml:3:12", "there is no kafka.zookeeper"),
            ("x".to_owned(), "k.toml:1:2", ""),
            (String::new(), "k.toml:1:1", "missing field `stream`"),
        ] {
            let error = error(&text);
            assert!(error.starts_with(place) && error.contains(what) && error.contains('^'), "{error}");
        }
    }
}
