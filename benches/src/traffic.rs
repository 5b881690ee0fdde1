//! Requests as today's browsers send them to a site behind a proxy that ends TLS.
//!
//! What request `n` looks like follows from the seed and `n` alone.

use std::io::Write as _;

use kafkalog_tests::load::mix;

/// The VCL that goes with these requests. [`vcl`] fills it in.
const VCL: &str = include_str!("../vcl/web.vcl");

/// Pages that are asked for again and again.
pub const PAGES: u64 = 200;

/// How a request goes through Varnish, with `vcl/web.vcl`, and how many in a hundred do.
const SHARES: [(Kind, u64); 4] = [(Kind::Hit, 85), (Kind::Miss, 6), (Kind::Pass, 6), (Kind::Synth, 3)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One of the [`PAGES`].
    Hit,
    /// A page that nobody has asked for before.
    Miss,
    /// A page for somebody who is logged in.
    Pass,
    /// An answer by VCL: a page that has moved.
    Synth,
}

/// The VCL with this backend; `start` is what `vcl_init` does, with what it needs imported.
#[must_use]
pub fn vcl(backend: std::net::SocketAddr, import: &str, start: &str) -> String {
    VCL.replace("BACKEND_HOST", &backend.ip().to_string())
        .replace("BACKEND_PORT", &backend.port().to_string())
        .replace("IMPORT", import)
        .replace("START", start)
}

/// Appends request `number`, of any kind.
pub fn request(seed: u64, number: u64, out: &mut Vec<u8>) {
    let random = mix(seed ^ mix(number));
    let mut left = random % 100;
    let mut kind = Kind::Hit;
    for (one, share) in SHARES {
        kind = one;
        if left < share {
            break;
        }
        left -= share;
    }
    write(kind, number, random / 100, out);
}

/// Appends a request for page `number` modulo [`PAGES`]: a hit, unless it is the page's first.
pub fn page(seed: u64, number: u64, out: &mut Vec<u8>) {
    let random = (mix(seed ^ mix(number)) >> 1) / PAGES * PAGES;
    write(Kind::Hit, number, random + number % PAGES, out);
}

fn write(kind: Kind, number: u64, random: u64, out: &mut Vec<u8>) {
    let browser = &BROWSERS[(mix(random) % BROWSERS.len() as u64) as usize];
    let path = match kind {
        Kind::Hit => format!("/page/Article_number_{}", random % PAGES),
        Kind::Miss => format!("/page/rare/Article_number_{number}"),
        Kind::Pass => format!("/private/watchlist/{}", random % 1000),
        Kind::Synth => format!("/moved/Article_number_{}", random % PAGES),
    };
    let [a, b, c, ..] = (random >> 8).to_le_bytes();
    // Nothing fails that writes to memory.
    let _ = write!(
        out,
        "GET {path}?action=view&id={number} HTTP/1.1\r\n\
         Host: en.bench.example\r\n\
         X-Forwarded-For: 203.0.{a}.{b}, 198.51.100.{c}\r\n\
         User-Agent: {}\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
         Accept-Language: en-US,en;q=0.9,de;q=0.7\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\n\
         Referer: https://en.bench.example/page/Article_number_{}\r\n\
         Cookie: GeoIP=DE:BY:Munich:48.14:11.58:v4; session={random:016x}; lastVisit=21-Nov-2025; theme=auto\r\n\
         {}\
         Upgrade-Insecure-Requests: 1\r\n\
         Sec-Fetch-Dest: document\r\n\
         Sec-Fetch-Mode: navigate\r\n\
         Sec-Fetch-Site: same-origin\r\n\
         Sec-Fetch-User: ?1\r\n\
         \r\n",
        browser.agent,
        random % 97,
        browser.hints,
    );
}

/// What differs from browser to browser.
struct Browser {
    agent: &'static str,
    /// User agent client hints; only Chromium has them.
    hints: &'static str,
}

const BROWSERS: [Browser; 4] = [
    Browser {
        agent: "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 \
                Safari/537.36",
        hints: "sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\", \"Google Chrome\";v=\"140\"\r\n\
                sec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Windows\"\r\n",
    },
    Browser {
        agent: "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile \
                Safari/537.36",
        hints: "sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\", \"Google Chrome\";v=\"140\"\r\n\
                sec-ch-ua-mobile: ?1\r\nsec-ch-ua-platform: \"Android\"\r\n",
    },
    Browser {
        agent: "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 \
                Safari/537.36 Edg/140.0.0.0",
        hints: "sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\", \"Microsoft Edge\";v=\"140\"\r\n\
                sec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Windows\"\r\n",
    },
    Browser { agent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", hints: "" },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_requests_are_for_pages_that_are_asked_for_often() {
        let mut hits = 0;
        let mut headers = 0;
        for number in 0..1000 {
            let mut text = Vec::new();
            request(1, number, &mut text);
            let text = String::from_utf8(text).unwrap();
            hits += u64::from(text.starts_with("GET /page/Article"));
            headers += text.lines().count() - 2;
            assert!(text.contains(&format!("&id={number} ")) && text.ends_with("\r\n\r\n"));
        }
        assert!((800..900).contains(&hits), "{hits}");
        assert!((14_000..16_500).contains(&headers), "{headers}");
    }

    #[test]
    fn a_round_asks_for_every_page() {
        let mut paths: Vec<_> = (0..PAGES)
            .map(|number| {
                let mut text = Vec::new();
                page(1, number, &mut text);
                String::from_utf8(text).unwrap().split('?').next().unwrap().to_owned()
            })
            .collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len() as u64, PAGES);
    }
}
