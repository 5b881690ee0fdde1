//! The thin layer over librdkafka. All `unsafe` of the producer is here.
//!
//! librdkafka is called directly, not through the `rdkafka` crate's producers: messages are handed over without a copy, and
//! delivery reports are taken by the broker's answer, not by the message.
//!
//! # Invariant
//!
//! A message's payload is not moved, changed or freed from [`Client::produce`] until its report has come, or until the
//! [`Client`] has been dropped, which waits for librdkafka's threads.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use super::ProducerError;
use crate::config::is_secret;

/// A running librdkafka producer.
pub(super) struct Client {
    handle: *mut rd::rd_kafka_t,
    events: *mut rd::rd_kafka_queue_t,
    topics: Vec<*mut rd::rd_kafka_topic_t>,
    /// Set by librdkafka's threads, so it goes after them.
    signs: Box<Signs>,
}

/// What librdkafka tells in no event.
#[derive(Debug, Default)]
struct Signs {
    /// A broker has closed the connection on being asked for its versions.
    refused: AtomicBool,
    /// Milliseconds for which brokers have throttled this client (KIP-13), not taken yet.
    throttled: AtomicU64,
}

/// The words for it, which have been the same since `ApiVersions` came.
const REFUSED: &str = "in state APIVERSION_QUERY";

// SAFETY: librdkafka's handles may be used from any thread.
unsafe impl Send for Client {}

/// A message's headers, owned until they are handed over, and again once its report has come.
pub(super) struct Headers(*mut rd::rd_kafka_headers_t);

// SAFETY: a list that belongs to this value is reached through it alone, and is plain memory to librdkafka.
unsafe impl Send for Headers {}

/// What came of a message.
#[derive(Debug)]
pub(super) struct Report {
    /// What [`Client::produce`] was told to name the message.
    pub(super) token: usize,
    /// `None`: acknowledged.
    pub(super) error: Option<RDKafkaErrorCode>,
    /// The message's headers, to be used again.
    pub(super) headers: Option<Headers>,
}

/// What librdkafka had to say.
pub(super) enum Event {
    /// Reports were handed to the callback.
    Reports,
    /// Something is wrong, of which librdkafka hopes to recover, unless it is fatal.
    Error { code: RDKafkaErrorCode, text: String, fatal: bool },
    /// Something else.
    Other,
}

impl Client {
    /// Starts librdkafka with these properties, for these topics.
    pub(super) fn start(properties: &BTreeMap<String, String>, topics: &[String]) -> Result<Self, ProducerError> {
        // The process's end must not pull OpenSSL from under the threads that send the last lines then.
        openssl_sys::init();
        let conf = Conf::new(properties)?;
        let signs = Box::<Signs>::default();
        // SAFETY: the configuration is valid, and what it points to lives until librdkafka's threads are gone.
        unsafe { rd::rd_kafka_conf_set_opaque(conf.0, ptr::from_ref(&*signs).cast_mut().cast()) };
        let mut text = [0; 512];
        // SAFETY: `conf` is a valid configuration, which the call takes over if it succeeds; `text` is writable for its length.
        let handle =
            unsafe { rd::rd_kafka_new(rd::rd_kafka_type_t::RD_KAFKA_PRODUCER, conf.0, text.as_mut_ptr(), text.len()) };
        if handle.is_null() {
            return Err(ProducerError::Start(message(&text)));
        }
        std::mem::forget(conf);
        // SAFETY: `handle` is a valid producer.
        let events = unsafe { rd::rd_kafka_queue_get_main(handle) };
        let mut client = Self { handle, events, topics: Vec::new(), signs };
        for topic in topics {
            let name = CString::new(topic.as_str()).map_err(|_| ProducerError::Topic(topic.clone()))?;
            // SAFETY: `handle` is valid and `name` is a C string; without a configuration of its own the topic gets the default.
            let topic_handle = unsafe { rd::rd_kafka_topic_new(handle, name.as_ptr(), ptr::null_mut()) };
            if topic_handle.is_null() {
                return Err(ProducerError::Topic(topic.clone()));
            }
            client.topics.push(topic_handle);
        }
        Ok(client)
    }

