//! The pipeline: records in, numbered lines out. Pure computation: it knows nothing of threads, files or Kafka.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::anonymize::Anonymizer;
use crate::config::{Config, ConfigError, IpFunction, Source, StreamConfig, StreamSide};
use crate::counters::{Counters, LossCause};
use crate::format::{Context, FormatError, Preset, Program, Settings, Timestamp};
use crate::log::{Filter, Position, Records, Side};
use crate::message::SaltId;
use crate::query::{Query, QueryError, TestTable};
use crate::salt::{Salts, since_epoch};
use crate::secret::{STACK, scrub_stack};
use crate::transaction::{Assembler, CaptureId, CaptureTable, Grouping, Interest, Limits, Set, Transaction};

/// Where lines go.
pub trait Output {
    /// Room for a line of this stream with this number, whose addresses are hashed under `salt`: to be appended to, then
    /// [`commit`](Self::commit)ted. `None` when there is none; the number is used up all the same.
    fn line(&mut self, stream: usize, sequence: u64, salt: Option<SaltId>) -> Option<&mut Vec<u8>>;

    /// The line of this stream is whole. `timestamp` is the request's start, milliseconds since 1970.
    fn commit(&mut self, stream: usize, timestamp: i64, hashed: bool);

    /// Takes back what was appended for a line of this stream that did not become whole.
    fn roll_back(&mut self, stream: usize);
}

/// A stream: what it takes, its format, and the number of its next line.
#[derive(Debug)]
struct Stream {
    side: Side,
    grouping: Grouping,
    esi: bool,
    query: Option<Query>,
    /// The set at hand is of its kind, and its query holds.
    chosen: bool,
    /// Every so many lines there is one.
    sample: u64,
    /// Lines that there would be without sampling.
    seen: u64,
    program: Program,
    next: u64,
}

impl Stream {
    /// Whether a line is made of a transaction of the set at hand.
    fn takes(&self, transaction: &Transaction<'_>) -> bool {
        self.chosen && transaction.side == self.side && (self.esi || !transaction.esi)
    }
}

/// Makes lines of records.
#[derive(Debug)]
pub struct Pipeline {
    assembler: Assembler,
    lines: Lines,
}

/// What happens to a whole transaction. Apart from the assembler, which is busy handing it over.
#[derive(Debug)]
struct Lines {
    streams: Vec<Stream>,
    /// The smallest sets that are asked for: transactions are counted in these.
    counted: Grouping,
    /// No stream has a query, or asks for larger sets.
    takes_all: bool,
    start: CaptureId,
    salts: Arc<Salts>,
    /// As [`Salts::wiped`] was when this thread's stack was wiped last.
    wiped: u64,
    ip: IpFunction,
    ip6_prefix: u8,
}

impl Pipeline {
    /// Compiles the streams of a configuration. Addresses are hashed under these salts.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the place in the configuration, down to the character of a format.
    pub fn compile(config: &Config, source: &Source, salts: Arc<Salts>) -> Result<Self, ConfigError> {
        let mut table = CaptureTable::default();
        let start = table.intern(crate::format::request_start());
        let settings = Settings {
            host: &config.host,
            address_headers: &config.anonymize.headers,
            searched: &config.anonymize.search,
        };
        let mut tests = TestTable::default();
        let mut streams = Vec::new();
        let mut interest = Interest::default();
        for stream in config.streams.get_ref() {
            let side = match stream.side {
                StreamSide::Client => Side::Client,
                StreamSide::Backend => Side::Backend,
            };
            let grouping = *stream.group.get_ref();
            let query = stream.query.as_ref().map(|query| {
                Query::compile(query.get_ref(), false, &mut tests)
                    .map_err(|error| source.error_within(query, error.offset(), query_complaint(&error)))
            });
            interest.client |= side == Side::Client;
            interest.backend |= side == Side::Backend;
            interest.esi |= stream.esi;
            interest.sets = interest.sets.with(grouping);
            streams.push(Stream {
                side,
                grouping,
                esi: stream.esi,
                query: query.transpose()?,
                chosen: true,
                sample: *stream.sample.get_ref(),
                seen: 0,
                program: compile_format(stream, source, settings, &mut table)?,
                next: 0,
            });
        }
        let counted = streams.iter().map(|stream| stream.grouping).min().unwrap_or_default();
        let is_plain = |stream: &Stream| stream.query.is_none() && stream.grouping == Grouping::Vxid;
        let takes_all = streams.iter().all(is_plain);
        let limits = Limits {
            transactions: *config.varnish.incomplete_limit.get_ref(),
            timeout: config.varnish.incomplete_timeout.0,
        };
        let assembler = Assembler::new(&table, &tests, interest, limits);
        let queries: Option<Vec<Query>> = streams.iter().map(|stream| stream.query.clone()).collect();
        Ok(Self {
            assembler: match queries {
                Some(queries) => assembler.deferring(&tests, queries),
                None => assembler,
            },
            lines: Lines {
                streams,
                counted,
                takes_all,
                start,
                salts,
                wiped: 0,
                ip: *config.anonymize.ip.get_ref(),
                ip6_prefix: *config.anonymize.ip6_prefix.get_ref(),
            },
        })
    }

