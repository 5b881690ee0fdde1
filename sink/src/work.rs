//! What the loop works on, apart from the connection that messages are borrowed from: the partitions, what they hold, and
//! what is published but not committed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kafkalog::message::Boot;
use rdkafka::message::{BorrowedMessage, Message as _};
use tracing::{debug, error, info, warn};

use crate::accounting::{Counts, Highest, Sources, Totals};
use crate::assigned::Assigned;
use crate::chunk::{Place, Published};
use crate::config::{Config, Table};
use crate::consumer::{self, Repeats, Subscription, TopicPartition};
use crate::partition::{Message, Partition, Step};
use crate::path::Hour;
use crate::recover::recover;
use crate::start::Start;
use crate::store::{Store, StoreError};

/// What the loop works on.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tables: Vec<(Arc<Table>, Totals)>,
    session: String,
    pub(crate) assigned: Assigned,
    sources: Sources,
    /// Of partitions that are not assigned at present.
    highest: HashMap<TopicPartition, Highest>,
    /// Published, but not known to be committed: the offset to go on with.
    pub(crate) uncommitted: BTreeMap<TopicPartition, i64>,
    pub(crate) commit_at: Option<Instant>,
    pub(crate) repeats: Repeats,
}

impl Work {
    pub(crate) fn new(config: &Config, store: Arc<dyn Store>) -> Self {
        let tables = config.tables.get_ref().iter();
        Self {
            store,
            tables: tables.map(|table| (Arc::new(table.clone()), Totals::default())).collect(),
            // Any name that no other process has.
            session: Boot::begin().to_string(),
            assigned: Assigned::default(),
            sources: Sources::default(),
            highest: HashMap::new(),
            uncommitted: BTreeMap::new(),
            commit_at: None,
            repeats: Repeats::default(),
        }
    }

    /// Takes a message in; `true` when its chunk is full now.
    pub(crate) fn take(&mut self, message: &BorrowedMessage<'_>, now: Instant) -> Result<bool, StoreError> {
        let (topic, number, offset) = (message.topic(), message.partition(), message.offset());
        let Some(partition) = self.assigned.find(topic, number) else {
            // librdkafka drops what is left in its queues when partitions are given up.
            error!(topic, partition = number, offset, "a message of a partition that is not assigned; it is left out");
            return Ok(false);
        };
        match partition.step(offset) {
            Step::Next => {}
            Step::Skipped(offsets) => {
                if let Some(suppressed) = self.repeats.admit("skipped", now) {
                    warn!(
                        topic,
                        partition = number,
                        offset,
                        offsets,
                        suppressed,
                        "offsets without messages, or Kafka has deleted them"
                    );
                }
                totals_of(&mut self.tables, &partition.place().table).skipped_offsets += offsets;
            }
            Step::Back => {
                error!(
                    topic,
                    partition = number,
                    offset,
                    "offsets begin again: the topic was made anew, or Kafka has lost its end"
                );
                // Not committed: its offsets are those of a log that is gone.
                if let Some(published) = partition.close(&*self.store)? {
                    totals_of(&mut self.tables, &partition.place().table).add(&published.account);
                }
                self.uncommitted.remove(&(topic.to_owned(), number));
            }
        }
        let hour = message.timestamp().to_millis().and_then(Hour::of_milliseconds).unwrap_or_else(this_hour);
        let number = consumer::numbered(message).map(|line| (self.sources.of(&line), line.sequence));
        let message = Message { offset, hour, payload: message.payload(), number };
        partition.take(&message, &*self.store, &self.session, now)?;
        Ok(partition.is_full())
    }

    pub(crate) fn publish(&mut self, which: impl Fn(&Partition) -> bool) -> Result<(), StoreError> {
        for partition in self.assigned.iter_mut().filter(|partition| which(partition)) {
            let Some(published) = partition.close(&*self.store)? else { continue };
            let Place { table, topic, partition } = partition.place();
            let Published { first, next, files, bytes, account } = published;
            debug!(topic, partition, first, next, files, bytes, "published");
            totals_of(&mut self.tables, table).add(&account);
            self.uncommitted.insert((topic.clone(), *partition), next);
        }
        Ok(())
    }

