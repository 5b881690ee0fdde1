//! The load: requests of all kinds over keep-alive connections, each with its number in the query.
//!
//! What request `n` looks like follows from the seed and `n` alone, whatever connection it goes over.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, socket};

use crate::backend::read_headers;

/// Connections at a time.
pub const CONNECTIONS: u64 = 4;

/// Requests over a connection, before it is closed and the next one comes from another address.
const REQUESTS_A_CONNECTION: u64 = 500;

/// Clients are 127.0.0.1 to 127.0.0.9.
const CLIENTS: u64 = 9;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// How a request goes through Varnish, with `examples/demo.vcl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answered from the cache, but for the first of its page.
    Hit,
    /// Fetched: nobody has asked for the page before.
    Miss,
    /// Fetched, as it may not be cached.
    Pass,
    /// Answered by VCL.
    Synth,
    /// With a body, and passed.
    Post,
    /// Not found under its old name, so VCL starts again with the new one.
    Restart,
    /// A page made of three.
    Esi,
    /// Headers alone.
    Head,
    /// The backend has no such page.
    NotFound,
}

impl Kind {
    /// All kinds, and how many in a hundred requests each has.
    pub const SHARES: [(Self, u64); 9] = [
        (Self::Hit, 50),
        (Self::Miss, 12),
        (Self::Pass, 8),
        (Self::Synth, 6),
        (Self::Post, 6),
        (Self::Restart, 5),
        (Self::Esi, 5),
        (Self::Head, 4),
        (Self::NotFound, 4),
    ];

    /// The status that it must be answered with.
    const fn status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            _ => 200,
        }
    }

    fn pick(random: u64) -> Self {
        let mut left = random % 100;
        for (kind, share) in Self::SHARES {
            if left < share {
                return kind;
            }
            left -= share;
        }
        Self::Hit
    }
}

/// What to send, and to whom.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// varnishd.
    pub address: SocketAddrV4,
    /// The first one's number.
    pub first: u64,
    /// How many.
    pub requests: u64,
    /// Other seeds give other requests.
    pub seed: u64,
}

impl Load {
    /// Sends the requests and checks the status of each answer. `answered` counts along.
    ///
    /// Returns the numbers of the requests that were sent, in no order.
    ///
    /// # Errors
    ///
    /// At the first request that is not answered as it should be, and when `stop` is set.
    pub fn run(&self, answered: &AtomicU64, stop: &AtomicBool) -> anyhow::Result<Vec<u64>> {
        thread::scope(|scope| {
            let mut connections = Vec::new();
            for first in 0..CONNECTIONS {
                connections.push(
                    thread::Builder::new()
                        .name(format!("load {first}"))
                        .spawn_scoped(scope, move || self.connection(first, answered, stop))
                        .context("starting a thread")?,
                );
            }
            let mut sent = Vec::new();
            for connection in connections {
                match connection.join() {
                    Ok(result) => sent.extend(result?),
                    Err(_) => bail!("a thread of the load panicked"),
                }
            }
            Ok(sent)
        })
    }

