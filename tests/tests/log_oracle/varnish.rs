//! A varnishd of its own for a test, a backend, and a client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The sizes that varnishd is started with.
pub(crate) struct Options {
    /// The log's: `-l`.
    log: &'static str,
    /// A transaction's buffer: the parameter `vsl_buffer`.
    buffer: &'static str,
}

impl Options {
    /// varnishd's own.
    pub(crate) const DEFAULT: Self = Self { log: "81m", buffer: "16k" };
    /// A log as small as it can be, and transactions that are split over several batches.
    pub(crate) const SMALL: Self = Self { log: "1m", buffer: "1k" };
}

/// A running varnishd.
pub(crate) struct Varnish {
    directory: TempDir,
    manager: Child,
    address: SocketAddr,
}

impl Varnish {
    pub(crate) fn start(options: &Options) -> Self {
        let directory = TempDir::new().unwrap();
        let vcl = directory.path().join("test.vcl");
        std::fs::write(&vcl, vcl_for(start_backend())).unwrap();
        let manager = Command::new("varnishd")
            .args(["-F", "-j", "none", "-a", "127.0.0.1:0", "-s", "malloc,20m", "-l", options.log])
            .args([
                "-p",
                &format!("vsl_buffer={}", options.buffer),
                "-p",
                "ping_interval=0",
                "-p",
                "feature=+esi_disable_xml_check",
            ])
            .arg("-n")
            .arg(directory.path())
            .arg("-f")
            .arg(&vcl)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("varnishd is installed");
        let mut varnish = Self { directory, manager, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        varnish.address = varnish.wait_for_address();
        varnish
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn admin(&self, command: &str) -> Option<String> {
        let output = Command::new("varnishadm").arg("-n").arg(self.directory()).arg(command).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Where it listens, once it does. The port stays over the life of the manager.
    fn wait_for_address(&self) -> SocketAddr {
        wait_for("varnishd listens", || {
            let addresses = self.admin("debug.listen_address")?;
            let mut words = addresses.split_whitespace().skip(1);
            let address = SocketAddr::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            TcpStream::connect(address).is_ok().then_some(address)
        })
    }

    /// Writes down all that is in the log.
    pub(crate) fn record(&self, file: &Path) {
        let mut varnishlog = Command::new("varnishlog");
        varnishlog.arg("-n").arg(self.directory()).args(["-d", "-g", "raw", "-w"]).arg(file);
        assert!(varnishlog.status().unwrap().success());
    }

    fn child(&self) -> Option<u32> {
        let index = std::fs::read_to_string(self.directory().join("_.vsm_child/_.index")).ok()?;
        index.contains(" Log ").then_some(())?;
        index.split_whitespace().nth(1)?.parse().ok()
    }

    /// Kills the child with -9 and waits until it is gone. The manager starts another.
    pub(crate) fn kill_child(&self) {
        let child = self.child().unwrap();
        kill("-KILL", child);
        wait_for("the child has gone", || (self.child() != Some(child)).then_some(()));
    }

    pub(crate) fn wait_for_new_child(&self) {
        wait_for("a new child listens", || {
            self.child()?;
            TcpStream::connect(self.address).ok()
        });
    }

    /// Waits until the log stays as it is: until two recordings have the same size.
    pub(crate) fn settle(&self) {
        let file = self.directory().join("settled");
        let mut before = 0;
        wait_for("the log stays as it is", || {
            self.record(&file);
            let size = std::fs::metadata(&file).ok()?.len();
            let same = size == before;
            before = size;
            same.then_some(())
        });
    }
}

impl Drop for Varnish {
    fn drop(&mut self) {
        kill("-TERM", self.manager.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.manager.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.manager.kill();
        let _ = self.manager.wait();
    }
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn wait_for<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + super::PATIENCE;
    loop {
        if let Some(found) = get() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn vcl_for(backend: SocketAddr) -> String {
    format!(
        r#"vcl 4.1;
backend default {{ .host = "{}"; .port = "{}"; }}
sub vcl_recv {{
    if (req.url ~ "^/synth") {{ return (synth(200, "Made here")); }}
    if (req.url ~ "^/restart" && req.restarts == 0) {{ return (restart); }}
    if (req.url ~ "^/p(ass|ost)") {{ return (pass); }}
    return (hash);
}}
sub vcl_backend_response {{
    if (bereq.url ~ "^/esi") {{ set beresp.do_esi = true; }}
    if (bereq.url ~ "^/object") {{ set beresp.do_gzip = true; set beresp.ttl = 1h; }}
}}
"#,
        backend.ip(),
        backend.port()
    )
}

/// Answers requests until the test ends.
fn start_backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::Builder::new()
        .name("backend".into())
        .spawn(move || {
            for connection in listener.incoming().flatten() {
                // Connections end with varnishd.
                let _ = thread::Builder::new().name("backend connection".into()).spawn(move || answer(connection));
            }
        })
        .unwrap();
    address
}

fn answer(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut input = BufReader::new(connection.try_clone()?);
    while let Some(head) = Head::read(&mut input)? {
        std::io::copy(&mut input.by_ref().take(head.length), &mut std::io::sink())?;
        let body = if head.first.contains("/esi") { "a<esi:include src=\"/synth/included\"/>b" } else { "a body" };
        let length = body.len();
        let response = format!("HTTP/1.1 200 OK\r\nServer: test\r\nContent-Length: {length}\r\n\r\n{body}");
        connection.write_all(response.as_bytes())?;
    }
    Ok(())
}

/// A message's first line, and the length of the body behind its head.
struct Head {
    first: String,
    length: u64,
    chunked: bool,
}

impl Head {
    fn read(input: &mut impl BufRead) -> std::io::Result<Option<Self>> {
        let mut head = Self { first: String::new(), length: 0, chunked: false };
        if input.read_line(&mut head.first)? == 0 {
            return Ok(None);
        }
        loop {
            let mut line = Vec::new();
            input.read_until(b'\n', &mut line)?;
            let line = String::from_utf8_lossy(&line).trim_end().to_ascii_lowercase();
            if line.is_empty() {
                return Ok(Some(head));
            }
            if let Some(length) = line.strip_prefix("content-length:") {
                head.length = length.trim().parse().map_err(std::io::Error::other)?;
            }
            head.chunked |= line.starts_with("transfer-encoding:");
        }
    }
}

/// One connection to varnishd, a request at a time.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(varnish: &Varnish) -> Self {
        let connection = TcpStream::connect(varnish.address).unwrap();
        connection.set_nodelay(true).unwrap();
        connection.set_read_timeout(Some(super::PATIENCE)).unwrap();
        Self(BufReader::new(connection))
    }

    pub(crate) fn get(&mut self, url: &str, headers: &str) {
        self.request(&format!("GET {url} HTTP/1.1\r\nHost: example.com\r\n{headers}\r\n"));
    }

    pub(crate) fn post(&mut self, url: &str, body: &str) {
        let length = body.len();
        self.request(&format!("POST {url} HTTP/1.1\r\nHost: example.com\r\nContent-Length: {length}\r\n\r\n{body}"));
    }

    fn request(&mut self, request: &str) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let head = Head::read(&mut self.0).unwrap().expect("varnishd answers");
        if !head.chunked {
            std::io::copy(&mut self.0.by_ref().take(head.length), &mut std::io::sink()).unwrap();
            return;
        }
        loop {
            let mut size = String::new();
            self.0.read_line(&mut size).unwrap();
            let size = u64::from_str_radix(size.trim(), 16).unwrap();
            std::io::copy(&mut self.0.by_ref().take(size + 2), &mut std::io::sink()).unwrap();
            if size == 0 {
                return;
            }
        }
    }

    /// What is no request. varnishd closes the connection.
    pub(crate) fn send_garbage(mut self) {
        self.0.get_mut().write_all(b"\x01\x02 no request\r\n\r\n").unwrap();
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}
