//! Whom the client may ask for the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::discovery::Addresses;

/// A client keeps every address that it is told, with a thread for it. With so many that are no longer true it is replaced.
const STALE: usize = 64;

/// The addresses of the configuration, and those that ZooKeeper tells of.
#[derive(Debug)]
pub(super) struct Brokers {
    bootstrap: Vec<String>,
    addresses: Arc<Addresses>,
    /// Of the addresses that were seen last.
    version: u64,
    current: Vec<String>,
    /// What the client has been told.
    told: BTreeSet<String>,
}

impl Brokers {
    pub(super) fn new(bootstrap: Vec<String>, addresses: Arc<Addresses>) -> Self {
        let told = bootstrap.iter().cloned().collect();
        Self { bootstrap, addresses, version: 0, current: Vec::new(), told }
    }

    /// What the client is to be told, separated by commas, if there is something.
    pub(super) fn news(&mut self) -> Option<String> {
        self.current = self.addresses.changed(&mut self.version)?;
        let told = &mut self.told;
        let news: Vec<&str> =
            self.current.iter().filter(|address| told.insert((*address).clone())).map(String::as_str).collect();
        (!news.is_empty()).then(|| news.join(","))
    }

    /// Whether most of what the client knows is no longer true.
    pub(super) fn are_stale(&self) -> bool {
        self.told.len() > self.bootstrap.len() + self.current.len() + STALE
    }

    /// What a new client is told: the value of `bootstrap.servers`, if there is one.
    pub(super) fn for_a_new_client(&mut self) -> Option<String> {
        self.told = self.bootstrap.iter().chain(&self.current).cloned().collect();
        let all: Vec<&str> = self.told.iter().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_what_is_new_and_forgets_with_the_next() {
        let addresses = Arc::new(Addresses::default());
        let mut brokers = Brokers::new(vec!["a:1".to_owned()], Arc::clone(&addresses));
        assert_eq!(brokers.news(), None);
        addresses.set(vec!["a:1".to_owned(), "b:1".to_owned()]);
        assert_eq!(brokers.news().as_deref(), Some("b:1"));
        assert_eq!(brokers.news(), None);
        for number in 0..=STALE {
            assert!(!brokers.are_stale());
            addresses.set(vec![format!("c:{number}")]);
            assert!(brokers.news().is_some());
        }
        assert!(brokers.are_stale());
        assert_eq!(brokers.for_a_new_client(), Some(format!("a:1,c:{STALE}")));
        assert!(!brokers.are_stale());
    }
}
