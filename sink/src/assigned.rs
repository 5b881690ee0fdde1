//! The partitions that this process owns, found by a message's topic and number.

use crate::partition::Partition;

/// The partitions that this process owns.
#[derive(Debug, Default)]
pub struct Assigned {
    /// By topic; a topic's partitions by their number. There are few topics, and messages come from one for a while.
    topics: Vec<(String, Vec<Option<Partition>>)>,
    latest: usize,
}

impl Assigned {
    /// Adds a partition.
    pub fn insert(&mut self, partition: Partition) {
        let (topic, number) = (partition.place().topic.clone(), partition.place().partition);
        let place = match self.topics.iter().position(|(name, _)| *name == topic) {
            Some(place) => place,
            None => {
                self.topics.push((topic, Vec::new()));
                self.topics.len() - 1
            }
        };
        let partitions = &mut self.topics[place].1;
        let number = usize::try_from(number).expect("a partition that is assigned has a number from 0 on");
        if partitions.len() <= number {
            partitions.resize_with(number + 1, || None);
        }
        partitions[number] = Some(partition);
    }

    /// The partition of a message; `None` when it is not ours.
    pub fn find(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        if self.topics.get(self.latest).is_none_or(|(name, _)| name != topic) {
            self.latest = self.topics.iter().position(|(name, _)| name == topic)?;
        }
        self.topics[self.latest].1.get_mut(usize::try_from(partition).ok()?)?.as_mut()
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.topics.iter_mut().flat_map(|(_, partitions)| partitions.iter_mut().flatten())
    }

    /// Gives all of them up.
    pub fn take_all(&mut self) -> impl Iterator<Item = Partition> + use<> {
        std::mem::take(&mut self.topics).into_iter().flat_map(|(_, partitions)| partitions.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kafkalog::config::Source;

    use super::*;
    use crate::Config;
    use crate::accounting::Highest;
    use crate::chunk::Place;

    #[test]
    fn partitions_are_found_by_topic_and_number() {
        let text = "[kafka]\nbootstrap = [\"b\"]\n[store]\nurl = \"file:///unused\"\n[[table]]\nname = \"w\"\ntopics = [\"t\"]";
        let config = Config::parse(&Source::from_text("sink.toml", text)).unwrap();
        let table = Arc::new(config.tables.get_ref()[0].clone());
        let mut assigned = Assigned::default();
        let all = [("t", 3), ("u", 0), ("t", 0)];
        for (topic, partition) in all {
            let place = Place { table: Arc::clone(&table), topic: topic.to_owned(), partition };
            assigned.insert(Partition::new(place, None, Highest::new()));
        }
        for (topic, partition) in all.into_iter().chain(all) {
            let place = assigned.find(topic, partition).unwrap().place();
            assert_eq!((place.topic.as_str(), place.partition), (topic, partition));
        }
        for (topic, partition) in [("t", 1), ("t", 4), ("u", 3), ("v", 0), ("t", -1)] {
            assert!(assigned.find(topic, partition).is_none(), "{topic} {partition}");
        }
        assert_eq!((assigned.iter_mut().count(), assigned.take_all().count(), assigned.take_all().count()), (3, 3, 0));
        assert!(assigned.find("t", 3).is_none());
    }
}
