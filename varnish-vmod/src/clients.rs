//! varnishd's connections to clients, when the process ends.
//!
//! By then the listening sockets are closed, but workers go on serving whatever comes over connections that are open, until
//! the process is gone. Under load there is no moment at which all is acknowledged, and whatever is answered last is lost:
//! a few thousand requests after ten seconds of waiting in vain, measured. So connections are shut for reading: requests
//! that are being served come to their end, those in the receive queue are served too, and then the client sees an orderly
//! end of the connection instead of a reset.
//!
//! A client's connection is told from others (backends, Kafka, the CLI) by its own address: it is that of a socket which
//! listened when a VCL got warm. While the child starts, they are bound (by varnishd's manager process) but do not listen yet.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{AddressFamily, Shutdown, SocketAddrAny, SocketAddrUnix, getpeername, getsockname, shutdown};

/// How often connections are counted.
const POLL: Duration = Duration::from_millis(5);

/// Where a socket is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The port, whatever the address: it is often the wildcard's.
    Port(u16),
    /// The path of a unix socket, or its abstract name.
    Path(PathBuf),
}

impl Bound {
    fn of(address: SocketAddrAny) -> Option<Self> {
        match address.address_family() {
            AddressFamily::INET | AddressFamily::INET6 => {
                let address = std::net::SocketAddr::try_from(address).ok()?;
                (address.port() != 0).then(|| Self::Port(address.port()))
            }
            AddressFamily::UNIX => {
                let address = SocketAddrUnix::try_from(address).ok()?;
                let path = address.path_bytes().or_else(|| address.abstract_name())?;
                let path = std::ffi::OsStr::new(std::str::from_utf8(path).ok()?);
                (!path.is_empty()).then(|| Self::Path(path.into()))
            }
            _ => None,
        }
    }
}

/// Where this process takes connections, or is about to. Must first be asked before an engine runs: a socket that is being
/// connected to Kafka looks like one that is about to listen.
pub(crate) fn listening(known: &mut Vec<Bound>) {
    let (mut listening, mut unconnected) = (Vec::new(), Vec::new());
    for_each_socket(|socket, bound| {
        if socket_acceptconn(socket).unwrap_or(false) {
            listening.push(bound);
        } else if getpeername(socket).is_err() {
            unconnected.push(bound);
        }
    });
    if !listening.is_empty() {
        *known = listening;
    } else if known.is_empty() {
        *known = unconnected;
    }
}

/// Has clients' connections end behind the requests that have been sent, and waits until they are closed, at the most for
/// `limit`. A worker closes a connection after it has logged what it answered over it.
///
/// Returns how many connections are still open: those with answers that take longer.
pub(crate) fn say_goodbye(listening: &[Bound], limit: Duration) -> usize {
    let deadline = Instant::now() + limit;
    for_each_client(listening, |socket| {
        // One whose client has gone cannot be shut, and need not be.
        let _ = shutdown(socket, Shutdown::Read);
    });
    loop {
        let mut open = 0;
        for_each_client(listening, |_| open += 1);
        if open == 0 || Instant::now() >= deadline {
            return open;
        }
        thread::sleep(POLL);
    }
}

fn for_each_client(listening: &[Bound], mut see: impl FnMut(BorrowedFd<'_>)) {
    for_each_socket(|socket, bound| {
        // Not by whether there is a peer: a client may go before the worker has logged what it answered.
        if listening.contains(&bound) && !socket_acceptconn(socket).unwrap_or(false) {
            see(socket);
        }
    });
}

fn for_each_socket(mut see: impl FnMut(BorrowedFd<'_>, Bound)) {
    let Ok(directory) = fs::read_dir("/proc/self/fd") else { return };
    for entry in directory.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // SAFETY: the number was that of an open file a moment ago. It may have been closed and given again by another thread
        // meanwhile; nothing is done to it but asking for a socket's addresses, and shutting the reading side of what then
        // turns out to be a client's connection.
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        if let Some(bound) = getsockname(socket).ok().and_then(Bound::of) {
            see(socket, bound);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn accepted_connections_end_and_others_do_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let other = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = Bound::Port(listener.local_addr().expect("it is bound").port());
        let mut known = Vec::new();
        listening(&mut known);
        assert!(known.contains(&port));

        let mut client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        let (mut accepted, _) = listener.accept().expect("a client has connected");
        let backend = TcpStream::connect(other.local_addr().expect("it is bound")).expect("it listens");
        let (mut backend_side, _) = other.accept().expect("a client has connected");

        client.write_all(b"request").expect("it is open");
        assert_eq!(say_goodbye(std::slice::from_ref(&port), Duration::ZERO), 1);
        let mut request = [0; 7];
        accepted.read_exact(&mut request).expect("what was sent is still there");
        assert_eq!(accepted.read(&mut request).expect("an orderly end"), 0);
        accepted.write_all(b"answer").expect("answers still go out");
        client.read_exact(&mut [0; 6]).expect("and arrive");
        drop(accepted);
        assert_eq!(say_goodbye(&[port], Duration::from_secs(5)), 0);

        backend_side.write_all(b"answer").expect("it is open");
        (&backend).read_exact(&mut [0; 6]).expect("backends are left alone");
    }

    #[test]
    fn unix_sockets_are_known_by_their_path() {
        let path = std::env::temp_dir().join(format!("kafkalog-clients-{}.sock", std::process::id()));
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("the directory is writable");
        let bound = Bound::Path(path.clone());
        let mut known = Vec::new();
        listening(&mut known);
        assert!(known.contains(&bound));
        let mut client = UnixStream::connect(&path).expect("it listens");
        let (mut accepted, _) = listener.accept().expect("a client has connected");
        assert_eq!(say_goodbye(&[bound], Duration::ZERO), 1);
        assert_eq!(accepted.read(&mut [0; 1]).expect("an orderly end"), 0);
        accepted.write_all(b"answer").expect("answers still go out");
        client.read_exact(&mut [0; 6]).expect("and arrive");
        fs::remove_file(&path).expect("it was made above");
    }
}