    /// The records that a log source must hand out.
    #[must_use]
    pub fn wanted(&self) -> Filter {
        self.assembler.wanted()
    }

    /// Where the oldest unfinished transaction began, as far as the source has positions.
    #[must_use]
    pub fn oldest_position(&self) -> Option<Position> {
        self.assembler.oldest_position()
    }

    /// Transactions that have begun and not ended.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.assembler.open()
    }

    /// Takes a run of records that begins at `position`.
    pub fn feed(
        &mut self,
        records: Records<'_>,
        now: Instant,
        position: Option<Position>,
        counters: &Counters,
        output: &mut impl Output,
    ) {
        self.assembler.run(records, now, position, counters, |set| self.lines.set(set, counters, output));
        self.lines.wipe();
    }

    /// Takes a run of records whose transactions another reader has taken already if they end in it: what is left open
    /// is what it left open.
    pub fn feed_taken(&mut self, records: Records<'_>, now: Instant, position: Option<Position>, counters: &Counters) {
        self.assembler.run(records, now, position, counters, |_| {});
    }

    /// Renders the transactions that have been open for too long as they are.
    pub fn expire(&mut self, now: Instant, counters: &Counters, output: &mut impl Output) {
        self.assembler.expire(now, counters, |set| self.lines.set(set, counters, output));
        self.lines.wipe();
    }

    /// Renders all open transactions as they are: the log broke or ended.
    pub fn give_up_all(&mut self, counters: &Counters, output: &mut impl Output) {
        self.assembler.give_up_all(counters, |set| self.lines.set(set, counters, output));
    }
}

impl Lines {
    fn set(&mut self, set: &Set<'_>, counters: &Counters, output: &mut impl Output) {
        let counted = set.grouping == self.counted;
        if !self.takes_all && !self.choose(set) && !counted {
            return;
        }
        for transaction in set.transactions().filter(|transaction| !transaction.left_out) {
            counters.transactions.add(u64::from(counted));
            if self.streams.iter().any(|stream| stream.takes(&transaction)) {
                self.transaction(&transaction, counters, output);
            }
        }
    }

    /// Wipes what hashing under a salt that is over has left on this thread's stack.
    fn wipe(&mut self) {
        let wiped = self.salts.wiped();
        if wiped != self.wiped {
            scrub_stack::<STACK>();
            self.wiped = wiped;
        }
    }

    /// Asks the streams' queries about a set. Whether it is true of one.
    fn choose(&mut self, set: &Set<'_>) -> bool {
        let mut chosen = false;
        for stream in &mut self.streams {
            let is_its_kind = stream.grouping == set.grouping;
            stream.chosen = is_its_kind && stream.query.as_ref().is_none_or(|query| query.holds(set.members()));
            chosen |= stream.chosen;
        }
        chosen
    }