    /// Whether a broker has closed the connection on being asked for its versions.
    pub(super) fn was_refused(&self) -> bool {
        self.signs.refused.load(Ordering::Relaxed)
    }

    /// For how many milliseconds brokers have throttled this client since this was asked last.
    pub(super) fn take_throttled(&self) -> u64 {
        self.signs.throttled.swap(0, Ordering::Relaxed)
    }

    /// Tells of more brokers that may be asked for the cluster: `host:port,…`.
    pub(super) fn add_brokers(&self, list: &str) {
        let Ok(list) = CString::new(list) else { return };
        // SAFETY: the handle is valid and `list` is a C string.
        unsafe { rd::rd_kafka_brokers_add(self.handle, list.as_ptr()) };
    }

    /// Hands over a message. `payload` must stay as it is until its report comes: see the module's invariant.
    #[inline]
    pub(super) fn produce(
        &self,
        topic: usize,
        partition: u32,
        timestamp: i64,
        token: usize,
        payload: &[u8],
        headers: Option<Headers>,
    ) -> Result<(), RDKafkaErrorCode> {
        use rd::rd_kafka_vtype_t as kind;
        let value = |vtype, u| rd::rd_kafka_vu_t { vtype, u };
        let arguments = [
            value(kind::RD_KAFKA_VTYPE_RKT, rd::rd_kafka_vu_s__bindgen_ty_1 { rkt: self.topics[topic] }),
            value(
                kind::RD_KAFKA_VTYPE_PARTITION,
                rd::rd_kafka_vu_s__bindgen_ty_1 { i32_: i32::try_from(partition).unwrap_or(i32::MAX) },
            ),
            value(
                kind::RD_KAFKA_VTYPE_VALUE,
                rd::rd_kafka_vu_s__bindgen_ty_1 {
                    mem: rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
                        ptr: payload.as_ptr().cast_mut().cast(),
                        size: payload.len(),
                    },
                },
            ),
            value(kind::RD_KAFKA_VTYPE_TIMESTAMP, rd::rd_kafka_vu_s__bindgen_ty_1 { i64_: timestamp }),
            value(
                kind::RD_KAFKA_VTYPE_OPAQUE,
                rd::rd_kafka_vu_s__bindgen_ty_1 { ptr: ptr::without_provenance_mut(token) },
            ),
            // Neither copied nor freed by librdkafka.
            value(kind::RD_KAFKA_VTYPE_MSGFLAGS, rd::rd_kafka_vu_s__bindgen_ty_1 { i: 0 }),
            // The last one, which may be left out.
            value(
                kind::RD_KAFKA_VTYPE_HEADERS,
                rd::rd_kafka_vu_s__bindgen_ty_1 {
                    headers: headers.as_ref().map_or(ptr::null_mut(), |headers| headers.0),
                },
            ),
        ];
        let count = arguments.len() - usize::from(headers.is_none());
        // SAFETY: the arguments are of the types that their tags name; the topic belongs to this handle; the payload stays
        // by the module's invariant, and librdkafka does not write to it. The headers are taken over on success only.
        let error = unsafe { rd::rd_kafka_produceva(self.handle, arguments.as_ptr(), count) };
        if error.is_null() {
            std::mem::forget(headers);
            return Ok(());
        }
        // SAFETY: `error` is a valid error that belongs to this side.
        let (code, fatal) = unsafe {
            let code = rd::rd_kafka_error_code(error);
            let fatal = rd::rd_kafka_error_is_fatal(error) != 0;
            rd::rd_kafka_error_destroy(error);
            (code, fatal)
        };
        // The code of a fatal error is that of its cause, which may look like a line's own.
        if fatal { Err(RDKafkaErrorCode::Fatal) } else { Err(code.into()) }
    }

    /// Waits for something to happen, at the most for `timeout`, and gives the reports of one broker's answer. `None` when
    /// nothing happened.
    pub(super) fn poll(&self, timeout: Duration, mut report: impl FnMut(Report)) -> Option<Event> {
        let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is valid as long as `self`.
        let event = unsafe { rd::rd_kafka_queue_poll(self.events, timeout) };
        if event.is_null() {
            return None;
        }
        let event = OwnedEvent(event);
        // SAFETY: the event is valid until it is dropped.
        match unsafe { rd::rd_kafka_event_type(event.0) } {
            rd::RD_KAFKA_EVENT_DR => {
                loop {
                    // SAFETY: the event is a delivery report.
                    let message = unsafe { rd::rd_kafka_event_message_next(event.0) };
                    // SAFETY: a message that the event gives is valid until the event is destroyed; null is its end.
                    let Some(fields) = (unsafe { message.as_ref() }) else { break };
                    let error = match fields.err {
                        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => None,
                        error => Some(error.into()),
                    };
                    let token = fields._private.addr();
                    report(Report { token, error, headers: Headers::detach(message) });
                }
                Some(Event::Reports)
            }
            rd::RD_KAFKA_EVENT_ERROR => {
                // SAFETY: the event is an error; its text is a C string that lives as long as it.
                let (code, text) = unsafe {
                    (rd::rd_kafka_event_error(event.0), CStr::from_ptr(rd::rd_kafka_event_error_string(event.0)))
                };
                let fatal = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__FATAL;
                Some(Event::Error { code: code.into(), text: text.to_string_lossy().into_owned(), fatal })
            }
            _ => Some(Event::Other),
        }
    }

    /// Asks the cluster for a topic's partitions, at the most for `timeout`.
    pub(super) fn partitions(&self, topic: usize, timeout: Duration) -> Result<u32, RDKafkaErrorCode> {
        let mut metadata = ptr::null();
        let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: handle and topic are valid, and the pointer to fill is.
        let code = unsafe { rd::rd_kafka_metadata(self.handle, 0, self.topics[topic], &raw mut metadata, timeout) };
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(code.into());
        }
        // SAFETY: on success the metadata is valid until it is destroyed, and `topics` holds `topic_cnt` entries.
        unsafe {
            let topics = match (*metadata).topic_cnt {
                1.. => std::slice::from_raw_parts((*metadata).topics, (*metadata).topic_cnt as usize),
                _ => &[],
            };
            let result = match topics.first() {
                Some(topic) if topic.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Err(topic.err.into()),
                Some(topic) if topic.partition_cnt > 0 => Ok(topic.partition_cnt.unsigned_abs()),
                _ => Err(RDKafkaErrorCode::UnknownTopicOrPartition),
            };
            rd::rd_kafka_metadata_destroy(metadata);
            result
        }
    }

    /// Why the client has failed for good, if it has: nothing that it is handed, or has, will be delivered any more.
    ///
    /// See "Fatal errors" of librdkafka's INTRODUCTION.md, and KIP-360.
    pub(super) fn failure(&self) -> Option<RDKafkaErrorCode> {
        // SAFETY: the handle is valid; without room for it no text is written.
        match unsafe { rd::rd_kafka_fatal_error(self.handle, ptr::null_mut(), 0) } {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => None,
            code => Some(code.into()),
        }
    }

    /// Makes the client fail for good, as if Kafka had said so.
    #[cfg(test)]
    pub(super) fn break_down(&self) {
        // SAFETY: the handle is valid and the reason is a C string.
        unsafe {
            rd::rd_kafka_test_fatal_error(
                self.handle,
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                c"a test".as_ptr(),
            );
        }
    }

    /// Has what lingers sent at once, and waits for the acknowledgements, at the most for `timeout`. Their reports are still
    /// to be [`poll`](Self::poll)ed.
    pub(super) fn flush(&self, timeout: Duration) {
        let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the handle is valid.
        unsafe { rd::rd_kafka_flush(self.handle, timeout) };
    }

    /// Takes back every message that has not been acknowledged; their reports come as errors.
    pub(super) fn purge(&self) {
        let flags = rd::RD_KAFKA_PURGE_F_QUEUE | rd::RD_KAFKA_PURGE_F_INFLIGHT;
        // SAFETY: the handle is valid.
        unsafe { rd::rd_kafka_purge(self.handle, flags) };
    }

    /// Messages and reports that librdkafka holds.
    pub(super) fn outstanding(&self) -> usize {
        // SAFETY: the handle is valid.
        unsafe { rd::rd_kafka_outq_len(self.handle) }.unsigned_abs() as usize
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Nothing may keep the payloads: what is still there is given up before librdkafka's threads are waited for.
        self.purge();
        // SAFETY: everything was made by `start`, belongs to this value alone, and is not used again.
        unsafe {
            for topic in &self.topics {
                rd::rd_kafka_topic_destroy(*topic);
            }
            rd::rd_kafka_queue_destroy(self.events);
            rd::rd_kafka_destroy(self.handle);
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("topics", &self.topics.len()).finish_non_exhaustive()
    }
}

