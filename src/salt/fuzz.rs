//! What the fuzz targets call.

use super::{cluster_key, message};
use crate::anonymize::Salt;

/// Reads any bytes as each kind of message. None of them may be believed: their writer does not have the key.
///
/// # Panics
///
/// When one is.
#[allow(clippy::unwrap_used, reason = "only in tests")]
pub fn messages(data: &[u8]) {
    use std::cell::OnceCell;
    thread_local! {
        static MEMBER: OnceCell<(cluster_key::ClusterKey, message::OneShot, Salt)> = const { OnceCell::new() };
    }
    MEMBER.with(|member| {
        let (key, reader, salt) = member.get_or_init(|| {
            let key = cluster_key::of(1);
            let reader = message::OneShot::new(&key, 9, "a".into()).unwrap();
            (key, reader, Salt::generate(9, Some(1)).unwrap())
        });
        assert!(message::read_register(key, 9, data).is_none());
        assert!(message::read_request(key, 9, "a", data).is_none());
        assert!(message::read_holder(key, 9, &String::from_utf8_lossy(data)).is_none());
        assert!(reader.open(key, salt.id(), data).unwrap().is_none());
    });
}
