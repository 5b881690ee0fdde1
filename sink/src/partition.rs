//! One partition of one topic: what its messages become, and when its chunk is closed.

use std::time::Instant;

use crate::accounting::{Highest, SourceId};
use crate::chunk::{Chunk, MOST_HOURS, Place, Published};
use crate::path::Hour;
use crate::store::{Store, StoreError};

/// A message, as far as the sink looks into it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its offset in the partition.
    pub offset: i64,
    /// The hour of its timestamp, which is when the request began.
    pub hour: Hour,
    /// The record; `None` for a message that has none.
    pub payload: Option<&'a [u8]>,
    /// Who numbered it, and with what.
    pub number: Option<(SourceId, u64)>,
}

/// A partition that this process owns.
#[derive(Debug)]
pub struct Partition {
    place: Place,
    /// The offset that is expected next; `None` as long as Kafka decides where to begin.
    position: Option<i64>,
    /// Messages that nobody can see yet; `None` when everything that was read is published.
    chunk: Option<Chunk>,
    highest: Highest,
}

/// What an offset says of the messages before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is the one that was expected.
    Next,
    /// So many offsets were left out: Kafka had deleted their messages before they were read, or they never held any
    /// (ends of transactions, compacted topics).
    Skipped(u64),
    /// It is below the one that was expected: the topic was made anew, or its log was cut off in an unclean election.
    Back,
}

impl Partition {
    /// A partition that is read from `position` on, with what the process knows of it from an earlier assignment.
    ///
    /// That others may have owned it meanwhile does no harm: what was published stays so.
    #[must_use]
    pub fn new(place: Place, position: Option<i64>, highest: Highest) -> Self {
        Self { place, position, chunk: None, highest }
    }

    /// Which one it is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// How the message at `offset` follows what came before.
    #[must_use]
    pub fn step(&self, offset: i64) -> Step {
        match self.position {
            Some(expected) if offset > expected => Step::Skipped(offset.abs_diff(expected)),
            Some(expected) if offset < expected => Step::Back,
            _ => Step::Next,
        }
    }

    /// Takes a message in. `session` names the process, `now` is when the message was read.
    ///
    /// A message at a lower offset than the one before must not come while a chunk is open.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the record cannot be written.
    pub fn take(
        &mut self,
        message: &Message<'_>,
        store: &dyn Store,
        session: &str,
        now: Instant,
    ) -> Result<(), StoreError> {
        self.position = Some(message.offset + 1);
        let chunk = self.chunk.get_or_insert_with(|| Chunk::begin(message.offset, now));
        chunk.advance(message.offset);
        let Some(payload) = message.payload else {
            chunk.account.skip_empty();
            return Ok(());
        };
        match message.number {
            Some((source, sequence)) if !chunk.account.admit(source, sequence, &self.highest) => return Ok(()),
            Some(_) => {}
            None => chunk.account.admit_unnumbered(),
        }
        chunk.write(store, &self.place, session, message.hour, message.offset, payload)
    }

    /// Whether there are messages that nobody can see yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.chunk.is_some()
    }

    /// Whether its chunk is to be closed: because of its age, whether or not messages still come, or because of its size.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        let every = self.place.table.rotate.every.get_ref().0;
        self.chunk.as_ref().is_some_and(|chunk| now.saturating_duration_since(chunk.opened()) >= every)
            || self.is_full()
    }

    /// Whether its chunk has reached its size: [`crate::config::Rotate::bytes`] in one file, or too many hours.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let bytes = self.place.table.rotate.bytes.get_ref().0;
        self.chunk.as_ref().is_some_and(|chunk| chunk.largest_file() >= bytes || chunk.hours() >= MOST_HOURS)
    }

    /// Publishes its chunk; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing may be committed then, and the partition is of no use any more.
    pub fn close(&mut self, store: &dyn Store) -> Result<Option<Published>, StoreError> {
        let Some(chunk) = self.chunk.take() else { return Ok(None) };
        let published = chunk.seal(store, &self.place)?.publish(store, &self.place)?;
        published.account.raise(&mut self.highest);
        Ok(Some(published))
    }

    /// Leaves nothing of its chunk: the partition is somebody else's now, who reads those messages again.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when a temporary file is still there.
    pub fn discard(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        self.chunk.take().map_or(Ok(()), |chunk| chunk.discard(store))
    }

    /// What is known of the numbers that it holds, for the next time that it is assigned.
    #[must_use]
    pub fn release(self) -> Highest {
        self.highest
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use kafkalog::config::Source;
    use tempfile::TempDir;

    use super::*;
    use crate::Config;
    use crate::store::LocalDirectory;

    fn partition(rotate: &str) -> (TempDir, LocalDirectory, Partition) {
        let text = format!(
            "[kafka]\nbootstrap = [\"b\"]\n[store]\nurl = \"file:///unused\"\n[[table]]\nname = \"w\"\ntopics = [\"t\"]\nrotate = {rotate}"
        );
        let config = Config::parse(&Source::from_text("sink.toml", text)).unwrap();
        let directory = TempDir::new().unwrap();
        let store = LocalDirectory::new(directory.path(), config.store.permissions);
        store.make_directories("w/_tmp").unwrap();
        let table = Arc::new(config.tables.get_ref()[0].clone());
        let place = Place { table, topic: "t".to_owned(), partition: 0 };
        (directory, store, Partition::new(place, Some(5), Highest::new()))
    }

    fn message(offset: i64) -> Message<'static> {
        Message { offset, hour: Hour::EPOCH, payload: Some(b"line"), number: None }
    }

    #[test]
    fn offsets_follow_each_other_or_do_not() {
        let (_directory, store, mut partition) = partition("{}");
        assert_eq!([5, 7, 4].map(|offset| partition.step(offset)), [Step::Next, Step::Skipped(2), Step::Back]);
        partition.take(&message(7), &store, "s", Instant::now()).unwrap();
        assert_eq!([8, 10, 7].map(|offset| partition.step(offset)), [Step::Next, Step::Skipped(2), Step::Back]);
        let first = Partition::new(partition.place().clone(), None, Highest::new());
        assert_eq!(first.step(4_711), Step::Next);
    }

    #[test]
    fn a_chunk_is_due_by_its_first_message_age() {
        let (_directory, store, mut partition) = partition("{ every = \"10s\" }");
        let start = Instant::now();
        assert!(!partition.is_due(start + Duration::from_secs(1_000)), "there is nothing to close");
        for second in [0, 4, 8] {
            partition.take(&message(5 + second), &store, "s", start + Duration::from_secs(second as u64)).unwrap();
        }
        assert!(!partition.is_due(start + Duration::from_millis(9_999)));
        assert!(partition.is_due(start + Duration::from_secs(10)));
        let published = partition.close(&store).unwrap().unwrap();
        assert_eq!((published.first, published.next, published.files), (5, 14, 1));
        assert!(!partition.is_open() && partition.close(&store).unwrap().is_none());
    }

    #[test]
    fn a_discarded_chunk_leaves_nothing() {
        let (_directory, store, mut partition) = partition("{}");
        partition.take(&message(5), &store, "s", Instant::now()).unwrap();
        partition
            .take(
                &Message { hour: Hour::of_milliseconds(3_600_000).unwrap(), ..message(6) },
                &store,
                "s",
                Instant::now(),
            )
            .unwrap();
        assert_eq!(store.list("w/_tmp").unwrap().len(), 2);
        partition.discard(&store).unwrap();
        assert_eq!(store.list("w/_tmp").unwrap(), []);
        assert!(!partition.is_open());
    }
}