impl Headers {
    /// No header yet, with room for `count`.
    pub(super) fn with_capacity(count: usize) -> Self {
        // SAFETY: the call has no conditions.
        Self(unsafe { rd::rd_kafka_headers_new(count) })
    }

    /// The headers of a message whose report has come.
    fn detach(message: *const rd::rd_kafka_message_t) -> Option<Self> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid, as the caller has just got it from its report; librdkafka has done with it, and the
        // call makes the headers ours (rdkafka.h). It takes a mutable pointer to clear its own field only.
        let code = unsafe { rd::rd_kafka_message_detach_headers(message.cast_mut(), &raw mut headers) };
        // Not `then_some`: a value with a null would be made, and dropped.
        (code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && !headers.is_null()).then(|| Self(headers))
    }

    /// Writes another value over that of the header that was added as `index`, counted from 0. `false` if it is not of
    /// the same length.
    #[inline]
    pub(super) fn overwrite(&mut self, index: usize, value: &[u8]) -> bool {
        let (mut name, mut old, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the list is valid, and so are the places for the answers.
        let code = unsafe { rd::rd_kafka_header_get_all(self.0, index, &raw mut name, &raw mut old, &raw mut length) };
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || old.is_null() || length != value.len() {
            return false;
        }
        // SAFETY: `old` points to `length` bytes on the heap that librdkafka allocated with the header, for a copy of the value
        // (rd_kafka_header_add). The list is reached through this value alone, which is borrowed mutably, so nobody reads them
        // meanwhile. That they are handed out as constant guards lists that librdkafka still uses; this one it has let go.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), old.cast_mut().cast(), length) };
        true
    }

    /// Adds a header; name and value are copied.
    pub(super) fn add(&mut self, name: &'static str, value: &[u8]) {
        // SAFETY: the list is valid; name and value are readable for the lengths that are told. The call fails for read-only
        // lists alone.
        unsafe {
            rd::rd_kafka_header_add(
                self.0,
                name.as_ptr().cast(),
                name.len().cast_signed(),
                value.as_ptr().cast(),
                value.len().cast_signed(),
            );
        }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the list is valid.
        f.debug_tuple("Headers").field(&unsafe { rd::rd_kafka_header_cnt(self.0) }).finish()
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: the list is valid and was not handed over, or this would have been forgotten.
        unsafe { rd::rd_kafka_headers_destroy(self.0) };
    }
}

