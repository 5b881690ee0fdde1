//! The thread that watches ZooKeeper.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use zookeeper_client::{Client, Error};

use super::{Broker, Discovery, RegistrationError};
use crate::counters::Counters;
use crate::zookeeper::{Watches, describe, runtime};

/// The brokers' registrations.
const BROKERS: &str = "/brokers/ids";

/// Brokers that start together are looked at together.
const SETTLE: Duration = Duration::from_millis(200);

/// Everything is looked at again now and then, whether or not a watch has told of it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// After trouble, how long until the next attempt: more each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How often the same trouble is told of.
const SAY: Duration = Duration::from_secs(60);

/// How long the thread rests after a panic.
const REST: Duration = Duration::from_secs(1);

/// Where the brokers are, as far as is known.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Grows with each change.
    version: AtomicU64,
    current: Mutex<Vec<String>>,
}

impl Addresses {
    /// The addresses, if they have changed since `version`, which is brought up to date. Cheap if not.
    pub fn changed(&self, version: &mut u64) -> Option<Vec<String>> {
        if self.version.load(Ordering::Acquire) == *version {
            return None;
        }
        let current = self.current();
        *version = self.version.load(Ordering::Acquire);
        Some(current.clone())
    }

    pub(crate) fn set(&self, addresses: Vec<String>) {
        let mut current = self.current();
        // Without a single address there is nobody to ask for better ones: those of before may come back.
        if *current != addresses && !addresses.is_empty() {
            *current = addresses;
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    fn current(&self) -> MutexGuard<'_, Vec<String>> {
        self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The watching thread. Dropped, it ends, and its session with it.
#[derive(Debug)]
pub struct Watch {
    addresses: Arc<Addresses>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts the thread. Whether there is a ZooKeeper shows later.
    ///
    /// # Errors
    ///
    /// When the system has no thread to give.
    pub fn start(discovery: Discovery, counters: Arc<Counters>) -> io::Result<Self> {
        let addresses = Arc::new(Addresses::default());
        let (stop, mut stopped) = oneshot::channel();
        let mut watcher = Watcher { discovery, addresses: Arc::clone(&addresses), trouble: None };
        let body = move || {
            while catch_unwind(AssertUnwindSafe(|| watcher.run(&mut stopped))).is_err() {
                counters.panics.add(1);
                tracing::error!("a defect in the thread that watches ZooKeeper was caught; it goes on");
                thread::sleep(REST);
            }
        };
        let thread = thread::Builder::new().name("kafkalog-zk".into()).spawn(body)?;
        Ok(Self { addresses, stop: Some(stop), thread: Some(thread) })
    }

    /// What it finds.
    #[must_use]
    pub fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The other side has gone only if the thread has.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What one look at ZooKeeper found.
pub type Found = Vec<Result<Broker, RegistrationError>>;

/// Looks once, for at most as long as `limit`. Blocks.
///
/// # Errors
///
/// In words: no server answers, or one does not let us look.
pub fn look(discovery: &Discovery, limit: Duration) -> Result<Found, String> {
    let looking = async {
        let client = discovery.zookeeper.connect().await?;
        Ok(brokers(&client).await?.0)
    };
    let runtime = runtime().map_err(|error| error.to_string())?;
    match runtime.block_on(async { timeout(limit, looking).await }) {
        Ok(result) => result.map_err(|error: Error| describe(&error, BROKERS)),
        Err(_) => Err(describe(&Error::Timeout, BROKERS)),
    }
}

struct Watcher {
    discovery: Discovery,
    addresses: Arc<Addresses>,
    /// What was told of last, and when.
    trouble: Option<(String, Instant)>,
}

impl Watcher {
    fn run(&mut self, stopped: &mut oneshot::Receiver<()>) {
        match runtime() {
            Ok(runtime) => runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = self.watch() => {}
                }
            }),
            Err(error) => tracing::error!(%error, "ZooKeeper is not watched: the runtime does not start"),
        }
    }

    /// Sessions, one after the other, without an end.
    async fn watch(&mut self) {
        let mut pause = RETRY.0;
        loop {
            let began = Instant::now();
            let Err(error) = self.session().await;
            self.say(describe(&error, BROKERS));
            if began.elapsed() > LOOK_AGAIN {
                pause = RETRY.0;
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// A session, until something is wrong with it.
    async fn session(&mut self) -> Result<std::convert::Infallible, Error> {
        let client = self.discovery.zookeeper.connect().await?;
        loop {
            let (found, mut watches) = timeout(LOOK_AGAIN, brokers(&client)).await.map_err(|_| Error::Timeout)??;
            self.publish(found);
            // Whatever comes first: a change, or that it is time.
            let limit = if watches.is_empty() { RETRY.1 } else { LOOK_AGAIN };
            let _ = timeout(limit, watches.any()).await;
            sleep(SETTLE).await;
        }
    }

    fn publish(&mut self, found: Found) {
        let choice = &self.discovery.choice;
        let mut addresses = Vec::new();
        let mut trouble = None;
        for broker in &found {
            match broker {
                Ok(broker) => match broker.endpoint(choice) {
                    Some(endpoint) => addresses.push(endpoint.to_string()),
                    None => trouble = Some(format!("broker {} has no endpoint for {choice}", broker.id)),
                },
                Err(error) => trouble = Some(error.to_string()),
            }
        }
        if found.is_empty() {
            trouble = Some(format!("there is no broker below {BROKERS}"));
        }
        match trouble {
            Some(trouble) => self.say(trouble),
            None => self.trouble = None,
        }
        let before = self.addresses.current().clone();
        if before != addresses {
            tracing::info!(brokers = addresses.join(","), "ZooKeeper tells of Kafka's brokers");
        }
        self.addresses.set(addresses);
    }

    fn say(&mut self, trouble: String) {
        let is_news = self.trouble.as_ref().is_none_or(|(told, at)| *told != trouble || at.elapsed() >= SAY);
        if is_news {
            let zookeeper = &self.discovery.zookeeper;
            tracing::warn!(%zookeeper, "finding Kafka's brokers: {trouble}; going on with those that are known");
            self.trouble = Some((trouble, Instant::now()));
        }
    }
}

/// The brokers that are registered, in the order of their ids, and watches for everything that may change of them.
async fn brokers(client: &Client) -> Result<(Found, Watches), Error> {
    let (mut ids, watch) = match client.list_and_watch_children(BROKERS).await {
        Ok((ids, watch)) => (ids, watch),
        // No broker has ever started. A watch for the node would need those above it.
        Err(Error::NoNode) => return Ok((Vec::new(), Watches::default())),
        Err(error) => return Err(error),
    };
    ids.sort_by_key(|id| (id.len(), id.clone()));
    let mut watches = Watches::default();
    watches.add(watch);
    let mut found = Vec::new();
    for id in ids {
        match client.get_and_watch_data(&format!("{BROKERS}/{id}")).await {
            Ok((data, _, watch)) => {
                watches.add(watch);
                found.push(Broker::parse(&id, &data));
            }
            // It has gone meanwhile, which the first watch tells.
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((found, watches))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_once_and_never_none() {
        let addresses = Addresses::default();
        let mut version = 0;
        assert_eq!(addresses.changed(&mut version), None);
        addresses.set(vec!["a:1".to_owned()]);
        assert_eq!(addresses.changed(&mut version), Some(vec!["a:1".to_owned()]));
        addresses.set(vec!["a:1".to_owned()]);
        addresses.set(Vec::new());
        assert_eq!(addresses.changed(&mut version), None);
        addresses.set(vec!["b:1".to_owned()]);
        assert_eq!(addresses.changed(&mut version), Some(vec!["b:1".to_owned()]));
    }
}
