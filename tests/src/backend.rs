//! The HTTP server that Varnish asks: keep-alive, a thread a connection.
//!
//! | path | answer |
//! |---|---|
//! | `/page/…`, `/fragment/…` | a page that may be cached |
//! | `/private/…` | a page that may not |
//! | `/esi/…` | a page with two ESI includes |
//! | `POST` anywhere | 200, once the body is read |
//! | anything else | 404 |

use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::Context as _;

/// A running backend. Its threads end with the process.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
}

impl Backend {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// When there is no port or no thread to be had.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening for the backend")?;
        let address = listener.local_addr().context("asking for the backend's port")?;
        thread::Builder::new()
            .name("backend".into())
            .spawn(move || {
                for client in listener.incoming().flatten() {
                    // Varnish notices when its connection closes, and opens another.
                    let serve = move || drop(serve(client));
                    let _ = thread::Builder::new().name("backend".into()).stack_size(256 << 10).spawn(serve);
                }
            })
            .context("starting the backend")?;
        Ok(Self { address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut input = BufReader::new(client.try_clone()?);
    let mut output = client;
    while let Some(request) = Request::read(&mut input)? {
        output.write_all(&answer(&request))?;
    }
    Ok(())
}

/// What matters of a request.
struct Request {
    method: String,
    path: String,
}

impl Request {
    /// `None` when the connection was closed between requests.
    fn read(input: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().map(str::to_owned).ok_or(io::ErrorKind::InvalidData);
        let (method, target) = (word()?, word()?);
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let length = read_headers(input)?.length.unwrap_or(0);
        io::copy(&mut input.take(length), &mut io::sink())?;
        Ok(Some(Self { method, path }))
    }
}

/// What headers tell of the body.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Body {
    /// Content-Length.
    pub(crate) length: Option<u64>,
    /// Transfer-Encoding: chunked.
    pub(crate) chunked: bool,
}

/// Reads headers up to and including the empty line.
pub(crate) fn read_headers(input: &mut impl BufRead) -> io::Result<Body> {
    let mut body = Body::default();
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.trim_end();
        if text.is_empty() {
            return Ok(body);
        }
        if let Some((name, value)) = text.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                body.length = Some(value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                body.chunked = value.trim().eq_ignore_ascii_case("chunked");
            }
        }
    }
}

fn answer(request: &Request) -> Vec<u8> {
    let path = request.path.as_str();
    let (status, headers, body) = if request.method == "POST" {
        ("200 OK", "Cache-Control: no-store\r\n", "thank you\n".to_owned())
    } else if path.starts_with("/page/") {
        ("200 OK", "Cache-Control: max-age=3600\r\n", format!("<h1>{path}</h1>\n{}", "Lorem ipsum. ".repeat(60)))
    } else if path.starts_with("/fragment/") {
        ("200 OK", "Cache-Control: max-age=3600\r\n", format!("<p>{path}</p>\n"))
    } else if path.starts_with("/private/") {
        ("200 OK", "Cache-Control: private\r\n", format!("<h1>for you alone: {path}</h1>\n"))
    } else if path.starts_with("/esi/") {
        let includes = "<esi:include src=\"/fragment/top\"/>\n<esi:include src=\"/fragment/bottom\"/>\n";
        let headers = "Cache-Control: max-age=3600\r\nSurrogate-Control: content=\"ESI/1.0\"\r\n";
        ("200 OK", headers, format!("<h1>{path}</h1>\n{includes}"))
    } else {
        ("404 Not Found", "Cache-Control: max-age=60\r\n", "there is no such page\n".to_owned())
    };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    if request.method != "HEAD" {
        answer.extend_from_slice(body.as_bytes());
    }
    answer
}
