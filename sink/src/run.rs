//! The loop: poll, write, close what is due, commit.
//!
//! One thread does it all. librdkafka fetches ahead in its own threads, so that the loop finds messages in memory; while it
//! waits for a disk or for a commit's answer, the next ones arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use thiserror::Error;
use tracing::{info, warn};

use crate::accounting::Totals;
use crate::config::Config;
use crate::consumer::{Rebalance, Subscription};
use crate::partition::Partition;
use crate::path;
use crate::start::Start;
use crate::store::{self, Store, StoreError};
use crate::work::{self, Work};

/// How long a poll waits for a message: how late a file may be closed, or a signal noticed.
const TICK: Duration = Duration::from_millis(100);

/// Messages between two looks at the clock.
const BATCH: usize = 1_000;

/// How long until offsets that Kafka did not take are committed again.
const COMMIT_AGAIN: Duration = Duration::from_secs(10);

/// The sink cannot go on. What was not committed is read again by the next one.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// librdkafka refused something or gave up.
    #[error("{doing}: {source}")]
    Kafka {
        /// What it was asked to do.
        doing: &'static str,
        /// What it said.
        source: KafkaError,
    },
}

fn kafka(doing: &'static str) -> impl FnOnce(KafkaError) -> SinkError {
    move |source| SinkError::Kafka { doing, source }
}

/// A running sink: one member of the group.
#[derive(Debug)]
pub struct Sink {
    subscription: Subscription,
    work: Work,
}

/// What was done, by table, in the configuration's order.
pub type Outcome = Vec<(String, Totals)>;

impl Sink {
    /// A sink with the store that the configuration names. It does not connect before it runs.
    ///
    /// # Errors
    ///
    /// See [`Self::with_store`].
    pub fn new(config: &Config) -> Result<Self, SinkError> {
        Self::with_store(config, store::open(&config.store))
    }

    /// A sink with this store.
    ///
    /// # Errors
    ///
    /// [`SinkError`] when the tables' directories cannot be made or librdkafka refuses the configuration.
    pub fn with_store(config: &Config, store: Arc<dyn Store>) -> Result<Self, SinkError> {
        let work = Work::new(config, store);
        for (table, _) in &work.tables {
            work.store.make_directories(&path::temporary_directory(table.name.get_ref()))?;
        }
        let subscription =
            Subscription::start(&config.kafka, config.topics()).map_err(kafka("joining the consumer group"))?;
        Ok(Self { subscription, work })
    }

    /// Runs until `stop` is set; then publishes and commits what is open.
    ///
    /// # Errors
    ///
    /// [`SinkError`] as soon as it cannot go on; nothing more is published or committed then.
    pub fn run(mut self, stop: &AtomicBool) -> Result<Outcome, SinkError> {
        while !stop.load(Ordering::Acquire) {
            self.take_batch()?;
            while let Some(rebalance) = self.subscription.rebalance() {
                if !self.answer(rebalance)? {
                    break;
                }
            }
            let now = Instant::now();
            self.close(now, |partition| partition.is_due(now))?;
        }
        self.give_up()?;
        for (table, totals) in &self.work.tables {
            work::report(table, totals, "stopped");
        }
        Ok(self.work.tables.into_iter().map(|(table, totals)| (table.name.get_ref().clone(), totals)).collect())
    }

    /// Takes the messages that are there, until one makes a chunk full or the group has a question.
    fn take_batch(&mut self) -> Result<(), SinkError> {
        let mut timeout = TICK;
        let mut now = None;
        for _ in 0..BATCH {
            let Some(message) = self.subscription.poll(timeout).map_err(kafka("reading"))? else { break };
            timeout = Duration::ZERO;
            if self.work.take(&message, *now.get_or_insert_with(Instant::now))? {
                break;
            }
        }
        Ok(())
    }

    /// Publishes the chunks of some partitions and commits their offsets.
    fn close(&mut self, now: Instant, which: impl Fn(&Partition) -> bool) -> Result<(), SinkError> {
        let Self { subscription, work } = self;
        if work.assigned.iter_mut().any(|partition| which(partition)) {
            if subscription.is_lost() {
                return Ok(()); // The revocation is on its way.
            }
            work.publish(which)?;
            if !work.uncommitted.is_empty() {
                work.commit_at = Some(now);
            }
        }
        if work.commit_at.is_some_and(|at| at <= now) {
            work.commit_at = work.commit(subscription).then_some(now + COMMIT_AGAIN);
        }
        Ok(())
    }

    /// Publishes and commits everything, if it is still ours, and forgets the partitions.
    fn give_up(&mut self) -> Result<(), SinkError> {
        if self.subscription.is_lost() {
            warn!("the partitions were given to others: what is open is discarded, they read it again");
            for partition in self.work.assigned.iter_mut() {
                partition.discard(&*self.work.store)?;
            }
        } else {
            // What Kafka has refused before is tried once more.
            self.work.commit_at = self.work.commit_at.map(|_| Instant::now());
            self.close(Instant::now(), Partition::is_open)?;
        }
        self.work.forget();
        Ok(())
    }

    /// Answers the group; `false` if Kafka does not say enough for that now, so that it has to be tried again.
    fn answer(&mut self, rebalance: Rebalance) -> Result<bool, SinkError> {
        match rebalance {
            Rebalance::Revoke => {
                info!("giving up all partitions");
                self.give_up()?;
                self.subscription.release().map_err(kafka("giving up the partitions"))?;
            }
            Rebalance::Assign(partitions) => {
                let ends = self.work.recover(&partitions)?;
                match Start::find(&self.subscription, &partitions, &ends) {
                    Ok(starts) => {
                        self.subscription
                            .assign(starts.iter().map(|(partition, start)| (partition, start.offset())))
                            .map_err(kafka("taking the assigned partitions"))?;
                        self.work.begin(starts, Instant::now());
                    }
                    Err(error) => {
                        if let Some(suppressed) = self.work.repeats.admit("starts", Instant::now()) {
                            warn!(%error, suppressed, "Kafka does not say where the assigned partitions begin; asking again");
                        }
                        self.subscription.defer(Rebalance::Assign(partitions));
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }
}
