//! What was written, what came twice, what is missing: by whoever numbered the lines.
//!
//! ```text
//!  (host, boot, stream) ──▶ SourceId          Sources: one table for the process
//!  line ──▶ Account of the open chunk          what the chunk holds, and nothing if it is discarded
//!             │ published
//!             ▼
//!           Highest of the partition           what comes again at or below it is dropped
//!           Totals of the table                interval sets over all partitions
//! ```
//!
//! A line that is sent again goes to the partition that it went to before, behind it: see [`kafkalog::message::Boot::partition`].
//! So a partition sees the numbers of a source ascend, and one that does not is there already.
//!
//! This is known to the running process alone. After a restart, a line whose first copy is in a published file is
//! written again when its second one comes.

mod intervals;

use std::collections::HashMap;

use kafkalog::message::Boot;

pub use intervals::IntervalSet;

/// Who numbered a line, and with what: the message's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered<'a> {
    /// `kl-host`
    pub host: &'a [u8],
    /// `kl-boot`
    pub boot: Boot,
    /// `kl-stream`
    pub stream: &'a [u8],
    /// `kl-seq`
    pub sequence: u64,
}

/// A (host, boot, stream), numbered by the process as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(u32);

#[derive(Debug)]
struct Source {
    host: Box<[u8]>,
    boot: Boot,
    stream: Box<[u8]>,
}

/// All sources that the process has seen.
///
/// It only grows: by one for every restart of every host's pipeline and stream.
#[derive(Debug, Default)]
pub struct Sources {
    sources: Vec<Source>,
    /// A boot is unique, so that its list is as long as its pipeline has streams.
    by_boot: HashMap<Boot, Vec<SourceId>>,
    /// Lines of a source come in batches.
    latest: Option<SourceId>,
}

impl Sources {
    /// The source of a line.
    pub fn of(&mut self, line: &Numbered<'_>) -> SourceId {
        if let Some(latest) = self.latest
            && self.is(latest, line)
        {
            return latest;
        }
        let known = self.by_boot.get(&line.boot).and_then(|ids| ids.iter().find(|&&id| self.is(id, line)).copied());
        let id = known.unwrap_or_else(|| {
            let id = SourceId(u32::try_from(self.sources.len()).expect("memory ends before four billion sources"));
            self.sources.push(Source { host: line.host.into(), boot: line.boot, stream: line.stream.into() });
            self.by_boot.entry(line.boot).or_default().push(id);
            id
        });
        self.latest = Some(id);
        id
    }

    fn is(&self, id: SourceId, line: &Numbered<'_>) -> bool {
        let Source { host, boot, stream } = &self.sources[id.0 as usize];
        *boot == line.boot && **host == *line.host && **stream == *line.stream
    }
}

/// The highest sequence number of each source that a partition's published chunks hold.
pub type Highest = HashMap<SourceId, u64>;

/// What became of the messages of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records written.
    pub written: u64,
    /// Messages dropped because their number had been seen: `kafkalog_sink_doubled_total`.
    pub doubled: u64,
    /// Of the records written, those without usable `kl-` headers.
    pub unnumbered: u64,
    /// Messages without a payload, of which nothing can be written.
    pub empty: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.written += other.written;
        self.doubled += other.doubled;
        self.unnumbered += other.unnumbered;
        self.empty += other.empty;
    }
}

/// The account of one chunk of one partition.
#[derive(Debug, Default)]
pub struct Account {
    counts: Counts,
    sources: Vec<(SourceId, Seen)>,
    places: HashMap<SourceId, usize>,
    /// Where the latest line's source is in `sources`.
    latest: usize,
}

#[derive(Debug)]
struct Seen {
    highest: Option<u64>,
    numbers: IntervalSet,
}

impl Account {
    /// Whether a line is to be written; if it is not, it is counted as doubled.
    ///
    /// `before` is what earlier chunks of the partition hold.
    pub fn admit(&mut self, source: SourceId, sequence: u64, before: &Highest) -> bool {
        if self.sources.get(self.latest).is_none_or(|(id, _)| *id != source) {
            self.latest = *self.places.entry(source).or_insert_with(|| {
                let seen = Seen { highest: before.get(&source).copied(), numbers: IntervalSet::default() };
                self.sources.push((source, seen));
                self.sources.len() - 1
            });
        }
        let seen = &mut self.sources[self.latest].1;
        if seen.highest.is_some_and(|highest| sequence <= highest) {
            self.counts.doubled += 1;
            return false;
        }
        seen.highest = Some(sequence);
        seen.numbers.insert(sequence);
        self.counts.written += 1;
        true
    }

    /// Counts a line that is written without a number.
    pub fn admit_unnumbered(&mut self) {
        self.counts.written += 1;
        self.counts.unnumbered += 1;
    }

