//! What brokers tell of themselves in ZooKeeper: the nodes below `/brokers/ids`.
//!
//! The versions of Kafka's registrations: 1 has `host` and `port`; 2 (0.9) adds `endpoints`, 3 (0.10) the rack, 4 (0.10.2) the
//! listeners' protocols, while `host` is null and `port` -1 where there is no listener in the clear; 5 (2.7) the features.
//! Source: `kafka.zk.BrokerIdZNode`, KIP-103.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use thiserror::Error;

/// A broker as ZooKeeper knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// The node's name.
    pub id: i32,
    /// Where it listens, in the order in which it says so.
    pub endpoints: Vec<Endpoint>,
    /// Where it stands, if it says so.
    pub rack: Option<String>,
}

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name: often that of its protocol.
    pub listener: String,
    /// `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    pub protocol: String,
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// A registration that tells of no broker.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegistrationError {
    /// The node's name is no id.
    #[error("`{0}` is no broker's id")]
    Id(String),
    /// The node's data is not what a broker writes.
    #[error("the registration of broker {id} is not understood: {reason}")]
    Data {
        /// The broker.
        id: i32,
        /// What is wrong.
        reason: String,
    },
}

/// Which of a broker's endpoints is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The listener of this name or, if no listener has it, the first one with this protocol.
    Named(String),
    /// The first one with this protocol.
    Protocol(String),
}

#[derive(Deserialize)]
struct Fields {
    host: Option<String>,
    port: Option<i64>,
    endpoints: Option<Vec<String>>,
    listener_security_protocol_map: Option<BTreeMap<String, String>>,
    rack: Option<String>,
}

impl Broker {
    /// Reads the node `name` of `/brokers/ids`.
    ///
    /// # Errors
    ///
    /// [`RegistrationError`], which names the broker.
    pub fn parse(name: &str, data: &[u8]) -> Result<Self, RegistrationError> {
        let id = name.parse().ok().filter(|id| *id >= 0);
        let id: i32 = id.ok_or_else(|| RegistrationError::Id(name.chars().take(40).collect()))?;
        let wrong = |reason: String| RegistrationError::Data { id, reason };
        let fields: Fields = serde_json::from_slice(data).map_err(|error| wrong(error.to_string()))?;
        let host = fields.host.as_deref().filter(|host| !host.is_empty());
        let protocols = fields.listener_security_protocol_map.unwrap_or_default();
        let mut endpoints = Vec::new();
        for text in fields.endpoints.iter().flatten() {
            let endpoint = Endpoint::parse(text, host, &protocols)
                .ok_or_else(|| wrong(format!("`{text}` is no endpoint, expected LISTENER://HOST:PORT")))?;
            endpoints.push(endpoint);
        }
        if fields.endpoints.is_none() {
            let port = fields.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
            let (Some(host), Some(port)) = (host, port) else {
                return Err(wrong("it has neither endpoints nor a host and a port".to_owned()));
            };
            let plain = || "PLAINTEXT".to_owned();
            endpoints.push(Endpoint { listener: plain(), protocol: plain(), host: host.to_owned(), port });
        }
        Ok(Self { id, endpoints, rack: fields.rack })
    }

    /// The endpoint that is wanted, if the broker has it.
    #[must_use]
    pub fn endpoint(&self, choice: &Choice) -> Option<&Endpoint> {
        let (Choice::Named(name) | Choice::Protocol(name)) = choice;
        let by_name = match choice {
            Choice::Named(_) => self.endpoints.iter().find(|endpoint| endpoint.listener.eq_ignore_ascii_case(name)),
            Choice::Protocol(_) => None,
        };
        by_name.or_else(|| self.endpoints.iter().find(|endpoint| endpoint.protocol.eq_ignore_ascii_case(name)))
    }
}

