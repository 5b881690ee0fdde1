//! Ports of 127.0.0.1 for servers that are ended and started again.

use std::collections::{BTreeSet, hash_map::RandomState};
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;

/// The lowest port that is tried.
const LOWEST: u16 = 12_000;

/// Where Linux tells which ports outgoing connections get: the first and the last.
const OUTGOING: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// How many ports are tried, and how often servers are started on other ones.
const ATTEMPTS: u32 = 4;

/// What is said of a port that another program has, by the C library and by Java.
const TAKEN: &str = "Address already in use";

/// Given to somebody here. Who ended a server wants its port again.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that was free a moment ago, and is nobody else's here.
///
/// If it can be, it is none that the system gives to outgoing connections: while a broker is down, its clients' attempts to
/// reach it would take its port sooner or later.
pub(super) fn free() -> anyhow::Result<u16> {
    let outgoing = fs::read_to_string(OUTGOING).unwrap_or_default();
    let first = outgoing.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768_u16);
    for _ in 0..ATTEMPTS {
        // As many as there can be servers, at least.
        let wanted = match first.checked_sub(LOWEST) {
            Some(count @ 1_000..) => LOWEST + (RandomState::new().build_hasher().finish() % u64::from(count)) as u16,
            _ => 0,
        };
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)) else { continue };
        let port = listener.local_addr().context("asking for the port")?.port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return Ok(port);
        }
    }
    anyhow::bail!("{ATTEMPTS} ports of 127.0.0.1 were taken")
}

/// Starts servers on ports that were free, and once more if somebody else was faster.
pub(super) fn retried<T>(mut start: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    for _ in 1..ATTEMPTS {
        match start() {
            Err(error) if format!("{error:#}").contains(TAKEN) => (),
            result => return result,
        }
    }
    start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_given_once() {
        let ports: BTreeSet<_> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn who_was_late_gets_another_port() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut ports = vec![free().unwrap(), taken.local_addr().unwrap().port()];
        let mut start = || Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, ports.pop().context("no port")?))?);
        retried(&mut start).unwrap();
        assert_eq!(retried(&mut start).unwrap_err().to_string(), "no port");
    }
}