    /// Counts a message without a payload.
    pub fn skip_empty(&mut self) {
        self.counts.empty += 1;
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Passes the highest numbers on to the partition, once the chunk is published.
    pub fn raise(&self, highest: &mut Highest) {
        for (source, seen) in &self.sources {
            if let Some(number) = seen.highest {
                highest.insert(*source, number);
            }
        }
    }
}

/// The account of a table: all that this process has published.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// What became of the messages.
    pub counts: Counts,
    /// Offsets that were never read, because Kafka had deleted them or because they hold no messages.
    pub skipped_offsets: u64,
    /// Partitions whose committed offset was outside of what Kafka had.
    pub out_of_range: u64,
    /// Numbers that are in the files twice: from different partitions, where the highest number does not tell.
    pub overlapping: u64,
    numbers: HashMap<SourceId, IntervalSet>,
}

impl Totals {
    /// Adds a published chunk's account.
    pub fn add(&mut self, account: &Account) {
        self.counts += account.counts;
        for (source, seen) in &account.sources {
            self.overlapping += self.numbers.entry(*source).or_default().union(&seen.numbers);
        }
    }

    /// Different numbers, over all sources.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.numbers.values().map(IntervalSet::distinct).fold(0, u64::saturating_add)
    }

    /// Numbers between the lowest and the highest of a source that this process did not write, over all sources.
    ///
    /// Other members of the group may have.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.numbers.values().map(IntervalSet::missing).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line<'a>(host: &'a str, boot: Boot, stream: &'a str) -> Numbered<'a> {
        Numbered { host: host.as_bytes(), boot, stream: stream.as_bytes(), sequence: 0 }
    }

    #[test]
    fn a_source_is_host_boot_and_stream() {
        let (first, second) = (Boot::begin(), Boot::begin());
        let mut sources = Sources::default();
        let lines = [line("a", first, "s"), line("b", first, "s"), line("a", first, "t"), line("a", second, "s")];
        let ids: Vec<_> = lines.iter().map(|line| sources.of(line)).collect();
        assert_eq!(ids, [SourceId(0), SourceId(1), SourceId(2), SourceId(3)]);
        for (line, id) in lines.iter().zip(ids).rev() {
            assert_eq!(sources.of(line), id);
            assert_eq!(sources.of(line), id);
        }
    }

    #[test]
    fn what_a_discarded_chunk_saw_comes_again() {
        let source = SourceId(0);
        let mut highest = Highest::new();
        let mut published = Account::default();
        assert!((0..10).all(|number| published.admit(source, number, &highest)));
        published.raise(&mut highest);

        let mut discarded = Account::default();
        assert!((10..20).all(|number| discarded.admit(source, number, &highest)));
        drop(discarded);

        let mut again = Account::default();
        assert!((0..10).all(|number| !again.admit(source, number, &highest)));
        assert!((10..20).all(|number| again.admit(source, number, &highest)));
        assert_eq!(again.counts(), Counts { written: 10, doubled: 10, ..Counts::default() });
    }

    #[test]
    fn totals_span_partitions() {
        let mut totals = Totals::default();
        let (mut left, mut right) = (Account::default(), Account::default());
        for number in (0..512).chain(1_024..1_536) {
            left.admit(SourceId(0), number, &Highest::new());
        }
        for number in 512..1_000 {
            right.admit(SourceId(0), number, &Highest::new());
        }
        right.admit(SourceId(1), 7, &Highest::new());
        right.admit_unnumbered();
        totals.add(&left);
        assert_eq!(totals.missing(), 512);
        totals.add(&right);
        assert_eq!((totals.distinct(), totals.missing(), totals.overlapping), (1_024 + 488 + 1, 24, 0));
        assert_eq!(totals.counts, Counts { written: 1_024 + 488 + 2, unnumbered: 1, ..Counts::default() });
        totals.add(&left);
        assert_eq!(totals.overlapping, 1_024);
    }

    proptest! {
        /// Whatever comes again and however chunks are cut: each number is admitted once, and none is lost, as long as a
        /// second copy comes behind the first.
        #[test]
        fn each_number_is_admitted_once(
            resends in proptest::collection::vec((0..200_u64, 1..50_u64), 0..8),
            cuts in proptest::collection::vec(1..60_usize, 1..20),
        ) {
            let mut sent = Vec::new();
            let mut next = 0;
            for (position, length) in resends {
                // A restarted producer begins again somewhere below its end and goes beyond it.
                let from = position.min(next);
                sent.extend(from..from + length + 10);
                next = next.max(from + length + 10);
            }
            let mut highest = Highest::new();
            let mut totals = Totals::default();
            let (mut rest, mut cut) = (&sent[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let length = rest.len().min(*cut.next().unwrap());
                let mut account = Account::default();
                for &number in &rest[..length] {
                    account.admit(SourceId(0), number, &highest);
                }
                account.raise(&mut highest);
                totals.add(&account);
                rest = &rest[length..];
            }
            prop_assert_eq!(totals.counts.written, next);
            prop_assert_eq!(totals.counts.doubled, sent.len() as u64 - next);
            prop_assert_eq!((totals.distinct(), totals.missing(), totals.overlapping), (next, 0, 0));
        }
    }
}
