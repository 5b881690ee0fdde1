//! Faults on demand, so that tests can show what is survived. Without the feature `fault-injection` there are none.

/// Panics where and when the environment variable `KAFKALOG_FAULT` says: `reader:3,producer:1` panics at the third run of
/// records in the reader and at the first batch in the producer.
#[derive(Debug, Default)]
pub(crate) struct Fault {
    #[cfg(feature = "fault-injection")]
    due: std::sync::Mutex<Vec<(String, u64)>>,
}

impl Fault {
    /// The faults that the environment asks for.
    #[must_use]
    pub(crate) fn from_environment() -> Self {
        #[cfg(feature = "fault-injection")]
        {
            let wish = std::env::var("KAFKALOG_FAULT").unwrap_or_default();
            let due = wish.split(',').filter_map(|fault| {
                let (place, count) = fault.split_once(':')?;
                Some((place.to_owned(), count.parse().ok()?))
            });
            Self { due: std::sync::Mutex::new(due.collect()) }
        }
        #[cfg(not(feature = "fault-injection"))]
        Self {}
    }

    /// Panics if a fault is due at this place.
    #[inline]
    pub(crate) fn hit(&self, place: &str) {
        #[cfg(feature = "fault-injection")]
        {
            let mut due = self.due.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            for (name, count) in due.iter_mut().filter(|(name, count)| name == place && *count > 0) {
                *count -= 1;
                assert!(*count > 0, "fault injected at {name}");
            }
        }
        #[cfg(not(feature = "fault-injection"))]
        let _ = place;
    }
}
