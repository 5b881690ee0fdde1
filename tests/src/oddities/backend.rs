//! The backend of the oddities: what it answers, well or badly, is said by words in the URL.

use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;

/// Larger than the sockets' buffers on both sides of Varnish, so that a client that goes away is noticed.
const LARGE: usize = 16 << 20;

/// How long it takes over what is to be slow: others ask for the same meanwhile.
const SLOW: Duration = Duration::from_millis(300);

/// Starts it on a free port of 127.0.0.1, and returns where. Its threads end with the process.
pub(super) fn start() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening for the backend")?;
    let address = listener.local_addr().context("asking for the backend's port")?;
    thread::Builder::new()
        .name("odd backend".into())
        .spawn(move || {
            for client in listener.incoming().flatten() {
                // Many of these connections are meant to end in an error.
                let serve = move || drop(serve(client));
                let _ = thread::Builder::new().name("odd backend".into()).stack_size(256 << 10).spawn(serve);
            }
        })
        .context("starting the backend")?;
    Ok(address)
}

fn serve(client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut input = BufReader::new(client.try_clone()?);
    let mut output = client;
    while let Some(request) = Request::read(&mut input)? {
        if request.path.contains("/pipe") {
            return echo(&mut input, &mut output);
        }
        if !answer(&request, &mut output)? {
            break;
        }
    }
    Ok(())
}

/// What is sent through a pipe comes back.
fn echo(input: &mut BufReader<TcpStream>, output: &mut TcpStream) -> io::Result<()> {
    output.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\npiped\n")?;
    io::copy(input, output)?;
    Ok(())
}

/// What matters of a request. Bytes that are not UTF-8 are replaced.
struct Request {
    method: String,
    path: String,
    /// With `If-None-Match`.
    conditional: bool,
}