    /// Makes the lines of the streams that take a transaction.
    fn transaction(&mut self, transaction: &Transaction<'_>, counters: &Counters, output: &mut impl Output) {
        let start = transaction.value(self.start).and_then(Timestamp::parse);
        let time = start.map_or_else(since_epoch, Timestamp::since_epoch);
        let salt = self.salts.at(time);
        let anonymizer = Anonymizer::new(self.ip, salt.salt(), self.ip6_prefix);
        let salt_id = anonymizer.as_ref().and_then(Anonymizer::salt_id);
        let timestamp = Timestamp::from_epoch(time).milliseconds();
        for (index, stream) in self.streams.iter_mut().enumerate().filter(|(_, stream)| stream.takes(transaction)) {
            stream.seen += 1;
            if stream.sample > 1 && !stream.seen.is_multiple_of(stream.sample) {
                continue;
            }
            let sequence = stream.next;
            stream.next += 1;
            counters.streams[index].lines.add(1);
            let Some(line) = output.line(index, sequence, salt_id) else {
                counters.streams[index].lose(LossCause::Backlog, 1);
                continue;
            };
            let context = Context { transaction, sequence, start, anonymizer };
            // A defect in a format must cost one line, not the cache: unwinding ends here, and the number stays used up.
            match catch_unwind(AssertUnwindSafe(|| stream.program.render(&context, line))) {
                Ok(hashed) => output.commit(index, timestamp, hashed),
                Err(_) => {
                    output.roll_back(index);
                    counters.panics.add(1);
                    counters.streams[index].lose(LossCause::Panic, 1);
                }
            }
        }
    }
}

/// What is wrong with a query, in one line: the place is shown with the configuration.
fn query_complaint(error: &QueryError) -> String {
    if error.message.is_empty() {
        "the query is empty: leave it out to take every request".into()
    } else {
        error.message.clone()
    }
}

