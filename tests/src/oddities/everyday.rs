//! The requests of which everyone has some, and the order in which all is sent.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::client::{To, ask, excerpt, expect, get, request};
use super::varnish::Varnish;
use super::{authorization, connections, http2, refused};

/// The objects under `/grace` are stale after this time.
const STALE: Duration = Duration::from_millis(100);

/// Clients at a time, where transactions are to mix in the log.
const CLIENTS: u32 = 4;

/// Sends everything.
pub(super) fn drive(varnish: &Varnish) -> anyhow::Result<()> {
    thread::scope(|scope| {
        // It mostly waits.
        let waiting = thread::Builder::new()
            .name("odd timeouts".into())
            .spawn_scoped(scope, || connections::drive_timeouts(varnish))
            .context("starting a thread")?;
        one_by_one(varnish)?;
        refresh(varnish)?;
        headers(varnish)?;
        authorization::drive(varnish)?;
        refused::drive(varnish)?;
        connections::drive(varnish)?;
        http2::drive(varnish)?;
        together(varnish)?;
        waiting.join().map_err(|_| anyhow::anyhow!("a client panicked"))?
    })
}

/// GET requests, and the statuses of their answers. Twice the same is a miss and a hit, or what there is instead.
const PAGES: [(&str, u16); 74] = [
    ("/", 200),
    ("/", 200),
    ("/cached/1", 200),
    ("/cached/1", 200),
    ("/always-miss/cached/1", 200),
    ("/pass", 200),
    ("/hit-for-pass", 200),
    ("/hit-for-pass", 200),
    ("/hit-for-miss", 200),
    ("/hit-for-miss", 200),
    ("/chunked", 200),
    ("/until-end", 200),
    ("/old", 200),
    ("/no-content", 204),
    ("/no-reason", 200),
    ("/odd-reason", 299),
    ("/missing", 404),
    ("/log", 200),
    ("/log/pass?q", 200),
    ("/acl", 200),
    ("/rollback", 200),
    ("/many-set", 200),
    // Answered by VCL.
    ("/synth", 404),
    ("/synth-1404", 404),
    ("/synth-empty", 299),
    ("/deliver-synth", 451),
    ("/fail", 503),
    ("/backend-made", 418),
    ("/backend-made/soft", 200),
    ("/backend-fail", 503),
    // Restarts.
    ("/restart-once", 200),
    ("/restart-twice/pass", 200),
    ("/restart-for-ever", 503),
    ("/restart-delivered", 200),
    ("/restart-synth/synth-1404", 404),
    // Backends that fail.
    ("/down", 503),
    ("/down/soft", 200),
    ("/down/retry-failed", 503),
    ("/nothing", 503),
    ("/close", 503),
    ("/close/pass", 503),
    ("/retry-once", 200),
    ("/retry-once/pass", 200),
    ("/retry-for-ever", 503),
    ("/half-a-head", 503),
    ("/nonsense", 503),
    ("/bad-status", 503),
    ("/no-colon", 503),
    ("/two-lengths", 200),
    ("/long-header", 503),
    ("/many-headers", 503),
    ("/late", 503),
    ("/abandon", 503),
    ("/cut/whole", 503),
    ("/cut-chunk/whole", 503),
    ("/bad-chunk/whole", 503),
    ("/bad-zip/gunzip/whole", 503),
    ("/bad-zip/whole", 503),
    // Includes and compression.
    ("/esi/top", 200),
    ("/esi/top", 200),
    ("/esi/zip", 200),
    ("/esi/zip/zipped", 200),
    ("/esi/top/gzip", 200),
    ("/esi/broken", 200),
    ("/esi/restarting", 200),
    ("/esi/itself", 200),
    ("/esi/wrong", 200),
    ("/esi/none/chunked", 200),
    ("/gzip/x", 200),
    ("/gunzip/zipped", 200),
    ("/zipped", 200),
    ("/ban", 200),
    ("/ban", 200),
    ("/large/whole", 200),
];

/// URLs that are logged, whatever is in them.
const URLS: [&[u8]; 16] = [
    b"/?",
    b"/u?a=b&c=d",
    b"/u?a?b??c",
    b"/u??",
    b"//u//../u",
    b"/u#fragment?x",
    b"/u%20%00%0a%zz",
    b"/quote\"d\\n\\\"",
    b"/u\xc3\xbc\xe2\x82\xac",
    b"/u\xff\xfe\x80\xc3",
    b"/u\xc3?\xbc=\xf0\x9f",
    b"/u<>{}|^`'",
    b"/log/%s%n?%{X}i",
    b"http://absolute.example/u?y",
    b"http://absolute.example",
    b"HTTPS://absolute.example:8443/u",
];

