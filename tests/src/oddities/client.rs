//! A client that sends what it is told to, right or wrong.

use std::fmt::Debug;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::varnish::Varnish;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(20);

/// One of varnishd's listeners.
#[derive(Debug, Clone, Copy)]
pub(super) enum To {
    /// HTTP over TCP.
    Tcp,
    /// HTTP over TCP, behind a header of the PROXY protocol.
    Proxy,
    /// HTTP over a Unix-domain socket.
    Unix,
}

/// What a connection is, whatever it goes over.
pub(super) trait Connection: Read + Write + Debug {
    /// Nothing more will be sent.
    fn finish(&self) -> io::Result<()>;
}

impl Connection for TcpStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Connection for UnixStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// Connects to varnishd. No read or write waits for ever.
pub(super) fn connect(varnish: &Varnish, to: To) -> anyhow::Result<Box<dyn Connection>> {
    let tcp = |address| -> io::Result<Box<dyn Connection>> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Box::new(stream))
    };
    let unix = || -> io::Result<Box<dyn Connection>> {
        let stream = UnixStream::connect(&varnish.socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Box::new(stream))
    };
    match to {
        To::Tcp => tcp(varnish.tcp),
        To::Proxy => tcp(varnish.proxy),
        To::Unix => unix(),
    }
    .with_context(|| format!("connecting to varnishd, {to:?}"))
}

/// Sends bytes, which may be several requests or none, and returns what comes until varnishd closes the connection.
pub(super) fn ask(varnish: &Varnish, to: To, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut connection = connect(varnish, to)?;
    send(&mut *connection, bytes).context("sending")?;
    // varnishd answers what it has read before it takes notice.
    refused(connection.finish()).context("sending")?;
    read_all(&mut *connection)
}

/// Sends bytes. varnishd may have seen enough, and closed the connection, before it has them all.
pub(super) fn send(connection: &mut dyn Connection, bytes: &[u8]) -> io::Result<()> {
    refused(connection.write_all(bytes))
}

/// Reads until varnishd closes the connection.
pub(super) fn read_all(connection: &mut dyn Connection) -> anyhow::Result<Vec<u8>> {
    let mut answer = Vec::new();
    refused(connection.read_to_end(&mut answer).map(drop))
        .with_context(|| format!("reading, after \"{}\"", excerpt(&answer)))?;
    Ok(answer)
}

/// Asks, and compares the status of the first answer.
pub(super) fn expect(varnish: &Varnish, to: To, request: &[u8], status: u16) -> anyhow::Result<Vec<u8>> {
    let answer = ask(varnish, to, request).with_context(|| format!("asking \"{}\"", excerpt(request)))?;
    if !answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()) {
        bail!("asked \"{}\", the answer is \"{}\" and not {status}", excerpt(request), excerpt(&answer));
    }
    Ok(answer)
}

/// A GET with these headers, each with its line's end.
pub(super) fn get(url: impl AsRef<[u8]>, headers: impl AsRef<[u8]>) -> Vec<u8> {
    request("GET", url, headers, "")
}

/// A request with a body. The caller's headers tell its length, unless there is none.
pub(super) fn request(
    method: &str,
    url: impl AsRef<[u8]>,
    headers: impl AsRef<[u8]>,
    body: impl AsRef<[u8]>,
) -> Vec<u8> {
    let host = b"HTTP/1.1\r\nHost: a.example";
    [method.as_bytes(), b" ", url.as_ref(), b" ", host, b"\r\n", headers.as_ref(), b"\r\n", body.as_ref()].concat()
}

/// The beginning of what was sent or received.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(80)].escape_ascii().to_string()
}

/// That varnishd hangs up is no failure here.
fn refused(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if HANGING_UP.contains(&error.kind()) => Ok(()),
        result => result,
    }
}

const HANGING_UP: [ErrorKind; 4] =
    [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::NotConnected];