fn compile_format(
    stream: &StreamConfig,
    source: &Source,
    settings: Settings<'_>,
    table: &mut CaptureTable,
) -> Result<Program, ConfigError> {
    match (&stream.format, &stream.json, &stream.line) {
        (Some(name), None, None) => {
            let preset = Preset::by_name(name.get_ref()).ok_or_else(|| {
                let known = Preset::ALL.map(Preset::name).join(", ");
                source.error(name.span(), format!("there is no format `{}`, expected one of: {known}", name.get_ref()))
            })?;
            preset.compile(settings, table).map_err(|error| source.error(name.span(), error.message))
        }
        (None, Some(json), None) => Program::json(json.get_ref(), settings, table)
            .map_err(|FormatError { offset, message, .. }| source.error_within(json, offset, message)),
        (None, None, Some(line)) => Program::line(line.get_ref(), settings, table)
            .map_err(|FormatError { offset, message, .. }| source.error_within(line, offset, message)),
        (_, Some(other), _) | (_, _, Some(other)) => {
            Err(source.error(other.span(), "a stream has one of `format`, `json` and `line`, not several"))
        }
        (None, None, None) => Err(source.error(
            stream.name.span(),
            format!(
                "the stream `{}` has no format: add format = \"webrequest\", json = \"…\" or line = \"…\"",
                stream.name.get_ref()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::log::{Layout, Run, Tag};
    use crate::salt::{Clock, Missing};

    /// Keeps lines as text.
    #[derive(Debug, Default)]
    struct Kept {
        line: Vec<u8>,
        lines: Vec<(usize, String, i64, bool)>,
        full: bool,
    }

    impl Output for Kept {
        fn line(&mut self, _stream: usize, _sequence: u64, _salt: Option<SaltId>) -> Option<&mut Vec<u8>> {
            self.line.clear();
            (!self.full).then_some(&mut self.line)
        }

        fn commit(&mut self, stream: usize, timestamp: i64, hashed: bool) {
            let text = String::from_utf8(self.line.clone()).expect("lines are UTF-8");
            self.lines.push((stream, text, timestamp, hashed));
        }

        fn roll_back(&mut self, _stream: usize) {}
    }

    fn salts() -> Arc<Salts> {
        Arc::new(Salts::new(Duration::from_secs(86_400), Clock::Log, Missing::Local))
    }

    fn pipeline(streams: &str) -> Pipeline {
        let source = Source::from_text("k.toml", format!("host = \"cp1\"\n[kafka]\nbootstrap = [\"b:1\"]\n{streams}"));
        let config = Config::parse(&source).unwrap();
        Pipeline::compile(&config, &source, salts()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn run(pipeline: &mut Pipeline, output: &mut Kept, side: u32, records: &[(Tag, u32, &[u8])]) -> Counters {
        let counters = Counters::new(pipeline.lines.streams.len());
        let mut run = Run::of_records(side, records.iter().copied());
        pipeline.feed(run.records(Layout::One), Instant::now(), None, &counters, output);
        counters
    }

    const REQUEST: &[(Tag, u32, &[u8])] = &[
        (Tag::BEGIN, 7, b"req 1 rxreq"),
        (Tag::TIMESTAMP, 7, b"Start: 1700000000.123456 0.000000 0.000000"),
        (Tag::REQ_START, 7, b"192.0.2.44 51234 a0"),
        (Tag::REQ_METHOD, 7, b"GET"),
        (Tag::REQ_URL, 7, b"/wiki/\"A\xff\"?x=1&y=\\"),
        (Tag::REQ_PROTOCOL, 7, b"HTTP/1.1"),
        (Tag::REQ_HEADER, 7, b"Host: en.m.wikipedia.org"),
        (Tag::REQ_HEADER, 7, b"User-Agent: test \xc3\xbc"),
        (Tag::REQ_HEADER, 7, b"X-Forwarded-For: 198.51.100.7, 2001:db8::5, evil 203.0.113.9"),
        (Tag::REQ_HEADER, 7, b"Authorization: basic dXNlcjpwYXNz"),
        (Tag::VCL_CALL, 7, b"RECV"),
        (Tag::VCL_RETURN, 7, b"hash"),
        (Tag::VCL_CALL, 7, b"HIT"),
        (Tag::VCL_RETURN, 7, b"deliver"),
        (Tag::VCL_CALL, 7, b"DELIVER"),
        (Tag::TIMESTAMP, 7, b"Process: 1700000000.123656 0.000200 0.000200"),
        (Tag::RESP_STATUS, 7, b"200"),
        (Tag::RESP_HEADER, 7, b"Content-Type: text/html; charset=UTF-8"),
        (Tag::TIMESTAMP, 7, b"Resp: 1700000000.124456 0.001000 0.000800"),
        (Tag::REQ_ACCT, 7, b"100 0 100 200 4321 4521"),
        (Tag::END, 7, b""),
    ];

    #[test]
    fn addresses_are_found_in_text_where_that_is_asked_for() {
        let mut pipeline = pipeline(
            "[anonymize]\nip = \"truncate\"\nsearch = [\"url\", \"VCL_Log:seen\", \"Referer\"]\n[[stream]]\nname = \"w\"\noutput = \"stdout\"\n\
             line = '%U %q %r %{Referer}i %{VCL_Log:seen}x %{VCL_Log:other}x %{VSL:ReqURL}x'\n",
        );
        let mut kept = Kept::default();
        let records = REQUEST.iter().map(|(tag, vxid, text)| match *tag {
            Tag::REQ_URL => (*tag, *vxid, &b"/u/192.0.2.7?from=192.0.2.8&x"[..]),
            _ => (*tag, *vxid, *text),
        });
        let mut records: Vec<_> = records.collect();
        let end = records.pop().unwrap();
        records.extend([
            (Tag::REQ_HEADER, 7, &b"Referer: http://192.0.2.9:80/"[..]),
            (Tag::VCL_LOG, 7, b"seen:by 192.0.2.10"),
            (Tag::VCL_LOG, 7, b"other:v 1.2.3"),
            end,
        ]);
        run(&mut pipeline, &mut kept, 1, &records);
        assert_eq!(
            kept.lines[0].1,
            "/u/192.0.2.0 ?from=192.0.2.0&x GET http://en.m.wikipedia.org/u/192.0.2.0?from=192.0.2.0&x HTTP/1.1 \
             http://192.0.2.0:80/ by 192.0.2.0 v 1.2.3 /u/192.0.2.0?from=192.0.2.0&x"
        );
        assert!(!kept.lines[0].3, "nothing was hashed");
    }

    #[test]
    fn a_webrequest_record_has_its_fields_and_no_address() {
        let mut pipeline = pipeline("[[stream]]\nname = \"w\"\ntopic = \"t\"\nformat = \"webrequest\"\n");
        let mut kept = Kept::default();
        run(&mut pipeline, &mut kept, 1, REQUEST);
        let (_, line, timestamp, hashed) = &kept.lines[0];
        assert_eq!((*timestamp, *hashed), (1_700_000_000_123, true));
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        for (field, value) in [
            ("hostname", "cp1"),
            ("dt", "2023-11-14T22:13:20Z"),
            ("cache_status", "hit"),
            ("http_status", "200"),
            ("http_method", "GET"),
            ("uri_host", "en.m.wikipedia.org"),
            ("uri_path", "/wiki/\"A\u{fffd}\""),
            ("uri_query", "?x=1&y=\\"),
            ("content_type", "text/html; charset=UTF-8"),
            ("referer", "-"),
            ("user_agent", "test \u{fc}"),
        ] {
            assert_eq!(record[field], value, "{field}");
        }
        assert_eq!(record["sequence"], 0);
        assert_eq!(record["time_firstbyte"], 0.0002);
        assert_eq!(record["response_size"], 4321);
        assert_eq!(record["ip"].as_str().unwrap().len(), 32);
        let forwarded: Vec<_> = record["x_forwarded_for"].as_str().unwrap().split(", ").collect();
        assert_eq!((forwarded.len(), forwarded[0].len(), forwarded[1].len(), forwarded[2]), (3, 32, 32, "invalid"));
        for address in ["192.0.2", "198.51.100", "2001:db8", "203.0.113"] {
            assert!(!line.contains(address), "{line}");
        }
    }

    #[test]
    fn varnishncsas_line_and_varnishkafkas_fields() {
        let mut pipeline = pipeline(concat!(
            "[[stream]]\nname = \"n\"\ntopic = \"t\"\nformat = \"ncsa\"\n",
            "[[stream]]\nname = \"j\"\ntopic = \"t\"\njson = '%u@user %D@us!num %{VSL:ReqStart}x@start %{end:%H:%M:%S@end}t ",
            "%{Varnish:vxid@vxid!num}x %{VCL_Log:k@log?none}x %b@size!num %{No@no!num?7}i %r@line'\n",
        ));
        let mut kept = Kept::default();
        run(&mut pipeline, &mut kept, 1, REQUEST);
        let ncsa = &kept.lines[0].1;
        let rest = ncsa.split_once(' ').unwrap().1;
        assert!(rest.starts_with("- user [14/Nov/2023:") || rest.starts_with("- user [15/Nov/2023:"), "{ncsa}");
        let tail = "\"GET http://en.m.wikipedia.org/wiki/\\\"A\\xff\\\"?x=1&y=\\\\ HTTP/1.1\" 200 4321 \"-\" \"test \\xc3\\xbc\"";
        assert!(ncsa.ends_with(tail), "{ncsa}");
        let record: serde_json::Value = serde_json::from_str(&kept.lines[1].1).unwrap();
        assert_eq!(record["user"], "user");
        assert_eq!(record["us"], 999, "as varnishncsa computes it");
        assert_eq!(record["start"].as_str().unwrap().split(' ').skip(1).collect::<Vec<_>>(), ["51234", "a0"]);
        assert_eq!((&record["end"], &record["vxid"], &record["log"]), (&"22:13:20".into(), &7.into(), &"none".into()));
        assert_eq!((&record["size"], &record["no"]), (&4321.into(), &7.into()));
    }

    #[test]
    fn queries_samples_and_sets_choose() {
        let stream =
            |name: &str, rest: &str| format!("[[stream]]\nname = \"{name}\"\ntopic = \"t\"\nline = '%n %U'\n{rest}\n");
        let mut pipeline = pipeline(
            &[
                stream("all", ""),
                stream("some", "query = \"ReqHeader:Host ~ '\\\\.m\\\\.'\""),
                stream("none", "query = \"RespStatus >= 500\""),
                stream("third", "sample = 3"),
                stream("set", "group = \"request\"\nquery = \"{2}BereqURL eq '/b' and {1}ReqMethod eq GET\""),
                stream("esi", "esi = true\nquery = \"Begin[3] eq esi\""),
            ]
            .concat(),
        );
        let mut kept = Kept::default();
        for _ in 0..3 {
            run(&mut pipeline, &mut kept, 1, REQUEST);
        }
        let of = |kept: &Kept, stream: usize| {
            kept.lines.iter().filter(|line| line.0 == stream).map(|line| line.1.clone()).collect::<Vec<_>>()
        };
        assert_eq!([0, 1, 2, 3, 4, 5].map(|stream| of(&kept, stream).len()), [3, 3, 0, 1, 0, 0]);
        let set: &[(Tag, u32, &[u8])] = &[
            (Tag::BEGIN, 8, b"req 1 rxreq"),
            (Tag::REQ_METHOD, 8, b"GET"),
            (Tag::REQ_URL, 8, b"/a"),
            (Tag::LINK, 8, b"bereq 9 fetch"),
            (Tag::LINK, 8, b"req 10 esi"),
            (Tag::BEGIN, 9, b"bereq 8 fetch"),
            (Tag::BEREQ_URL, 9, b"/b"),
            (Tag::END, 9, b""),
            (Tag::END, 8, b""),
            (Tag::BEGIN, 10, b"req 8 esi"),
            (Tag::REQ_URL, 10, b"/sub"),
            (Tag::END, 10, b""),
        ];
        run(&mut pipeline, &mut kept, 1, set);
        assert_eq!(of(&kept, 0).last().map(String::as_str), Some("3 /a"));
        assert_eq!((of(&kept, 4), of(&kept, 5)), (vec!["0 /a".to_owned()], vec!["0 /sub".to_owned()]));
        assert_eq!(pipeline.open_transactions(), 0);
    }

    #[test]
    fn udp2logs_line_has_sixteen_fields() {
        let mut pipeline = pipeline("[[stream]]\nname = \"u\"\ntopic = \"t\"\nformat = \"udp2log\"\n");
        let mut kept = Kept::default();
        let mut records = REQUEST.to_vec();
        records[4].2 = b"/wiki/a b";
        run(&mut pipeline, &mut kept, 1, &records);
        let fields: Vec<_> = kept.lines[0].1.split('\t').collect();
        assert_eq!(fields.len(), 16);
        let expected = ["cp1", "0", "2023-11-14T22:13:20", "0.000200"];
        assert_eq!((&fields[..4], fields[4].len()), (&expected[..], 32));
        assert_eq!(fields[5..9], ["hit/200", "4321", "GET", "http://en.m.wikipedia.org/wiki/a%20b"]);
        assert_eq!((fields[10], fields[13], fields[15]), ("text/html;%20charset=UTF-8", "test%20\u{fc}", "-"));
    }

    #[test]
    fn sides_are_kept_apart_and_numbers_are_used_up_without_room() {
        let mut pipeline = pipeline(concat!(
            "[[stream]]\nname = \"c\"\ntopic = \"t\"\njson = '%n@n!num'\n",
            "[[stream]]\nname = \"b\"\ntopic = \"t\"\nside = \"backend\"\njson = '%n@n!num %{Varnish:side@side}x'\n",
        ));
        let mut kept = Kept::default();
        run(&mut pipeline, &mut kept, 1, REQUEST);
        run(&mut pipeline, &mut kept, 2, &[(Tag::BEGIN, 9, b"bereq 7 fetch"), (Tag::END, 9, b"")]);
        kept.full = true;
        let counters = run(&mut pipeline, &mut kept, 1, REQUEST);
        assert_eq!((counters.streams[0].lines.get(), counters.streams[0].lost(LossCause::Backlog)), (1, 1));
        kept.full = false;
        run(&mut pipeline, &mut kept, 1, REQUEST);
        let lines: Vec<_> = kept.lines.iter().map(|line| (line.0, line.1.as_str())).collect();
        assert_eq!(lines, [(0, "{\"n\":0}"), (1, "{\"n\":0,\"side\":\"b\"}"), (0, "{\"n\":2}")]);
    }

    #[test]
    fn restarts_and_garbage_are_left_out() {
        let mut pipeline = pipeline("[[stream]]\nname = \"c\"\ntopic = \"t\"\njson = '%n@n!num'\n");
        let mut kept = Kept::default();
        let begin = (Tag::BEGIN, 7, &b"req 1 rxreq"[..]);
        run(&mut pipeline, &mut kept, 1, &[begin, (Tag::VCL_RETURN, 7, b"restart"), (Tag::END, 7, b"")]);
        run(&mut pipeline, &mut kept, 1, &[begin, (Tag::HTTP_GARBAGE, 7, b"x"), (Tag::END, 7, b"")]);
        run(&mut pipeline, &mut kept, 1, &[begin, (Tag::END, 7, b"")]);
        assert_eq!(kept.lines.len(), 1);
    }

    #[test]
    fn a_wrong_format_is_shown_with_its_place() {
        for (stream, place, what) in [
            ("format = \"webreqest\"", "k.toml:7:10", "expected one of: webrequest, ncsa, udp2log"),
            ("json = '%s@a %Z@b'", "k.toml:7:14", "`%Z` is no specifier"),
            ("json = '%{VSL:Nix@b}x'", "k.toml:7:9", "`Nix` is no tag"),
            ("json = '%b@b!num?x'", "k.toml:7:9", "the default `x` is no number"),
            ("json = '%{VSL:H2RxBody@b}x'", "k.toml:7:9", "control characters"),
            ("json = '%{VSL:ReqHeader@b}x'", "k.toml:7:9", "which header?"),
            ("line = '%s %Z'", "k.toml:7:12", "`%Z` is no specifier"),
            ("format = \"ncsa\"\nquery = 'ReqURL foo'", "k.toml:8:17", "Expected operator got 'foo'"),
            ("format = \"ncsa\"\nquery = ''", "k.toml:8:10", "the query is empty"),
            ("format = \"ncsa\"\nline = '%s'", "k.toml:8:8", "one of `format`, `json` and `line`"),
            ("", "k.toml:5:8", "has no format"),
        ] {
            let text = format!(
                "host = \"h\"\n[kafka]\nbootstrap = [\"b:1\"]\n[[stream]]\nname = \"w\"\ntopic = \"t\"\n{stream}\n"
            );
            let source = Source::from_text("k.toml", text);
            let error =
                Pipeline::compile(&Config::parse(&source).unwrap(), &source, salts()).expect_err(stream).to_string();
            assert!(error.starts_with(place) && error.contains(what), "{error}");
        }
    }

    proptest! {
        /// Whatever the records hold, lines are whole, valid and free of the client's address.
        #[test]
        fn any_records_make_valid_lines(
            payloads in proptest::collection::vec((0_usize..21, any::<Vec<u8>>()), 0..30),
            address: std::net::Ipv4Addr,
        ) {
            let mut pipeline = pipeline(concat!(
                "[[stream]]\nname = \"w\"\ntopic = \"t\"\nformat = \"webrequest\"\n",
                "[[stream]]\nname = \"n\"\ntopic = \"t\"\nformat = \"ncsa\"\n",
            ));
            let start = format!("{address} 1234 a0");
            let mut records = vec![REQUEST[0], (Tag::REQ_START, 7, start.as_bytes())];
            let others: Vec<(Tag, Vec<u8>)> = payloads.into_iter().map(|(index, mut bytes)| {
                let (tag, _, known) = REQUEST[index];
                bytes.truncate(400);
                let mut payload = known[..known.len() / 2].to_vec();
                payload.extend_from_slice(&bytes);
                (tag, payload)
            }).filter(|(tag, _)| ![Tag::BEGIN, Tag::END, Tag::VCL_RETURN, Tag::HTTP_GARBAGE].contains(tag)).collect();
            records.extend(others.iter().map(|(tag, payload)| (*tag, 7, payload.as_slice())));
            records.push((Tag::END, 7, b""));
            let mut kept = Kept::default();
            run(&mut pipeline, &mut kept, 1, &records);
            prop_assert_eq!(kept.lines.len(), 2);
            let record: serde_json::Value = serde_json::from_str(&kept.lines[0].1).unwrap();
            prop_assert_eq!(record["ip"].as_str().map(str::len), Some(32));
            prop_assert!(kept.lines[1].1.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        }
    }
}