struct OwnedEvent(*mut rd::rd_kafka_event_t);

impl Drop for OwnedEvent {
    fn drop(&mut self) {
        // SAFETY: the event is valid and belongs to this value; the messages in it go with it.
        unsafe { rd::rd_kafka_event_destroy(self.0) };
    }
}

/// Whether librdkafka takes these properties, as far as it looks at each.
pub(super) fn check(properties: &BTreeMap<String, String>) -> Result<(), ProducerError> {
    Conf::new(properties).map(drop)
}

/// A configuration that no client has taken over yet.
struct Conf(*mut rd::rd_kafka_conf_t);

impl Conf {
    fn new(properties: &BTreeMap<String, String>) -> Result<Self, ProducerError> {
        // SAFETY: the call has no conditions.
        let conf = Self(unsafe { rd::rd_kafka_conf_new() });
        for (name, value) in properties {
            conf.set(name, value)?;
        }
        // SAFETY: the configuration is valid, and the callbacks have the signatures that librdkafka wants.
        unsafe {
            rd::rd_kafka_conf_set_events(conf.0, rd::RD_KAFKA_EVENT_DR | rd::RD_KAFKA_EVENT_ERROR);
            rd::rd_kafka_conf_set_log_cb(conf.0, Some(log));
            rd::rd_kafka_conf_set_throttle_cb(conf.0, Some(throttled));
        }
        Ok(conf)
    }

