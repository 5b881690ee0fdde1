//! HTTP/2 without TLS (RFC 9113), frame by frame, with headers that are not compressed (RFC 7541).

use anyhow::{Context as _, bail};

use super::client::{Connection, To, ask, connect, send};
use super::varnish::Varnish;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

// Flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const WHOLE: u8 = END_STREAM | END_HEADERS;

pub(super) fn drive(varnish: &Varnish) -> anyhow::Result<()> {
    for to in [To::Tcp, To::Unix] {
        let two = [get(1, b"/h2/one"), get(3, b"/slow/h2/two")].concat();
        converse(varnish, to, &two, 2)?;
        let more =
            [b"/esi/top", &b"/pass"[..], b"/restart-once/h2", b"/synth", b"/h2/\xc3\xbc\xff\"?x", b"/down", b"/log"];
        let more: Vec<_> = (1..).step_by(2).zip(more).map(|(stream, path)| get(stream, path)).collect();
        converse(varnish, to, &more.concat(), 7)?;
    }
    // A body in two parts, headers in two frames, and frames that ask for no answer or for one.
    let post = [
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16]),
        frame(HEADERS, END_HEADERS, 1, &fields(b"POST", b"/post/h2", &[(b"content-length", b"10")])),
        frame(DATA, 0, 1, b"name="),
        frame(DATA, END_STREAM, 1, b"value"),
        frame(PING, 0, 0, b"12345678"),
        frame(WINDOW_UPDATE, 0, 0, &1000_u32.to_be_bytes()),
    ];
    converse(varnish, To::Tcp, &post.concat(), 1)?;
    let block =
        fields(b"GET", b"/h2/continued", &[(b"x-empty", b""), (b"x-bytes", b"\x80\xff\"\\"), (b"cookie", b"a=b")]);
    let (start, rest) = block.split_at(20);
    let continued = [frame(HEADERS, END_STREAM, 1, start), frame(CONTINUATION, END_HEADERS, 1, rest)];
    converse(varnish, To::Tcp, &continued.concat(), 1)?;
    // Credentials, names that VCL changes, and the same name thrice.
    let odd: [(&[u8], &[u8]); 5] = [
        (b"authorization", b"Basic dXNlcjpwYXNzd29yZA=="),
        (b"x-multi", b"one"),
        (b"x-multi", b"two"),
        (b"x-gone", b"1"),
        (b"referer", b"\ttab\xff"),
    ];
    converse(varnish, To::Tcp, &frame(HEADERS, WHOLE, 1, &fields(b"GET", b"/headers/h2?x", &odd)), 1)?;
    // One stream is given up by the client while the other goes on.
    let reset = [get(1, b"/slow/h2/reset"), frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()), get(3, b"/h2/other")];
    converse(varnish, To::Tcp, &reset.concat(), 1)?;
    // From HTTP/1.1 with an upgrade; the settings are none.
    let upgrade = b"GET /h2/upgraded HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    ask(varnish, To::Tcp, &[&upgrade[..], PREFACE, &frame(SETTINGS, 0, 0, b"")].concat())?;
    wrong(varnish)
}

/// Frames that end a stream or the connection, each behind a request that is well.
fn wrong(varnish: &Varnish) -> anyhow::Result<()> {
    let name_in_capitals = [&pseudo(b"GET", b"/h2/capitals")[..], &field(b"X-Capitals", b"1")].concat();
    let no_path = [&field(b":method", b"GET")[..], &field(b":scheme", b"http")].concat();
    let twice = [&pseudo(b"GET", b"/h2/twice")[..], &field(b":path", b"/again")].concat();
    let unknown = [&pseudo(b"GET", b"/h2/unknown")[..], &field(b":unknown", b"1")].concat();
    let control = fields(b"GET", b"/h2/control", &[(b"x-control", b"a\nb\0c")]);
    let long: &[u8] = &[b'x'; 126];
    let long = fields(b"GET", b"/h2/long", &[(&b"x-long"[..], long)].repeat(100));
    let bad = [
        frame(HEADERS, WHOLE, 2, &fields(b"GET", b"/h2/even", &[])),
        frame(HEADERS, WHOLE, 3, &name_in_capitals),
        frame(HEADERS, WHOLE, 3, &no_path),
        frame(HEADERS, WHOLE, 3, &twice),
        frame(HEADERS, WHOLE, 3, &unknown),
        frame(HEADERS, WHOLE, 3, &control),
        frame(HEADERS, WHOLE, 3, &long),
        // No entry 62 in an empty table.
        frame(HEADERS, WHOLE, 3, &[0xbe]),
        frame(DATA, END_STREAM, 0, b"for no stream"),
        frame(PING, 0, 0, b"short"),
        frame(SETTINGS, 0, 0, b"short"),
        frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        frame(RST_STREAM, 0, 9, &[0; 4]),
        frame(CONTINUATION, END_HEADERS, 3, b""),
        frame(99, 0, 0, b"unknown type"),
        b"\xff\xff\xff\x00\x00garbage".to_vec(),
    ];
    for frames in bad {
        // Varnish answers with GOAWAY or RST_STREAM, hangs up, or takes no notice.
        converse(varnish, To::Tcp, &[get(1, b"/h2/before"), frames].concat(), 1)?;
    }
    // Not the preface, but its beginning.
    ask(varnish, To::Tcp, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")?;
    ask(varnish, To::Tcp, &[PREFACE, b"and no frame"].concat())?;
    Ok(())
}

/// Sends frames behind the preface, reads until so many streams have ended or the connection has, and says goodbye.
fn converse(varnish: &Varnish, to: To, frames: &[u8], streams: usize) -> anyhow::Result<()> {
    let mut connection = connect(varnish, to)?;
    send(&mut *connection, &[PREFACE, &frame(SETTINGS, 0, 0, b""), frames].concat()).context("sending frames")?;
    let mut ended = 0;
    while ended < streams {
        match read_frame(&mut *connection) {
            Ok((RST_STREAM, _)) => ended += 1,
            Ok((HEADERS | DATA, flags)) if flags & END_STREAM != 0 => ended += 1,
            Ok((GOAWAY, _)) | Err(_) => break,
            Ok(_) => {}
        }
    }
    send(&mut *connection, &frame(GOAWAY, 0, 0, &[0; 8])).context("saying goodbye")
}

/// The type and the flags of the next frame.
fn read_frame(connection: &mut dyn Connection) -> anyhow::Result<(u8, u8)> {
    let mut head = [0; 9];
    connection.read_exact(&mut head).context("reading a frame")?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    if length > 1 << 20 {
        bail!("a frame of {length} bytes");
    }
    connection.read_exact(&mut vec![0; length as usize]).context("reading a frame")?;
    Ok((head[3], head[4]))
}

/// Section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A whole request.
fn get(stream: u32, path: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &fields(b"GET", path, &[(b"x-h2", b"yes")]))
}

/// The headers of a request.
fn fields(method: &[u8], path: &[u8], more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let more: Vec<_> = more.iter().map(|(name, value)| field(name, value)).collect();
    [pseudo(method, path), more.concat()].concat()
}

fn pseudo(method: &[u8], path: &[u8]) -> Vec<u8> {
    // 0x86 is `:scheme: http` of the static table.
    [field(b":method", method), field(b":path", path), vec![0x86], field(b":authority", b"h2.example")].concat()
}

/// A field that is not indexed, with a new name (RFC 7541, section 6.2.2). Lengths up to 126 fit into one byte.
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0, name.len() as u8], name, &[value.len() as u8], value].concat()
}