impl Endpoint {
    /// Reads `LISTENER://HOST:PORT`. An empty host is the broker's own; a listener without a protocol in the map has it in its
    /// name.
    fn parse(text: &str, host: Option<&str>, protocols: &BTreeMap<String, String>) -> Option<Self> {
        let (listener, address) = text.split_once("://")?;
        let (own, port) = address.rsplit_once(':')?;
        let own = own.strip_prefix('[').and_then(|own| own.strip_suffix(']')).unwrap_or(own);
        let host = if own.is_empty() || own == "null" { host? } else { own };
        let is_host = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'/' | b'[' | b']');
        let port = port.parse().ok().filter(|port| *port > 0)?;
        if listener.is_empty() || !host.bytes().all(is_host) {
            return None;
        }
        let protocol = protocols.get(listener).map_or(listener, String::as_str);
        Some(Self { listener: listener.to_owned(), protocol: protocol.to_owned(), host: host.to_owned(), port })
    }
}

/// As librdkafka wants it: `host:port`, an IPv6 address in brackets.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "listener {name}"),
            Self::Protocol(name) => write!(f, "protocol {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(data: &str, choice: &Choice) -> Option<String> {
        let broker = Broker::parse("7", data.as_bytes()).expect(data);
        broker.endpoint(choice).map(ToString::to_string)
    }

    #[test]
    fn every_version_is_read() {
        let plain = Choice::Protocol("plaintext".to_owned());
        let ssl = Choice::Protocol("SSL".to_owned());
        let inside = Choice::Named("INSIDE".to_owned());
        let v1 = r#"{"jmx_port":-1,"timestamp":"1416974968782","host":"kafka1","version":1,"port":9092}"#;
        assert_eq!(address(v1, &plain).as_deref(), Some("kafka1:9092"));
        assert_eq!(address(v1, &ssl), None);
        let v2 = r#"{"jmx_port":9999,"timestamp":"1","host":"kafka1","version":2,"port":9092,
                     "endpoints":["PLAINTEXT://kafka1:9092","SSL://kafka1:9093"]}"#;
        assert_eq!(address(v2, &ssl).as_deref(), Some("kafka1:9093"));
        let v3 =
            r#"{"version":3,"host":"kafka1","port":9092,"rack":"A3","endpoints":["PLAINTEXT://[2001:db8::7]:9092"]}"#;
        assert_eq!(address(v3, &plain).as_deref(), Some("[2001:db8::7]:9092"));
        let v5 = r#"{"features":{},"version":5,"host":null,"port":-1,"jmx_port":-1,"timestamp":"1","rack":null,
                     "endpoints":["OUTSIDE://kafka1.example:9094","INSIDE://10.0.0.7:9095","OTHER://kafka1:9096"],
                     "listener_security_protocol_map":{"OUTSIDE":"SASL_SSL","INSIDE":"SSL","OTHER":"SSL"}}"#;
        assert_eq!(address(v5, &plain), None);
        assert_eq!(address(v5, &ssl).as_deref(), Some("10.0.0.7:9095"));
        assert_eq!(address(v5, &inside).as_deref(), Some("10.0.0.7:9095"));
        assert_eq!(address(v5, &Choice::Named("sasl_ssl".to_owned())).as_deref(), Some("kafka1.example:9094"));
        let empty_host = r#"{"version":4,"host":"kafka1","port":9092,"endpoints":["PLAINTEXT://:9092"]}"#;
        assert_eq!(address(empty_host, &plain).as_deref(), Some("kafka1:9092"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, data, what) in [
            ("x", "{}", "`x` is no broker's id"),
            ("-1", "{}", "`-1` is no broker's id"),
            ("3", "", "broker 3 is not understood"),
            ("3", "{}", "neither endpoints nor a host"),
            ("3", r#"{"host":"h","port":70000}"#, "neither endpoints nor a host"),
            ("3", r#"{"host":null,"endpoints":["SSL://:9093"]}"#, "`SSL://:9093` is no endpoint"),
            ("3", r#"{"endpoints":["SSL://h,i:9093"]}"#, "is no endpoint"),
            ("3", r#"{"endpoints":["h:9093"]}"#, "is no endpoint"),
        ] {
            let error = Broker::parse(name, data.as_bytes()).expect_err(data).to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