    fn set(&self, name: &str, value: &str) -> Result<(), ProducerError> {
        let refused = |reason: String| ProducerError::Property { name: name.to_owned(), reason };
        let no_nul = |text: &str| CString::new(text).map_err(|_| refused("it holds a NUL byte".to_owned()));
        let mut text = [0; 512];
        let (c_name, c_value) = (no_nul(name)?, no_nul(value)?);
        // SAFETY: the configuration is valid, both are C strings, and `text` is writable for its length.
        let result =
            unsafe { rd::rd_kafka_conf_set(self.0, c_name.as_ptr(), c_value.as_ptr(), text.as_mut_ptr(), text.len()) };
        match result {
            rd::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK => Ok(()),
            _ if is_secret(name) => Err(refused("librdkafka does not take its value".to_owned())),
            _ => Err(refused(message(&text))),
        }
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        // SAFETY: the configuration is valid and was not taken over, or this would have been forgotten.
        unsafe { rd::rd_kafka_conf_destroy(self.0) };
    }
}

pub(super) fn message(text: &[c_char]) -> String {
    let bytes: Vec<u8> = text.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Passes librdkafka's log on. Called from its threads.
extern "C" fn log(client: *const rd::rd_kafka_t, level: c_int, facility: *const c_char, text: *const c_char) {
    // Nothing may unwind into librdkafka.
    let _ = std::panic::catch_unwind(|| {
        if facility.is_null() || text.is_null() {
            return;
        }
        // SAFETY: librdkafka passes two C strings that live as long as the call.
        let (facility, text) =
            unsafe { (CStr::from_ptr(facility).to_string_lossy(), CStr::from_ptr(text).to_string_lossy()) };
        if text.contains(REFUSED) && !client.is_null() {
            // SAFETY: librdkafka passes a client, whose opaque is null or what `Client::start` made it.
            let signs = unsafe { rd::rd_kafka_opaque(client).cast::<Signs>().as_ref() };
            signs.inspect(|signs| signs.refused.store(true, Ordering::Relaxed));
        }
        // syslog(3)'s levels.
        match level {
            ..=3 => tracing::error!(target: "librdkafka", "{facility}: {text}"),
            4 => tracing::warn!(target: "librdkafka", "{facility}: {text}"),
            5 | 6 => tracing::info!(target: "librdkafka", "{facility}: {text}"),
            _ => tracing::debug!(target: "librdkafka", "{facility}: {text}"),
        }
    });
}

/// Notes that a broker has throttled this client. Called by [`Client::poll`].
extern "C" fn throttled(_: *mut rd::rd_kafka_t, _: *const c_char, _: i32, milliseconds: c_int, opaque: *mut c_void) {
    // SAFETY: the opaque is what `Client::start` made it, which lives longer than librdkafka's threads; or null before that.
    let signs = unsafe { opaque.cast::<Signs>().as_ref() };
    if let Some(signs) = signs {
        signs.throttled.fetch_add(u64::try_from(milliseconds).unwrap_or(0), Ordering::Relaxed);
    }
}