fn one_by_one(varnish: &Varnish) -> anyhow::Result<()> {
    for (index, (url, status)) in PAGES.into_iter().enumerate() {
        let to = if index % 3 == 2 { To::Unix } else { To::Tcp };
        // Half the clients can unzip.
        let accept = if index % 2 == 0 { "Accept-Encoding: gzip\r\n" } else { "" };
        expect(varnish, to, &get(url, accept), status)?;
    }
    // Whether an answer has begun when the backend breaks off is a matter of chance.
    for url in ["/cut", "/cut-chunk", "/bad-chunk", "/bad-zip/gunzip"] {
        ask(varnish, To::Tcp, &get(url, ""))?;
    }
    for url in URLS {
        expect(varnish, To::Tcp, &get(url, ""), 200)?;
    }
    expect(varnish, To::Unix, &get(format!("/long/{}", "u".repeat(3900)), ""), 200)?;
    // Longer than a record may be.
    expect(varnish, To::Tcp, &get(format!("/long/{}?{}", "u".repeat(3000), "q".repeat(3000)), ""), 200)?;
    for method in ["HEAD", "OPTIONS", "DELETE", "TRACE"] {
        expect(varnish, To::Tcp, &request(method, "/cached/1", "", ""), 200)?;
    }
    expect(varnish, To::Tcp, &request("HEAD", "/head/new", "", ""), 200)?;
    expect(varnish, To::Tcp, &request("OPTIONS", "*", "", ""), 200)?;
    bodies(varnish)?;
    expect(varnish, To::Tcp, &request("PURGE", "/cached/1", "", ""), 200)?;
    expect(varnish, To::Tcp, &request("PURGE", "/cached/never", "", ""), 200)?;
    expect(varnish, To::Tcp, &request("PURGE", "/restart-purged", "", ""), 200)?;
    expect(varnish, To::Tcp, b"GET /cached/1.0 HTTP/1.0\r\n\r\n", 200)?;
    expect(varnish, To::Tcp, b"GET /pass/1.0 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", 200)?;
    expect(varnish, To::Tcp, b"GET /no-host HTTP/1.1\r\n\r\n", 400)?;
    expect(varnish, To::Tcp, b"GET /small http/1.1\r\nHost: a\r\n\r\n", 200)?;
    expect(varnish, To::Tcp, b"GET /lines-end-so HTTP/1.1\nHost: a\n\n", 200)?;
    for (range, status) in [("0-3", 206), ("-2", 206), ("2-", 206), ("100-", 416), ("3-1", 416), ("a-b", 416)] {
        expect(varnish, To::Tcp, &get("/cached/range", format!("Range: bytes={range}\r\n")), status)?;
    }
    expect(varnish, To::Tcp, &get("/cached/range", "If-None-Match: \"1\"\r\n"), 304)?;
    expect(varnish, To::Tcp, &get("/cached/range", "If-Modified-Since: Thu, 01 Jan 2015 00:00:00 GMT\r\n"), 304)?;
    Ok(())
}

fn bodies(varnish: &Varnish) -> anyhow::Result<()> {
    let length = |length| format!("Content-Length: {length}\r\n");
    expect(varnish, To::Tcp, &request("POST", "/post", length(10), "name=value"), 200)?;
    expect(varnish, To::Unix, &request("POST", "/post?x", length(0), ""), 200)?;
    expect(varnish, To::Tcp, &request("PUT", "/post/restart-once", length(60_000), "x".repeat(60_000)), 200)?;
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    expect(varnish, To::Tcp, &request("POST", "/post", "Transfer-Encoding: chunked\r\n", chunks), 200)?;
    // More than VCL keeps of it: Varnish hangs up.
    ask(varnish, To::Tcp, &request("POST", "/post", length(200_000), "x".repeat(200_000)))?;
    expect(varnish, To::Tcp, &request("GET", "/cached/with-body", length(4), "body"), 200)?;
    Ok(())
}

/// A stale object is delivered, and asked for again in the background.
fn refresh(varnish: &Varnish) -> anyhow::Result<()> {
    for url in ["/grace/1", "/grace/esi/middle"] {
        expect(varnish, To::Tcp, &get(url, ""), 200)?;
        thread::sleep(STALE);
        expect(varnish, To::Tcp, &get(url, ""), 200)?;
    }
    Ok(())
}

