//! librdkafka's properties: our defaults, and what may not be changed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ProducerError;
use crate::config::Kafka;

/// Defaults that differ from librdkafka's, with the reason of each. A configuration may change them.
const DEFAULTS: &[(&str, &str)] = &[
    // Shows in the brokers' logs and quotas.
    ("client.id", "kafkalog"),
    // A tenth of a second's lines go out together; nobody waits for a log line, and every request to a broker costs CPU.
    ("linger.ms", "100"),
    ("batch.num.messages", "10000"),
    ("batch.size", "1000000"),
    // A broker that comes back is found within seconds.
    ("reconnect.backoff.max.ms", "5000"),
    ("socket.keepalive.enable", "true"),
];

/// What the promise rests on: every line that was numbered is delivered once and in order, however long that takes.
const FIXED: &[(&str, &str, &str)] = &[
    ("enable.idempotence", "true", "without it a retry can double or reorder lines"),
    ("acks", "all", "with less, a broker that fails takes acknowledged lines with it"),
    ("retries", "2147483647", "with less, a short outage of a broker loses lines"),
    ("message.timeout.ms", "0", "with a time-out, an outage of Kafka loses lines; journal.max_bytes bounds what waits"),
];

/// Other names of what is fixed, and what this program sets itself.
const OWNED: &[(&str, &str)] = &[
    ("request.required.acks", "acks is always all"),
    ("message.send.max.retries", "there are always as many as it takes"),
    ("delivery.timeout.ms", "lines never expire"),
    (BOOTSTRAP, "write kafka.bootstrap"),
    ("metadata.broker.list", "write kafka.bootstrap"),
    ("transactional.id", "this producer has no transactions"),
    ("delivery.report.only.error", "acknowledgements release the lines"),
];

/// Where librdkafka is told whom to ask for the cluster; see [`Brokers`](super::brokers::Brokers).
pub(super) const BOOTSTRAP: &str = "bootstrap.servers";

/// A listener that is named after its protocol tells which one is spoken there.
const PROTOCOLS: &[&str] = &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

/// All properties but [`BOOTSTRAP`]: defaults, then the configuration's, then what is fixed.
pub(super) fn complete(kafka: &Kafka) -> Result<BTreeMap<String, String>, ProducerError> {
    let own = |text: &str| text.to_owned();
    let mut properties: BTreeMap<_, _> = DEFAULTS.iter().map(|(name, value)| (own(name), own(value))).collect();
    if let Some(listener) = &kafka.listener {
        let protocol = listener.get_ref().to_ascii_lowercase();
        if PROTOCOLS.contains(&protocol.as_str()) {
            properties.insert(own("security.protocol"), protocol);
        }
    }
    for (name, value) in &kafka.properties {
        let name = name.get_ref();
        let refused = |reason: &str| Err(ProducerError::Property { name: name.clone(), reason: own(reason) });
        if let Some((_, _, reason)) = FIXED.iter().find(|(fixed, wanted, _)| fixed == name && *wanted != value.as_str())
        {
            return refused(&format!("it cannot be changed: {reason}"));
        }
        if let Some((_, reason)) = OWNED.iter().find(|(owned, _)| owned == name) {
            return refused(&format!("it cannot be set here: {reason}"));
        }
        properties.insert(name.clone(), value.as_str().to_owned());
    }
    properties.extend(FIXED.iter().map(|(name, value, _)| (own(name), own(value))));
    Ok(properties)
}

/// How long the cluster may take to know a topic that was just created (`topic.metadata.propagation.max.ms`); a topic that is
/// still missing then does not exist.
pub(super) fn propagation(properties: &BTreeMap<String, String>) -> Duration {
    let wanted = properties.get("topic.metadata.propagation.max.ms").and_then(|value| value.trim().parse().ok());
    // librdkafka's default, and it has checked the value.
    Duration::from_millis(wanted.unwrap_or(30_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Spanned;

    fn complete_with(name: &str, value: &str) -> Result<BTreeMap<String, String>, ProducerError> {
        let properties = [(Spanned::new(0..0, name.to_owned()), value.into())].into();
        complete(&Kafka::listed(vec!["a:1".to_owned()], properties))
    }

    #[test]
    fn a_listener_may_tell_the_protocol() {
        let with = |listener: &str, properties| {
            let mut kafka = Kafka::listed(Vec::new(), properties);
            kafka.listener = Some(Spanned::new(0..0, listener.to_owned()));
            complete(&kafka).unwrap().get("security.protocol").cloned()
        };
        assert_eq!(with("SSL", BTreeMap::new()).as_deref(), Some("ssl"));
        assert_eq!(with("INSIDE", BTreeMap::new()), None);
        let given = [(Spanned::new(0..0, "security.protocol".to_owned()), "sasl_ssl".into())].into();
        assert_eq!(with("SSL", given).as_deref(), Some("sasl_ssl"));
    }

    #[test]
    fn the_manual_has_them_all() {
        let manual = include_str!("../../docs/kafka.md");
        let fixed = FIXED.iter().map(|(name, value, _)| (name, value));
        for (name, value) in DEFAULTS.iter().map(|(name, value)| (name, value)).chain(fixed) {
            assert!(manual.contains(&format!("\n| `{name}` | `{value}` | ")), "{name}");
        }
    }

    #[test]
    fn defaults_give_way_and_promises_do_not() {
        let properties = complete_with("linger.ms", "5").unwrap();
        assert_eq!((properties["linger.ms"].as_str(), properties["acks"].as_str()), ("5", "all"));
        assert!(complete_with("acks", "all").is_ok());
        for (name, value) in [
            ("acks", "1"),
            ("enable.idempotence", "false"),
            ("message.timeout.ms", "300000"),
            ("retries", "3"),
            ("message.send.max.retries", "3"),
            ("bootstrap.servers", "c:3"),
        ] {
            let error = complete_with(name, value).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("cannot be"), "{error}");
        }
    }
}
