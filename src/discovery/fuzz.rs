//! What the fuzz target `broker_registration` and a property test run: outside bytes as a broker's registration. Nothing here may
//! panic, whatever the bytes.

use super::{Broker, Choice};

/// Reads the bytes as the data of a node in `/brokers/ids`.
pub fn broker_registration(bytes: &[u8]) {
    let Ok(broker) = Broker::parse("1", bytes) else { return };
    for endpoint in &broker.endpoints {
        // Nothing in it can be taken for a second address.
        assert!(!endpoint.to_string().contains([',', '/', ' ']), "{endpoint:?}");
        assert!(broker.endpoint(&Choice::Named(endpoint.listener.clone())).is_some());
        assert!(broker.endpoint(&Choice::Protocol(endpoint.protocol.clone())).is_some());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::broker_registration;

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>) {
            broker_registration(&bytes);
        }

        #[test]
        fn no_endpoints_break_it(texts in proptest::collection::vec("[A-Z]{0,3}(://)?[^\"\\\\]{0,5}:[0-9]{0,6}", 0..4), host: Option<String>) {
            broker_registration(serde_json::json!({"host": host, "port": 1, "endpoints": texts}).to_string().as_bytes());
        }
    }
}