    /// Commits; `true` when it has to be tried again.
    pub(crate) fn commit(&mut self, subscription: &Subscription) -> bool {
        let offsets = self.uncommitted.iter().map(|((topic, partition), next)| (topic.as_str(), *partition, *next));
        match subscription.commit(offsets) {
            Ok(()) => {
                self.uncommitted.clear();
                for (table, totals) in &self.tables {
                    report(table, totals, "committed");
                }
                false
            }
            Err(error) => {
                // Not an error of the sink's: the files are in place, which the partitions' next owner sees.
                warn!(%error, partitions = self.uncommitted.len(), "Kafka did not take the offsets; trying again");
                true
            }
        }
    }

    pub(crate) fn forget(&mut self) {
        for partition in self.assigned.take_all() {
            let Place { topic, partition: number, .. } = partition.place();
            self.highest.insert((topic.clone(), *number), partition.release());
        }
        self.uncommitted.clear();
        self.commit_at = None;
    }

    /// Cleans up after the partitions' earlier owners; gives where their files end.
    pub(crate) fn recover(&self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, i64>, StoreError> {
        let mut ends = BTreeMap::new();
        for (table, _) in &self.tables {
            let ours = |(topic, _): &&TopicPartition| table.topics().any(|other| other == topic);
            let mut recovered = recover(&*self.store, table, &partitions.iter().filter(ours).cloned().collect())?;
            if recovered.finished > 0 || recovered.deleted > 0 {
                let (finished, deleted) = (recovered.finished, recovered.deleted);
                warn!(
                    table = table.name.get_ref(),
                    finished, deleted, "an earlier owner's unfinished work: chunks finished, files deleted"
                );
            }
            ends.append(&mut recovered.ends);
        }
        Ok(ends)
    }

    /// Takes assigned partitions over.
    pub(crate) fn begin(&mut self, starts: BTreeMap<TopicPartition, Start>, now: Instant) {
        for (key, start) in starts {
            start.log(&key);
            let Some((table, totals)) =
                self.tables.iter_mut().find(|(table, _)| table.topics().any(|other| *other == key.0))
            else {
                continue; // Only what was subscribed to is assigned.
            };
            totals.out_of_range += u64::from(start.is_out_of_range());
            if let Some(end) = start.uncommitted() {
                self.uncommitted.insert(key.clone(), end);
                self.commit_at = Some(now);
            }
            let highest = self.highest.remove(&key).unwrap_or_default();
            let place = Place { table: Arc::clone(table), topic: key.0, partition: key.1 };
            self.assigned.insert(Partition::new(place, start.offset(), highest));
        }
    }
}

fn totals_of<'a>(tables: &'a mut [(Arc<Table>, Totals)], table: &Arc<Table>) -> &'a mut Totals {
    let found = tables.iter_mut().find(|(other, _)| Arc::ptr_eq(other, table));
    &mut found.expect("a partition's table is one of these").1
}

/// For messages without a usable timestamp.
fn this_hour() -> Hour {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    i64::try_from(now).ok().and_then(Hour::of_milliseconds).unwrap_or(Hour::EPOCH)
}

/// Tells of a table's account in the log.
pub(crate) fn report(table: &Table, totals: &Totals, what: &'static str) {
    let Counts { written, doubled, unnumbered, empty } = totals.counts;
    info!(
        table = table.name.get_ref(),
        written,
        doubled,
        unnumbered,
        empty,
        distinct = totals.distinct(),
        missing = totals.missing(),
        overlapping = totals.overlapping,
        skipped_offsets = totals.skipped_offsets,
        out_of_range = totals.out_of_range,
        "{what}"
    );
}
