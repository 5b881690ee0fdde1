//! Connections that are used in odd ways: many requests over one, given up in the middle, idle, piped, and behind a proxy.

use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::client::{Connection, To, ask, connect, expect, get, read_all, request, send};
use super::varnish::Varnish;

/// Read of an answer before the client goes away.
const SOME: usize = 1000;

/// For Varnish to give up a client that does not read: more than `idle_send_timeout` and `send_timeout` together.
const UNREAD: Duration = Duration::from_millis(2500);

pub(super) fn drive(varnish: &Varnish) -> anyhow::Result<()> {
    kept(varnish)?;
    piped(varnish)?;
    given_up(varnish)?;
    proxied(varnish)
}

/// Several requests over a connection: all sent at once, and one after the other.
fn kept(varnish: &Varnish) -> anyhow::Result<()> {
    for to in [To::Tcp, To::Unix] {
        let urls = ["/one-of-many/1", "/synth", "/one-of-many/2", "/pass", "/restart-once"];
        expect(varnish, to, &urls.map(|url| get(url, "")).concat(), 200)?;
        let mut connection = connect(varnish, to)?;
        for url in urls {
            connection.write_all(&get(url, "")).context("sending")?;
            read_until(&mut *connection, b"\r\n\r\n").with_context(|| format!("asking for {url}"))?;
        }
        connection.write_all(b"\r\n\r\n\r\n").context("sending")?;
        connection.write_all(&get("/close-it", "Connection: close\r\n")).context("sending")?;
        read_all(&mut *connection)?;
    }
    let mut connection = connect(varnish, To::Tcp)?;
    let expecting = request("POST", "/post", "Expect: 100-continue\r\nContent-Length: 5\r\n", "");
    connection.write_all(&expecting).context("sending")?;
    read_until(&mut *connection, b"100 Continue\r\n\r\n").context("waiting to be told to continue")?;
    connection.write_all(b"hello").context("sending")?;
    read_until(&mut *connection, b"for you").context("waiting for the answer")?;
    expect(varnish, To::Tcp, &get("/", "Expect: something else\r\n"), 417).map(drop)
}

/// Data in both directions, over a connection that both ends close; and pipes that don't come to be.
fn piped(varnish: &Varnish) -> anyhow::Result<()> {
    for to in [To::Tcp, To::Unix] {
        let mut connection = connect(varnish, to)?;
        connection.write_all(&get("/pipe?x", "X-Pipe: yes\r\n")).context("sending")?;
        read_until(&mut *connection, b"piped\n").context("waiting for the pipe")?;
        for text in [&b"there and back\n"[..], b"\x00\xff once more\n"] {
            connection.write_all(text).context("sending")?;
            read_until(&mut *connection, text).context("waiting for what was sent")?;
        }
        connection.finish().context("closing")?;
        read_all(&mut *connection)?;
    }
    ask(varnish, To::Tcp, &get("/pipe", "Connection: close\r\n"))?;
    ask(varnish, To::Tcp, &get("/down/pipe", ""))?;
    // Methods that Varnish does not know are piped.
    ask(varnish, To::Tcp, &request("BREW", "/pipe/tea", "", "a body, but no length"))?;
    expect(varnish, To::Tcp, &get("/pipe-refused", ""), 405).map(drop)
}

/// Clients that go away: before a request is whole, before its body is, and before the answer is.
fn given_up(varnish: &Varnish) -> anyhow::Result<()> {
    for part in [&b""[..], b"G", b"\r\n", b"GET /cut-off HTT", b"GET /cut-off HTTP/1.1\r\nHost: a\r\nX-Cut"] {
        ask(varnish, To::Tcp, part)?;
    }
    for part in ["Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n"] {
        ask(varnish, To::Tcp, &request("POST", "/post/cut-off", part, "5\r\nhello"))?;
    }
    for url in ["/large/pass", "/large/cached"] {
        let mut connection = connect(varnish, To::Tcp)?;
        connection.write_all(&get(url, "")).context("sending")?;
        // What is left unread makes the kernel reset the connection.
        connection.read_exact(&mut [0; SOME]).with_context(|| format!("reading {url}"))?;
    }
    Ok(())
}

/// The start of version 2 of the PROXY protocol.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Connections through a proxy that tells of the client (haproxy's proxy-protocol.txt), or means to.
fn proxied(varnish: &Varnish) -> anyhow::Result<()> {
    let client4 = b"\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x00\x50";
    let client6 = [&b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"[..], b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02"];
    let client6 = [client6[0], client6[1], b"\xff\xff\x01\xbb"].concat();
    // PP2_TYPE_ALPN and PP2_TYPE_AUTHORITY.
    let more = [&client4[..], b"\x01\x00\x02h2\x02\x00\x09a.example"].concat();
    let told: [Vec<u8>; 7] = [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 2001:db8::2 65535 443\r\n".to_vec(),
        version2(b"\x21\x11", client4),
        version2(b"\x21\x21", &client6),
        version2(b"\x21\x11", &more),
        // LOCAL: the proxy itself asks.
        version2(b"\x20\x00", b""),
        // Logged as garbage, and passed over.
        version2(b"\x21\x11", b"short"),
    ];
    for header in told {
        let requests = [get("/proxied", ""), get("/acl/proxied", "")].concat();
        expect(varnish, To::Proxy, &[header, requests].concat(), 200)?;
    }
    let wrong: [Vec<u8>; 6] = [
        get("/no-header", ""),
        // Which is allowed, but Varnish misses the addresses.
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1\r\n".to_vec(),
        b"PROXY TCP4 no.address 192.0.2.2 1234 80\r\n".to_vec(),
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1234 80\r\n".to_vec(),
        version2(b"\x2f\x11", client4),
    ];
    for header in wrong {
        let answer = ask(varnish, To::Proxy, &[header, get("/proxied/not", "")].concat())?;
        if answer.starts_with(b"HTTP/1.1 200 ") {
            bail!("a request behind a wrong PROXY header is answered");
        }
    }
    Ok(())
}

/// `kind` is the version with the command, and the family with the protocol.
fn version2(kind: &[u8; 2], addresses: &[u8]) -> Vec<u8> {
    [SIGNATURE, kind, &(addresses.len() as u16).to_be_bytes(), addresses].concat()
}

/// Connections that Varnish closes because nothing happens: at once, in the middle of a request, after one, and in an
/// answer that nobody reads.
pub(super) fn drive_timeouts(varnish: &Varnish) -> anyhow::Result<()> {
    let mut idle = Vec::new();
    for (to, bytes) in [
        (To::Tcp, Vec::new()),
        (To::Unix, Vec::new()),
        (To::Proxy, b"PROXY TCP4".to_vec()),
        (To::Tcp, b"GET /idle HTTP/1.1\r\nHo".to_vec()),
        (To::Tcp, get("/idle/kept", "")),
    ] {
        let mut connection = connect(varnish, to)?;
        send(&mut *connection, &bytes).context("sending")?;
        idle.push(connection);
    }
    let mut unread = connect(varnish, To::Tcp)?;
    unread.write_all(&get("/large/unread", "")).context("sending")?;
    for mut connection in idle {
        read_all(&mut *connection).context("waiting for varnishd to close the connection")?;
    }
    thread::sleep(UNREAD);
    drop(unread);
    Ok(())
}

/// Reads until this has come.
fn read_until(connection: &mut dyn Connection, end: &[u8]) -> anyhow::Result<()> {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(end) {
        if connection.read(&mut byte).context("reading")? == 0 {
            bail!("the connection was closed after \"{}\"", answer.escape_ascii());
        }
        answer.extend(byte);
    }
    Ok(())
}