impl Request {
    /// `None` when the connection was closed between requests. The body is read and dropped.
    fn read(input: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let first = read_line(input)?;
        let mut words = first.split(' ').map(str::to_owned);
        let (Some(method), Some(url)) = (words.next(), words.next()) else { return Ok(None) };
        let path = url.split('?').next().unwrap_or_default().to_owned();
        let mut request = Self { method, path, conditional: false };
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = read_line(input)?.to_ascii_lowercase();
            match line.split_once(':') {
                Some(("content-length", value)) => {
                    length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
                }
                Some(("transfer-encoding", _)) => chunked = true,
                Some(("if-none-match", _)) => request.conditional = true,
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        io::copy(&mut input.by_ref().take(length), &mut io::sink())?;
        while chunked {
            let size = read_line(input)?;
            let size = u64::from_str_radix(&size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            io::copy(&mut input.by_ref().take(size + 2), &mut io::sink())?;
            chunked = size > 0;
        }
        Ok(Some(request))
    }

    fn has(&self, word: &str) -> bool {
        self.path.contains(word)
    }
}

/// A line without its end, empty when there is none.
fn read_line(input: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
}

/// Answers, and returns if the connection goes on.
fn answer(request: &Request, output: &mut TcpStream) -> io::Result<bool> {
    if request.has("/slow") || request.has("/late") {
        thread::sleep(SLOW);
    }
    for (word, bytes) in CLOSING {
        if request.has(word) {
            output.write_all(bytes)?;
            return Ok(false);
        }
    }
    for (word, bytes) in COMPLETE {
        if request.has(word) {
            output.write_all(bytes)?;
            return Ok(true);
        }
    }
    if request.has("/grace") && request.conditional {
        output.write_all(b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nX-Again: yes\r\n\r\n")?;
        return Ok(true);
    }
    if request.has("/trickle") {
        output.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nCache-Control: max-age=60\r\n\r\nhello")?;
        thread::sleep(SLOW);
        output.write_all(b"world")?;
        return Ok(true);
    }
    if request.has("/long-header") {
        let long = "l".repeat(9000);
        output.write_all(format!("HTTP/1.1 200 OK\r\nX-Long: {long}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
        return Ok(true);
    }
    if request.has("/many-headers") {
        let many: String = (0..100).map(|number| format!("X-{number}: v\r\n")).collect();
        output.write_all(format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n").as_bytes())?;
        return Ok(true);
    }
    let (status, headers, body) = page(request)?;
    let length = body.len();
    let head = [
        b"HTTP/1.1 ",
        status,
        b"\r\nContent-Type: text/html\r\nX-Double: a\r\nx-double: b\r\nX-Empty:\r\nX-Bytes: \"\xfc\\\xc3\xbc\t\xff\"\r\n",
        headers,
        format!("Content-Length: {length}\r\n\r\n").as_bytes(),
    ]
    .concat();
    output.write_all(&head)?;
    if request.method != "HEAD" {
        output.write_all(&body)?;
    }
    Ok(true)
}

/// Answers after which the connection is closed, some of them too early.
const CLOSING: [(&str, &[u8]); 12] = [
    // The probe waits for the end of the connection.
    ("/probe", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("/close", b""),
    ("/half-a-head", b"HTTP/1.1 200 OK\r\nContent-Le"),
    ("/nonsense", b"hello world\r\n\r\n"),
    ("/bad-status", b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"),
    ("/no-colon", b"HTTP/1.1 200 OK\r\nX-Good: 1\r\nno colon here\r\nContent-Length: 0\r\n\r\n"),
    ("/two-lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("/cut-chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nff\r\ncut"),
    ("/bad-chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"),
    ("/cut", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello"),
    ("/bad-zip", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"),
    ("/until-end", b"HTTP/1.0 200 OK\r\n\r\nhello world"),
];

/// Answers that are whole but out of the ordinary.
const COMPLETE: [(&str, &[u8]); 5] = [
    ("/chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
    ("/no-content", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ("/no-reason", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
    ("/odd-reason", b"HTTP/1.1 299 \"F\xfcr\\\tuns\" \xc3\xbc\xff \r\nContent-Length: 2\r\n\r\nok"),
    ("/old", b"HTTP/1.1 200 OK\r\nAge: 10\r\nDate: x\r\nExpires: 0\r\nCache-Control: max-age=1\r\nContent-Length: 2\r\n\r\nok"),
];

/// Status, headers and body of a page as it should be.
fn page(request: &Request) -> io::Result<(&'static [u8], &'static [u8], Vec<u8>)> {
    const CACHED: &[u8] =
        b"Cache-Control: max-age=60\r\nETag: \"1\"\r\nLast-Modified: Thu, 01 Jan 2015 00:00:00 GMT\r\n";
    if request.has("/missing") {
        return Ok((b"404 Not \xfc found", b"", b"<p>no</p>".to_vec()));
    }
    if request.has("/large") {
        return Ok((b"200 OK", b"", vec![b'x'; LARGE]));
    }
    if let Some((_, text)) = ESI.iter().find(|(word, _)| request.has(word)) {
        // Zipped by the backend as well: Varnish then unzips it to look for the includes.
        return match request.has("/zipped") {
            true => Ok((b"200 OK", b"Content-Encoding: gzip\r\n", zip(text.as_bytes())?)),
            false => Ok((b"200 OK", b"", text.as_bytes().to_vec())),
        };
    }
    if request.has("/zipped") {
        return Ok((b"200 OK", b"Content-Encoding: gzip\r\nCache-Control: max-age=60\r\n", zip(b"<p>zipped</p>")?));
    }
    if request.has("/pass") || request.has("/post") {
        return Ok((
            b"200 OK",
            b"Cache-Control: private\r\nSet-Cookie: a=b; path=/\r\nSet-Cookie: c=\"d\"\r\n",
            b"for you".to_vec(),
        ));
    }
    Ok((b"200 OK", CACHED, b"<p>hello</p>".to_vec()))
}

/// Pages with includes, three levels of them at the most unless one includes itself.
const ESI: [(&str, &str); 8] = [
    (
        "/esi/top",
        r#"<p><esi:include src="/esi/middle"/><esi:include src="/missing/included"/><esi:remove>x</esi:remove></p>"#,
    ),
    (
        "/esi/middle",
        r#"<p><esi:include src="/esi/low"/><esi:include src="/synth/included"/><esi:comment text="c"/></p>"#,
    ),
    ("/esi/low", r#"<p><esi:include src="/cached/leaf"/><!--esi <esi:include src="/pass/leaf"/> --></p>"#),
    (
        "/esi/broken",
        r#"<p><esi:include src="/down/included"/><esi:include src="/pass/close"/><esi:include src="/fail"/></p>"#,
    ),
    (
        "/esi/restarting",
        r#"<p><esi:include src="/restart-once/leaf"/><esi:include src="http://b.example/leaf?a&amp;b"/></p>"#,
    ),
    (
        "/esi/zip",
        r#"<p><esi:include src="/gzip/leaf"/><esi:include src="/cached/leaf"/><esi:include src="/leaf/zipped"/></p>"#,
    ),
    ("/esi/itself", r#"<p><esi:include src="/esi/itself"/></p>"#),
    ("/esi/wrong", r#"<p><esi:include sr="/x"/><esi:include src="/y"><esi:unknown/><esi:include src="/z"#),
];

fn zip(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text)?;
    encoder.finish()
}