/// Headers as they should not be, and as VCL makes them.
const HEADERS: [&[u8]; 14] = [
    b"X-Empty:\r\nX-Blank:    \r\nX-Gone: 1\r\n",
    b"X-Multi: one\r\nx-multi: two\r\nX-MULTI:   three  \r\n",
    b"X-Odd: \"quoted\" \\ back\\n\ttab\t\r\nX-Bytes: \x80\xff\xfe\xc3\xbc\xc3\r\n",
    b"Referer: http://r.example/\"\\\xff?\r\nUser-Agent: \xff\xfe\xc3\xbc \"agent\"\r\n",
    b"Referer:\ttab\tin\t\r\nUser-Agent:\r\n",
    b"Cookie: a=b; c=\"d\"; \xff=1\r\nCookie: e=f\r\n",
    b"X-Forwarded-For: 192.0.2.1, unknown, \"[2001:db8::1]:80\"\r\nX-Forwarded-For: 198.51.100.7\r\n",
    b"X-Colons:a:b: c\r\n:x\r\n",
    b"X_Odd'Name!: v\r\nX: short\r\n1: 2\r\n",
    b"Accept-Encoding: gzip;q=0, br\r\nTE: trailers\r\nConnection: x-hop, close\r\nX-Hop: 1\r\n",
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n",
    b"User-Agent: %s %{X}i %n $(x) `y` <script>\r\nX-Json: {\"a\":[1,\"\\u0000\"]}\r\n",
    b"Via: 1.1 other\r\nAge: -1\r\nX-Varnish: 12 34\r\nDate: yesterday\r\n",
    b"X-Fold: a\r\n folded\r\n\tonce more\r\nX-After: 1\r\n",
];

fn headers(varnish: &Varnish) -> anyhow::Result<()> {
    for headers in HEADERS {
        for url in ["/headers?x", "/cached/headers", "/pass/log"] {
            let answer = ask(varnish, To::Tcp, &get(url, headers))?;
            // A name may not be empty.
            if !answer.starts_with(b"HTTP/1.1 200 ") && !headers.ends_with(b"\n:x\r\n") {
                bail!("sent \"{}\", the answer is \"{}\"", excerpt(headers), excerpt(&answer));
            }
        }
    }
    let long = |letter: &str, length| letter.repeat(length);
    let one = format!("Referer: {}\r\nUser-Agent: {}\r\n", long("r", 3900), long("u", 3900));
    expect(varnish, To::Tcp, &get("/pass/long", one), 200)?;
    // Longer than a record may be, and more than a transaction's buffer takes at once.
    let cut: String = ["A", "B", "C", "D", "E"].map(|name| format!("X-{name}: {}\r\n", long("\"\\", 2500))).concat();
    expect(varnish, To::Tcp, &get("/pass/longer", cut), 200)?;
    // As many as are taken, so that VCL has no room for its own.
    let many = |count: u32| (0..count).map(|number| format!("X-{number}: {number}\r\n")).collect::<String>();
    expect(varnish, To::Tcp, &get("/headers?many", many(50)), 200)?;
    ask(varnish, To::Tcp, &get("/headers?lost", many(57)))?;
    Ok(())
}

/// Clients that send requests of all kinds at the same time, many to a connection.
fn together(varnish: &Varnish) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|client| {
            thread::Builder::new()
                .name(format!("odd client {client}"))
                .spawn_scoped(scope, move || one_of_many(varnish, client))
                .context("starting a thread")
        });
        for client in clients.collect::<anyhow::Result<Vec<_>>>()? {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })
}

/// The pages that one of the clients asks for. All want the slow ones at once, so that some wait and some get what is
/// still being fetched.
fn one_of_many(varnish: &Varnish, client: u32) -> anyhow::Result<()> {
    const MIXED: [&str; 10] = [
        "/cached/mixed",
        "/esi/top",
        "/pass/mixed",
        "/restart-once/mixed",
        "/synth",
        "/retry-once",
        "/missing",
        "/log",
        "/hit-for-miss/mixed",
        "/esi/zip",
    ];
    let to = if client.is_multiple_of(2) { To::Tcp } else { To::Unix };
    let slow = [get("/slow/cached/mixed", ""), get("/trickle", ""), get("/slow/hit-for-miss/mixed", "")];
    expect(varnish, to, &slow.concat(), 200)?;
    for round in 0..4 {
        let requests = MIXED.iter().map(|url| get(format!("{url}?{client}.{}", round % 3), "")).collect::<Vec<_>>();
        expect(varnish, to, &requests.concat(), 200)?;
    }
    Ok(())
}
