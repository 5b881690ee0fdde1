//! ZooKeeper: where it is, how it is spoken to, and sessions with it.

mod connect_string;
mod ensemble;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime;
use zookeeper_client::{Error, OneshotWatcher};

pub use self::connect_string::ConnectString;
pub use self::ensemble::Ensemble;

/// A session that ZooKeeper has not heard of for so long is over.
pub(crate) const SESSION: Duration = Duration::from_secs(10);

/// All of the client's work is done on the thread that calls, while it waits for something; its sockets are watched by one more.
pub(crate) fn runtime() -> io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_time().build()
}

/// Watches for changes of what was read.
#[derive(Default)]
pub(crate) struct Watches(Vec<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Watches {
    pub(crate) fn add(&mut self, watch: OneshotWatcher) {
        self.0.push(Box::pin(async {
            watch.changed().await;
        }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for the first of them; without one, for ever. Given up, it can be waited for again.
    pub(crate) async fn any(&mut self) {
        poll_fn(|context| {
            let is_ready = self.0.iter_mut().any(|event| event.as_mut().poll(context).is_ready());
            if is_ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// What is wrong, for people.
pub(crate) fn describe(error: &Error, path: &str) -> String {
    match error {
        Error::Timeout | Error::NoHosts => "no ZooKeeper server answers".to_owned(),
        Error::NoAuth | Error::AuthFailed => format!("ZooKeeper does not allow this client to use {path}"),
        other => format!("ZooKeeper: {other}"),
    }
}
