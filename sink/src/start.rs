//! Where to begin with a partition that was assigned.

use std::collections::BTreeMap;

use rdkafka::error::KafkaError;
use tracing::{error, info, warn};

use crate::consumer::{Range, Subscription, TopicPartition};

/// What is known of a partition when it is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The offset that the group has committed.
    pub committed: Option<i64>,
    /// The offset behind the highest one that is in a file: see [`crate::recover`].
    pub files_end: Option<i64>,
    /// What Kafka has; not asked for when there is neither of the above.
    pub range: Option<Range>,
}

impl Start {
    /// Finds out for each of the partitions, whose files end at `ends`.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when Kafka does not answer.
    pub fn find(
        subscription: &Subscription,
        partitions: &[TopicPartition],
        ends: &BTreeMap<TopicPartition, i64>,
    ) -> Result<BTreeMap<TopicPartition, Self>, KafkaError> {
        let committed = subscription.committed(partitions)?;
        let mut starts = BTreeMap::new();
        for partition in partitions {
            let (committed, files_end) = (committed.get(partition).copied(), ends.get(partition).copied());
            let range = match committed.or(files_end) {
                Some(_) => Some(subscription.range(partition)?),
                None => None,
            };
            starts.insert(partition.clone(), Self { committed, files_end, range });
        }
        Ok(starts)
    }

    /// The offset of the first message to be read; `None` for the oldest that there is.
    #[must_use]
    pub fn offset(&self) -> Option<i64> {
        self.committed.max(self.files_end)
    }

    /// Whether Kafka does not have that offset, neither as a message nor as the next one. It goes on with the oldest
    /// message then.
    #[must_use]
    pub fn is_out_of_range(&self) -> bool {
        match (self.offset(), self.range) {
            (Some(offset), Some(Range { low, high })) => !(low..=high).contains(&offset),
            _ => false,
        }
    }

    /// What an earlier owner has published without being able to commit it.
    #[must_use]
    pub fn uncommitted(&self) -> Option<i64> {
        self.files_end.filter(|_| self.files_end > self.committed && !self.is_out_of_range())
    }

    /// Tells of it in the log.
    pub fn log(&self, (topic, partition): &TopicPartition) {
        let Self { committed, files_end, .. } = self;
        info!(topic, partition, committed, files_end, "assigned");
        if self.uncommitted().is_some() {
            warn!(topic, partition, committed, files_end, "files are in place whose offset was not committed");
        }
        if let (true, Some(start), Some(Range { low, high })) = (self.is_out_of_range(), self.offset(), self.range) {
            let lost = low.saturating_sub(start).max(0);
            error!(
                topic,
                partition,
                start,
                low,
                high,
                lost,
                "Kafka does not have the offset to go on with; going on with its oldest message"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(committed: Option<i64>, files_end: Option<i64>, low: i64, high: i64) -> Start {
        Start { committed, files_end, range: Some(Range { low, high }) }
    }

    #[test]
    fn a_new_group_begins_with_the_oldest_message() {
        let new = Start { committed: None, files_end: None, range: None };
        assert_eq!((new.offset(), new.uncommitted(), new.is_out_of_range()), (None, None, false));
    }

    #[test]
    fn files_count_more_than_the_committed_offset_but_not_less() {
        assert_eq!(start(Some(10), Some(20), 0, 50).offset(), Some(20));
        assert_eq!(start(Some(10), Some(20), 0, 50).uncommitted(), Some(20));
        assert_eq!(start(None, Some(20), 0, 50).uncommitted(), Some(20));
        // Of a chunk's last messages nothing may have been written.
        assert_eq!(start(Some(20), Some(10), 0, 50).offset(), Some(20));
        assert_eq!(start(Some(20), Some(10), 0, 50).uncommitted(), None);
        assert_eq!(start(Some(20), Some(20), 0, 50).uncommitted(), None);
    }

    #[test]
    fn the_next_offset_is_in_range_and_what_is_beyond_is_not() {
        for (offset, is_out) in [(4, true), (5, false), (50, false), (51, true)] {
            assert_eq!(start(Some(offset), None, 5, 50).is_out_of_range(), is_out, "{offset}");
        }
        assert_eq!(start(None, Some(51), 5, 50).uncommitted(), None);
    }
}