    /// Every fourth request, over one connection after the other.
    fn connection(&self, first: u64, answered: &AtomicU64, stop: &AtomicBool) -> anyhow::Result<Vec<u64>> {
        let mut sent = Vec::new();
        let mut numbers =
            (self.first..self.first + self.requests).skip(first as usize).step_by(CONNECTIONS as usize).peekable();
        let mut client = first;
        while numbers.peek().is_some() {
            let mut connection = Connection::open(self.address, (client % CLIENTS) as u8 + 1)
                .with_context(|| format!("connecting to varnishd at {}", self.address))?;
            client += CONNECTIONS;
            for number in numbers.by_ref().take(REQUESTS_A_CONNECTION as usize) {
                if stop.load(Ordering::Relaxed) {
                    bail!("interrupted");
                }
                let (kind, text) = self.request(number);
                sent.push(number);
                let status = connection
                    .request(text.as_bytes(), kind == Kind::Head)
                    .with_context(|| format!("request {number}, {kind:?}"))?;
                if status != kind.status() {
                    bail!("request {number}, {kind:?}: the answer is {status}");
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(sent)
    }

    /// The request of this number.
    fn request(&self, number: u64) -> (Kind, String) {
        let random = mix(self.seed ^ mix(number));
        let kind = Kind::pick(random);
        let some = random / 100;
        let (method, path) = match kind {
            // A few pages are asked for often.
            Kind::Hit | Kind::Head => ("GET", format!("/page/{}", some % 50)),
            Kind::Miss => ("GET", format!("/page/new/{number}")),
            Kind::Pass => ("GET", format!("/private/{}", some % 1000)),
            Kind::Synth => ("GET", "/hello".to_owned()),
            Kind::Post => ("POST", "/form".to_owned()),
            Kind::Restart => ("GET", format!("/old/{}", some % 50)),
            Kind::Esi => ("GET", format!("/esi/{}", some % 20)),
            Kind::NotFound => ("GET", format!("/missing/{}", some % 100)),
        };
        let method = if kind == Kind::Head { "HEAD" } else { method };
        let ip4 = format!("198.51.100.{}", some % 254 + 1);
        let ip6 = format!("2001:db8::{:x}:{:x}", some % 0xfffe + 1, some / 7 % 0xfffe + 1);
        let forwarded = match some % 4 {
            0 => ip4.clone(),
            1 => ip6,
            2 => format!("{ip6}, {ip4}"),
            _ => format!("{ip4}, unknown, {ip6}"),
        };
        let agent = AGENTS[some as usize % AGENTS.len()];
        let mut text = format!(
            "{method} {path}?id={number} HTTP/1.1\r\nHost: en.demo.example\r\nX-Forwarded-For: {forwarded}\r\n\
             X-Real-IP: {ip4}\r\nUser-Agent: {agent}\r\nAccept: text/html,*/*;q=0.8\r\nAccept-Language: en,de;q=0.5\r\n\
             Referer: https://en.demo.example/page/{}\r\n",
            some % 97
        );
        let body = if kind == Kind::Post { "name=value" } else { "" };
        if !body.is_empty() {
            let _ = write!(text, "Content-Length: {}\r\n", body.len());
        }
        text.push_str("\r\n");
        text.push_str(body);
        (kind, text)
    }
}

const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Mobile Safari/537.36",
    "curl/8.5.0",
    "Prüfer/1.0 \"quoted\" \\ back",
];

/// The finaliser of SplitMix64: neighbouring numbers give unlike ones.
#[must_use]
pub fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// A keep-alive connection.
struct Connection {
    input: BufReader<TcpStream>,
    output: TcpStream,
}

impl Connection {
    /// From 127.0.0.`client`. The standard library cannot choose the source address.
    fn open(address: SocketAddrV4, client: u8) -> io::Result<Self> {
        let descriptor = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP))?;
        bind(&descriptor, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, client), 0)))?;
        connect(&descriptor, &address)?;
        let output = TcpStream::from(descriptor);
        output.set_nodelay(true)?;
        output.set_read_timeout(Some(ANSWER))?;
        output.set_write_timeout(Some(ANSWER))?;
        Ok(Self { input: BufReader::with_capacity(16 << 10, output.try_clone()?), output })
    }

    /// Sends a request, reads the whole answer and returns its status.
    fn request(&mut self, request: &[u8], head: bool) -> io::Result<u16> {
        self.output.write_all(request)?;
        let mut line = String::new();
        self.input.read_line(&mut line)?;
        let status = line.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.ok_or(io::ErrorKind::InvalidData)?;
        let body = read_headers(&mut self.input)?;
        if head || status == 204 || status == 304 {
            return Ok(status);
        }
        if body.chunked {
            self.skip_chunks()?;
        } else {
            self.skip(body.length.ok_or(io::ErrorKind::InvalidData)?)?;
        }
        Ok(status)
    }

    /// RFC 9112, section 7.1; Varnish sends neither extensions nor trailers.
    fn skip_chunks(&mut self) -> io::Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            self.input.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim_end(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            self.skip(size + 2)?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match io::copy(&mut (&mut self.input).take(bytes), &mut io::sink())? {
            skipped if skipped == bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_and_every_kind_comes_up() {
        let load = Load { address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1), first: 0, requests: 0, seed: 1 };
        assert_eq!(Kind::SHARES.iter().map(|(_, share)| share).sum::<u64>(), 100);
        let requests: Vec<_> = (0..1000).map(|number| load.request(number)).collect();
        for (kind, share) in Kind::SHARES {
            let count = requests.iter().filter(|(other, _)| *other == kind).count() as u64;
            assert!((share * 4..share * 18).contains(&count), "{kind:?}: {count} of 1000");
        }
        assert_eq!(requests[7], load.request(7));
        assert_ne!(requests[7].1, Load { seed: 2, ..load }.request(7).1);
    }
}
