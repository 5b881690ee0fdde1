//! ZooKeeper: where it is, and sessions with it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use std::{fmt, io};

use serde::Deserialize;
use tokio::runtime;
use zookeeper_client::{Acls, Client, CreateMode, Error, OneshotWatcher};

use crate::config::Property;

/// A session that ZooKeeper has not heard of for so long is over.
pub(crate) const SESSION: Duration = Duration::from_secs(10);

/// `host:port,…/chroot`: the servers of an ensemble, and the path that everything is below. Port 2181 may be left out.
///
/// Source: the ZooKeeper Programmer's Guide, "ZooKeeper Sessions".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ConnectString(String);

impl TryFrom<String> for ConnectString {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (servers, chroot) = match text.find('/') {
            Some(slash) => text.split_at(slash),
            None => (text.as_str(), ""),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let is_host = |host: &str| match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
            None => !host.is_empty() && host.bytes().all(is_name),
        };
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        let wrong = servers.split(',').find(|server| match server.rsplit_once(':') {
            Some((host, port)) if !server.ends_with(']') => !is_host(host) || !is_port(port),
            _ => !is_host(server),
        });
        if let Some(wrong) = wrong {
            return Err(format!("`{wrong}` is no ZooKeeper server, expected \"host:port,host:port/chroot\""));
        }
        // As ZooKeeper's own rule for paths.
        if !chroot.is_empty()
            && chroot[1..].split('/').any(|part| matches!(part, "" | "." | "..") || part.chars().any(char::is_control))
        {
            return Err(format!("`{chroot}` is no ZooKeeper path, expected one such as \"/kafka/eqiad\""));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for ConnectString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ConnectString {
    /// Begins a session: with any of the servers, in any order. Gives up when none has answered for a session's length. Runs on a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error`]: no server answers, or one does not want us.
    pub async fn connect(&self) -> Result<Client, Error> {
        Client::connector().with_session_timeout(SESSION).connect(&self.0).await
    }

    /// As [`connect`](Self::connect), to write: as the user that `digest`, `user:password`, names, and with the path made if it is
    /// not there.
    ///
    /// # Errors
    ///
    /// [`Error`]: likewise, or the path cannot be made.
    pub(crate) async fn connect_to_write(&self, digest: Option<&Property>) -> Result<Client, Error> {
        let mut connector = Client::connector().with_session_timeout(SESSION);
        if let Some(digest) = digest {
            connector = connector.with_auth("digest", digest.as_str().as_bytes());
        }
        let (servers, chroot) = self.0.split_at(self.0.find('/').unwrap_or(self.0.len()));
        let client = connector.connect(servers).await?;
        if chroot.is_empty() {
            return Ok(client);
        }
        // What is above may be others', too.
        client.mkdir(chroot, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?;
        client.chroot(chroot).map_err(|_| Error::UnexpectedError(format!("{chroot} is no path")))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_chroots_are_checked() {
        for text in ["zk1", "zk1:2181", "zk1:2181,zk2:2182/kafka/eqiad", "[::1]:2181,10.0.0.1", "[::1]/k"] {
            assert!(ConnectString::try_from(text.to_owned()).is_ok(), "{text}");
        }
        for (text, what) in [
            ("", "`` is no ZooKeeper server"),
            ("zk1:0", "`zk1:0`"),
            ("zk1:x/k", "`zk1:x`"),
            ("zk1,,zk2", "`` is no"),
            ("::1:2181", "`::1:2181`"),
            ("tcp://zk1", "`tcp:` is no"),
            ("zk1/", "`/` is no ZooKeeper path"),
            ("zk1/a//b", "`/a//b`"),
            ("zk1/a/", "`/a/`"),
        ] {
            let error = ConnectString::try_from(text.to_owned()).expect_err(text);
            assert!(error.contains(what), "{error}");
        }
    }
}
