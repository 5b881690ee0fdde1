//! What is no request, or none that Varnish takes.

use anyhow::bail;

use super::client::{To, ask, excerpt, get, request};
use super::varnish::Varnish;

/// Bytes that come instead of a request.
const GARBAGE: [&[u8]; 23] = [
    b"\x01\x02 no request\r\n\r\n",
    b"garbage\r\n\r\n",
    b"\xff\xfe\xfd\xfc\r\n\r\n",
    b"\0\0\0\0\r\n\r\n",
    // The start of a TLS handshake: a ClientHello of 512 bytes.
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET \r\n\r\n",
    b"GET /\r\n\r\n",
    b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"/no-method HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1 more\r\nHost: a\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /control\x01\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nno colon here\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Blank : v\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Control: \x01\x02\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Nul: \0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: odd\r\n\r\n",
    b"GET ftp://a.example/ HTTP/1.1\r\n\r\n",
];

pub(super) fn drive(varnish: &Varnish) -> anyhow::Result<()> {
    for bytes in GARBAGE {
        refuse(varnish, bytes)?;
    }
    refuse(varnish, &get(format!("/{}", "u".repeat(40_000)), ""))?;
    refuse(varnish, &get("/", format!("X-Long: {}\r\n", "l".repeat(9000))))?;
    refuse(varnish, &get("/", (0..100).map(|number| format!("X-{number}: v\r\n")).collect::<String>()))?;
    // Taken, and then seen to be wrong when the body is read.
    refuse(varnish, &request("POST", "/post", "Transfer-Encoding: chunked\r\n", "zz\r\nhello\r\n"))?;
    Ok(())
}

/// Varnish closes the connection at once or says what is wrong.
fn refuse(varnish: &Varnish, bytes: &[u8]) -> anyhow::Result<()> {
    let answer = ask(varnish, To::Tcp, bytes)?;
    let said = ["HTTP/1.1 4", "HTTP/1.1 5"].iter().any(|start| answer.starts_with(start.as_bytes()));
    if !said && !answer.is_empty() {
        bail!("sent \"{}\", the answer is \"{}\" and not that it is wrong", excerpt(bytes), excerpt(&answer));
    }
    Ok(())
}
