//! librdkafka's mock cluster, for demos and tests. It keeps 5 MB a partition and drops the oldest; nothing of it is durable.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fmt;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use super::ProducerError;

/// A cluster in this process.
pub struct MockCluster {
    owner: *mut rd::rd_kafka_t,
    cluster: *mut rd::rd_kafka_mock_cluster_t,
}

impl MockCluster {
    /// Starts brokers on free ports of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// [`ProducerError::Start`] when librdkafka cannot.
    pub fn start(brokers: u16) -> Result<Self, ProducerError> {
        let mut text = [0; 256];
        // Errors only: the client that owns the cluster has no brokers itself, and would say so.
        // SAFETY: the configuration is new, name and value are C strings, and `text` is writable for its length. The client
        // takes the configuration over.
        let owner = unsafe {
            let conf = rd::rd_kafka_conf_new();
            rd::rd_kafka_conf_set(conf, c"log_level".as_ptr(), c"3".as_ptr(), text.as_mut_ptr(), text.len());
            rd::rd_kafka_new(rd::rd_kafka_type_t::RD_KAFKA_PRODUCER, conf, text.as_mut_ptr(), text.len())
        };
        if owner.is_null() {
            return Err(ProducerError::Start(super::client::message(&text)));
        }
        // SAFETY: `owner` is valid, and outlives the cluster.
        let cluster = unsafe { rd::rd_kafka_mock_cluster_new(owner, brokers.into()) };
        if cluster.is_null() {
            // SAFETY: `owner` belongs to this function alone.
            unsafe { rd::rd_kafka_destroy(owner) };
            return Err(ProducerError::Start("the mock cluster does not start".to_owned()));
        }
        Ok(Self { owner, cluster })
    }

    /// `host:port,…`
    #[must_use]
    pub fn bootstrap(&self) -> String {
        // SAFETY: the cluster is valid, and its list is a C string that lives as long.
        unsafe { CStr::from_ptr(rd::rd_kafka_mock_cluster_bootstraps(self.cluster)) }.to_string_lossy().into_owned()
    }

    /// Creates a topic.
    ///
    /// # Errors
    ///
    /// librdkafka's, when the topic is there already.
    pub fn create_topic(&self, name: &str, partitions: u16) -> Result<(), RDKafkaErrorCode> {
        let name = CString::new(name).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
        // SAFETY: the cluster is valid and `name` is a C string.
        check(unsafe { rd::rd_kafka_mock_topic_create(self.cluster, name.as_ptr(), partitions.into(), 1) })
    }

    /// Makes a broker, counted from 1, tell clients to come to this port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// librdkafka's, when there is no such broker.
    pub fn advertise(&self, broker: u16, port: u16) -> Result<(), RDKafkaErrorCode> {
        // SAFETY: the cluster is valid and the host is a C string.
        unsafe {
            rd::rd_kafka_mock_broker_set_host_port(self.cluster, broker.into(), c"127.0.0.1".as_ptr(), port.into())
        };
        Ok(())
    }

    /// Makes a broker, counted from 1, unreachable, or reachable again.
    ///
    /// # Errors
    ///
    /// librdkafka's, when there is no such broker.
    pub fn set_up(&self, broker: u16, up: bool) -> Result<(), RDKafkaErrorCode> {
        // SAFETY: the cluster is valid.
        check(unsafe {
            match up {
                true => rd::rd_kafka_mock_broker_set_up(self.cluster, broker.into()),
                false => rd::rd_kafka_mock_broker_set_down(self.cluster, broker.into()),
            }
        })
    }

    /// Makes a broker, counted from 1, answer this much later than it could.
    ///
    /// # Errors
    ///
    /// librdkafka's, when there is no such broker.
    pub fn delay(&self, broker: u16, by: Duration) -> Result<(), RDKafkaErrorCode> {
        let milliseconds = i32::try_from(by.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the cluster is valid.
        check(unsafe { rd::rd_kafka_mock_broker_set_rtt(self.cluster, broker.into(), milliseconds) })
    }

    /// Makes the next requests to produce fail with these errors, one each.
    pub fn fail_produce(&self, errors: &[RDKafkaRespErr]) {
        /// Produce's number in Kafka's protocol.
        const PRODUCE: i16 = 0;
        // SAFETY: the cluster is valid, and `errors` is readable for its length.
        unsafe {
            rd::rd_kafka_mock_push_request_errors_array(self.cluster, PRODUCE, errors.len(), errors.as_ptr());
        };
    }

    /// Makes every request about a topic fail.
    pub fn fail_topic(&self, name: &CStr, error: RDKafkaRespErr) {
        // SAFETY: the cluster is valid and `name` is a C string.
        unsafe { rd::rd_kafka_mock_topic_set_error(self.cluster, name.as_ptr(), error) };
    }
}

fn check(code: RDKafkaRespErr) -> Result<(), RDKafkaErrorCode> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code.into()),
    }
}

impl Drop for MockCluster {
    fn drop(&mut self) {
        // SAFETY: both were made by `start` and belong to this value alone; the cluster goes before its owner.
        unsafe {
            rd::rd_kafka_mock_cluster_destroy(self.cluster);
            rd::rd_kafka_destroy(self.owner);
        }
    }
}

impl fmt::Debug for MockCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockCluster").field("bootstrap", &self.bootstrap()).finish()
    }
}
