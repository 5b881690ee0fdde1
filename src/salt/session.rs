//! A session with a real ZooKeeper.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use zookeeper_client::{Acls, Client, CreateMode, Error};

use super::member::EPOCHS;
use super::space::{Life, Node, Space, Trouble};
use super::table::since_epoch;
use crate::config::Property;
use crate::zookeeper::{Ensemble, Watches, describe, runtime};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How long the end of a session may take to reach ZooKeeper.
const GOODBYE: Duration = Duration::from_millis(100);

/// A thread's access to ZooKeeper. Each call blocks until there is an answer, or none in time. The session lives only while
/// one of them runs: in between, no time must pass.
pub(super) struct Session {
    runtime: Runtime,
    client: Client,
    acls: Acls<'static>,
    watches: Watches,
    /// See [`SaltCounters`](crate::counters::SaltCounters).
    clock_skew: Duration,
}

impl Session {
    /// Begins a session, unless `stop` comes first; then there is none.
    pub(super) fn begin(
        zookeeper: &Ensemble,
        digest: Option<&Property>,
        stop: &mut oneshot::Receiver<()>,
    ) -> Result<Option<Self>, Trouble> {
        let runtime = runtime().map_err(|error| Trouble(error.to_string()))?;
        // With a user, what is written is that user's alone.
        let acls = if digest.is_some() || zookeeper.has_user() { Acls::creator_all() } else { Acls::anyone_all() };
        let connecting = async {
            let client = zookeeper.connect_to_write(digest).await?;
            match client.create(EPOCHS, b"", &CreateMode::Persistent.with_acls(acls)).await {
                Ok(_) | Err(Error::NodeExists) => Ok(client),
                Err(error) => Err(error),
            }
        };
        let client = runtime.block_on(async {
            tokio::select! {
                _ = stop => Ok(None),
                client = connecting => client.map(Some),
            }
        });
        let client = client.map_err(|error| trouble(&error))?;
        Ok(client.map(|client| Self { runtime, client, acls, watches: Watches::default(), clock_skew: Duration::ZERO }))
    }

    /// Waits until something that was read has changed, for as long as `limit`, or until `stop`. Whether it has changed.
    pub(super) fn wait(&mut self, limit: Duration, stop: &mut oneshot::Receiver<()>) -> bool {
        let watches = &mut self.watches;
        self.runtime.block_on(async {
            tokio::select! {
                _ = stop => false,
                changed = timeout(limit, watches.any()) => changed.is_ok(),
            }
        })
    }

    /// Forgets what was watched, before everything is read again.
    pub(super) fn forget(&mut self) {
        self.watches = Watches::default();
    }

    /// Ends the session, so that its nodes go at once, and not when ZooKeeper has missed it for long enough.
    pub(super) fn end(self) {
        let Self { runtime, client, watches, .. } = self;
        drop((client, watches));
        // Made inside the runtime, or there is no clock for it.
        runtime.block_on(async { sleep(GOODBYE).await });
    }

    /// By how much, at least, this machine's clock and ZooKeeper's were apart when something was last written.
    pub(super) fn clock_skew(&self) -> Duration {
        self.clock_skew
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.runtime.block_on(async { timeout(LIMIT, work).await.unwrap_or(Err(Error::Timeout)) })
    }
}

impl Space for Session {
    fn read(&mut self, path: &str, watched: bool) -> Result<Option<Node>, Trouble> {
        let client = &self.client;
        let read = self.run(async {
            if !watched {
                let (data, stat) = client.get_data(path).await?;
                return Ok((Some((data, stat)), None));
            }
            match client.get_and_watch_data(path).await {
                Ok((data, stat, watch)) => Ok((Some((data, stat)), Some(watch))),
                Err(Error::NoNode) => {
                    let (_, watch) = client.check_and_watch_stat(path).await?;
                    Ok((None, Some(watch)))
                }
                Err(error) => Err(error),
            }
        });
        let (read, watch) = match read {
            Err(Error::NoNode) => return Ok(None),
            read => read.map_err(|error| trouble(&error))?,
        };
        watch.into_iter().for_each(|watch| self.watches.add(watch));
        Ok(read.map(|(data, stat)| Node { data, version: stat.version }))
    }

    fn children(&mut self, path: &str, watched: bool) -> Result<Vec<String>, Trouble> {
        let client = &self.client;
        let listed = self.run(async {
            if !watched {
                return Ok((client.list_children(path).await?, None));
            }
            let (names, watch) = client.list_and_watch_children(path).await?;
            Ok((names, Some(watch)))
        });
        let (mut names, watch) = match listed {
            Err(Error::NoNode) => return Ok(Vec::new()),
            listed => listed.map_err(|error| trouble(&error))?,
        };
        watch.into_iter().for_each(|watch| self.watches.add(watch));
        names.sort_unstable();
        Ok(names)
    }

    fn create(&mut self, path: &str, data: &str, life: Life) -> Result<bool, Trouble> {
        let mode = match life {
            Life::Persistent => CreateMode::Persistent,
            Life::Ephemeral => CreateMode::Ephemeral,
        };
        let options = mode.with_acls(self.acls);
        let before = since_epoch();
        match self.run(self.client.create(path, data.as_bytes(), &options)) {
            Ok((stat, _)) => {
                let theirs = Duration::from_millis(u64::try_from(stat.ctime).unwrap_or(0));
                self.clock_skew = distance(theirs, before, since_epoch());
                Ok(true)
            }
            Err(Error::NodeExists | Error::NoNode) => Ok(false),
            Err(error) => Err(trouble(&error)),
        }
    }

    fn write(&mut self, path: &str, data: &str, version: i32) -> Result<bool, Trouble> {
        match self.run(self.client.set_data(path, data.as_bytes(), Some(version))) {
            Ok(_) => Ok(true),
            Err(Error::BadVersion | Error::NoNode) => Ok(false),
            Err(error) => Err(trouble(&error)),
        }
    }

    fn delete(&mut self, path: &str) -> Result<(), Trouble> {
        match self.run(self.client.delete(path, None)) {
            Ok(()) | Err(Error::NoNode | Error::NotEmpty) => Ok(()),
            Err(error) => Err(trouble(&error)),
        }
    }
}

/// How far a time is from a span of time; nothing if it is within.
fn distance(time: Duration, from: Duration, to: Duration) -> Duration {
    // ZooKeeper's times are whole milliseconds, rounded down.
    from.saturating_sub(time + Duration::from_millis(1)).max(time.saturating_sub(to))
}

fn trouble(error: &Error) -> Trouble {
    Trouble(describe(error, "the salt's path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_apart_by_what_the_way_does_not_explain() {
        let at = Duration::from_millis;
        for (theirs, apart) in [(999, 0), (1_000, 0), (1_030, 0), (1_031, 1), (500, 499), (9_030, 8_000)] {
            assert_eq!(distance(at(theirs), at(1_000), at(1_030)), at(apart), "{theirs}");
        }
    }
}
