//! Owners of a partition that die at any operation of the store, one after the other: in the end each message is in a file
//! once. Kafka is a list of messages and a committed offset here.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what they call.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use kafkalog::config::Source;
use kafkalog_sink::Config;
use kafkalog_sink::accounting::Highest;
use kafkalog_sink::chunk::Place;
use kafkalog_sink::config::Table;
use kafkalog_sink::partition::{Message, Partition};
use kafkalog_sink::path::{self, DataFile, Hour};
use kafkalog_sink::recover::recover;
use kafkalog_sink::store::{Store as _, StoreError};
use proptest::prelude::*;
use support::memory::Memory;

const CONFIG: &str = r#"
[kafka]
bootstrap = ["b:9092"]
[store]
url = "file:///unused"
[[table]]
name = "w"
topics = ["t"]
compression = "none"
format = "text"
"#;

/// What Kafka knows.
struct Kafka {
    /// The hour of each message; its offset is its place.
    hours: Vec<u8>,
    committed: Option<i64>,
}

/// An owner's life: takes the partition over, reads to the end, closing a chunk every `cut` messages.
fn live(
    store: &Memory,
    kafka: &mut Kafka,
    table: &Arc<Table>,
    session: usize,
    cut: usize,
    commits: bool,
) -> Result<(), StoreError> {
    store.make_directories(&path::temporary_directory("w"))?;
    let key = ("t".to_owned(), 0);
    let recovered = recover(store, table, &BTreeSet::from([key.clone()]))?;
    let start = kafka.committed.max(recovered.ends.get(&key).copied());
    let place = Place { table: Arc::clone(table), topic: key.0, partition: key.1 };
    let mut partition = Partition::new(place, start, Highest::new());
    let session = session.to_string();
    let close = |partition: &mut Partition, kafka: &mut Kafka| {
        if let Some(published) = partition.close(store)?
            && commits
        {
            kafka.committed = Some(published.next);
        }
        Ok(())
    };
    for offset in start.unwrap_or(0)..kafka.hours.len() as i64 {
        let hour = Hour::of_milliseconds(i64::from(kafka.hours[offset as usize]) * 3_600_000).unwrap();
        let payload = offset.to_string();
        let message = Message { offset, hour, payload: Some(payload.as_bytes()), number: None };
        partition.take(&message, store, &session, Instant::now())?;
        if (offset as usize + 1).is_multiple_of(cut) {
            close(&mut partition, kafka)?;
        }
    }
    close(&mut partition, kafka)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn each_message_is_in_a_file_once(
        hours in proptest::collection::vec(0..4_u8, 1..40),
        lives in proptest::collection::vec((0..60_u64, 1..20_usize, any::<bool>()), 0..12),
    ) {
        let config = Config::parse(&Source::from_text("sink.toml", CONFIG)).unwrap();
        let table = Arc::new(config.tables.get_ref()[0].clone());
        let store = Memory::default();
        let mut kafka = Kafka { hours, committed: None };
        for (session, &(operations, cut, commits)) in lives.iter().enumerate() {
            store.power(Some(operations));
            let _ = live(&store, &mut kafka, &table, session, cut, commits);
            store.power(None);
        }
        live(&store, &mut kafka, &table, lives.len(), 7, true).unwrap();

        let mut found = BTreeMap::new();
        for (path, bytes) in store.files() {
            let name = path.rsplit('/').next().unwrap();
            let file = DataFile::parse(name);
            prop_assert!(file.is_some() && !path.contains("_tmp"), "{} is left", path);
            let directory = path.split_once('/').unwrap().1.rsplit_once('/').unwrap().0;
            for line in String::from_utf8(bytes).unwrap().lines() {
                let offset: i64 = line.parse().unwrap();
                let hour = Hour::of_milliseconds(i64::from(kafka.hours[offset as usize]) * 3_600_000).unwrap();
                prop_assert_eq!(directory, hour.directory());
                let file = file.as_ref().unwrap();
                prop_assert!((file.first..=file.last).contains(&offset));
                *found.entry(offset).or_insert(0) += 1;
            }
        }
        let expected: BTreeMap<i64, i32> = (0..kafka.hours.len() as i64).map(|offset| (offset, 1)).collect();
        prop_assert_eq!(found, expected);
    }
}
