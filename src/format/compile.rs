//! From specifiers to a program.

use jiff::tz::TimeZone;

use super::append::Text;
use super::parse::{self, Item, Kind, Specifier};
use super::time::Clock;
use super::{Escape, FormatError, append_hex_quoted, append_json};
use crate::log::Tag;
use crate::transaction::{Capture, CaptureId, CaptureTable, Pick, Select, Source};

/// What a format is compiled with, beside its notation.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The host's name, for `%l` of a JSON format.
    pub host: &'a str,
    /// Headers that hold addresses.
    pub address_headers: &'a [String],
}

/// One step of a program: text as it stands, and what follows it.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) text: Text,
    pub(super) operation: Operation,
}

/// What a step appends to the line behind its text; `missing` is what it appends when the log has no such value, escaped
/// already.
#[derive(Debug)]
pub(super) enum Operation {
    Sequence,
    Vxid,
    Side,
    Handling,
    HitMiss,
    SaltId {
        missing: Box<[u8]>,
    },
    Value {
        capture: CaptureId,
        missing: Box<[u8]>,
    },
    Number {
        capture: CaptureId,
        missing: Box<[u8]>,
    },
    /// An address: hashed.
    Address {
        capture: CaptureId,
        missing: Box<[u8]>,
    },
    /// A header that lists addresses: each hashed, and nothing unknown let through.
    AddressList {
        capture: CaptureId,
        missing: Box<[u8]>,
    },
    /// A record with addresses among its words: those hashed.
    AddressWords {
        capture: CaptureId,
        missing: Box<[u8]>,
    },
    /// A URL up to its `?`.
    Path {
        capture: CaptureId,
        missing: Box<[u8]>,
    },
    /// A URL from its `?` on.
    Query {
        capture: CaptureId,
        missing: Box<[u8]>,
    },
    /// `http://` and the host, where the host does not begin with it.
    Origin {
        capture: CaptureId,
        missing: Box<[u8]>,
    },
    /// The user of Basic authorization.
    User {
        capture: CaptureId,
        missing: Box<[u8]>,
    },
    /// A time by the clock of this index; `end` where it is not the request's start.
    Time {
        clock: usize,
        end: Option<CaptureId>,
        missing: Box<[u8]>,
    },
    /// The request's start as a number.
    Start {
        unit: Unit,
        missing: Box<[u8]>,
    },
    /// From the request's start to its end.
    Duration {
        end: CaptureId,
        unit: Unit,
        missing: Box<[u8]>,
    },
}

/// The unit of a time that is shown as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
    /// The milliseconds since the last whole second, three digits.
    MillisecondsFraction,
    /// The microseconds since the last whole second, six digits.
    MicrosecondsFraction,
}

/// A compiled format. It shows times through clocks that remember the last second, so that rendering changes it.
#[derive(Debug)]
pub struct Program {
    pub(super) steps: Vec<Step>,
    /// The text behind the last step.
    pub(super) end: Text,
    pub(super) clocks: Vec<Clock>,
    pub(super) escape: Escape,
}

impl Program {
    /// Compiles a text format in varnishncsa's notation.
    ///
    /// # Errors
    ///
    /// [`FormatError`] with the place in the notation.
    pub fn line(notation: &str, settings: Settings<'_>, table: &mut CaptureTable) -> Result<Self, FormatError> {
        let items = parse::line(notation)?;
        let mut compiler = Compiler::new(settings, table, Escape::Hex);
        for item in items {
            match item {
                Item::Literal(text) => compiler.literal(&text),
                Item::Specifier(specifier) => compiler.specifier(&specifier)?,
            }
        }
        Ok(compiler.finish())
    }

    /// Compiles a JSON format in varnishkafka's notation.
    ///
    /// # Errors
    ///
    /// [`FormatError`] with the place in the notation.
    pub fn json(notation: &str, settings: Settings<'_>, table: &mut CaptureTable) -> Result<Self, FormatError> {
        let fields = parse::fields(notation)?;
        let mut compiler = Compiler::new(settings, table, Escape::Json);
        for (index, field) in fields.iter().enumerate() {
            compiler.literal(if index == 0 { b"{\"" } else { b",\"" });
            let mut name = Vec::new();
            append_json(field.field.as_deref().unwrap_or_default().as_bytes(), &mut name);
            compiler.literal(&name);
            let quote: &[u8] = if field.kind == Some(Kind::Number) { b"" } else { b"\"" };
            compiler.literal(b"\":");
            compiler.literal(quote);
            compiler.specifier(field)?;
            compiler.literal(quote);
        }
        compiler.literal(b"}");
        Ok(compiler.finish())
    }
}

struct Compiler<'a> {
    settings: Settings<'a>,
    table: &'a mut CaptureTable,
    program: Program,
    /// What has been read of text since the last step.
    text: Vec<u8>,
}

impl<'a> Compiler<'a> {
    fn new(settings: Settings<'a>, table: &'a mut CaptureTable, escape: Escape) -> Self {
        let program = Program { steps: Vec::new(), end: Text::default(), clocks: Vec::new(), escape };
        Self { settings, table, program, text: Vec::new() }
    }

    fn finish(self) -> Program {
        Program { end: Text::new(&self.text), ..self.program }
    }

    fn literal(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
    }

    fn add(&mut self, operation: Operation) {
        let text = Text::new(&std::mem::take(&mut self.text));
        self.program.steps.push(Step { text, operation });
    }

    /// What stands for a missing value: the default that the format gives, or `otherwise`.
    fn missing(&self, specifier: &Specifier, otherwise: &str) -> Result<Box<[u8]>, FormatError> {
        let number = specifier.kind == Some(Kind::Number);
        let text = match &specifier.missing {
            Some(text) if number && !super::render::is_json_number(text.as_bytes()) => {
                return Err(FormatError::new(
                    specifier.offset,
                    format!("the default `{text}` is no number, but !num wants one"),
                ));
            }
            Some(text) => text,
            None if number => "null",
            None => otherwise,
        };
        let mut escaped = Vec::new();
        match self.program.escape {
            Escape::Hex => append_hex_quoted(text.as_bytes(), &mut escaped),
            Escape::Json => append_json(text.as_bytes(), &mut escaped),
        }
        Ok(escaped.into())
    }

    /// A value as it is, or as a number if the format says so.
    fn value(&mut self, specifier: &Specifier, capture: Capture, otherwise: &str) -> Result<(), FormatError> {
        let capture = self.table.intern(capture);
        let missing = self.missing(specifier, otherwise)?;
        self.add(match specifier.kind {
            Some(Kind::Number) => Operation::Number { capture, missing },
            _ => Operation::Value { capture, missing },
        });
        Ok(())
    }

    fn specifier(&mut self, specifier: &Specifier) -> Result<(), FormatError> {
        let takes_argument = matches!(specifier.letter, 'i' | 'o' | 't' | 'T' | 'x');
        if !takes_argument && !specifier.argument.is_empty() {
            return Err(FormatError::new(
                specifier.offset,
                format!("`%{}` takes nothing in braces but `{}` is there", specifier.letter, specifier.argument),
            ));
        }
        let json = self.program.escape == Escape::Json;
        match specifier.letter {
            'b' => self.value(specifier, accounting(5, None), "-"),
            'I' => self.value(specifier, accounting(3, Some(3)), "-"),
            'O' => self.value(specifier, accounting(6, Some(4)), "-"),
            's' => self.value(
                specifier,
                Capture::of([Tag::RESP_STATUS, Tag::BERESP_STATUS], &Select::Line, Pick::Last),
                "-",
            ),
            'm' => self.value(specifier, method(), "-"),
            'H' => self.value(specifier, protocol(), "HTTP/1.0"),
            'h' => {
                let (capture, missing) = (self.table.intern(remote_address()), self.missing(specifier, "-")?);
                self.add(Operation::Address { capture, missing });
                Ok(())
            }
            'U' => {
                let (capture, missing) = (self.table.intern(url()), self.missing(specifier, "-")?);
                self.add(Operation::Path { capture, missing });
                Ok(())
            }
            'q' => {
                let (capture, missing) = (self.table.intern(url()), self.missing(specifier, "")?);
                self.add(Operation::Query { capture, missing });
                Ok(())
            }
            'u' => {
                let (capture, missing) = (self.table.intern(basic_authorization()), self.missing(specifier, "-")?);
                self.add(Operation::User { capture, missing });
                Ok(())
            }
            'l' if json => {
                let mut host = Vec::new();
                append_json(self.settings.host.as_bytes(), &mut host);
                self.literal(&host);
                Ok(())
            }
            'l' => {
                self.literal(b"-");
                Ok(())
            }
            'n' => {
                self.add(Operation::Sequence);
                Ok(())
            }
            'r' => self.request_line(specifier),
            't' => self.time(specifier),
            'D' => self.duration(specifier, Unit::Microseconds),
            'T' => {
                let unit = match specifier.argument.as_str() {
                    "" | "s" => Unit::Seconds,
                    "ms" => Unit::Milliseconds,
                    "us" => Unit::Microseconds,
                    other => {
                        return Err(FormatError::new(
                            specifier.offset,
                            format!("`%{{{other}}}T`: expected s, ms or us"),
                        ));
                    }
                };
                self.duration(specifier, unit)
            }
            'i' => self.header(specifier, [Tag::REQ_HEADER, Tag::BEREQ_HEADER]),
            'o' => self.header(specifier, [Tag::RESP_HEADER, Tag::BERESP_HEADER]),
            'x' => self.extension(specifier),
            letter => Err(FormatError::new(
                specifier.offset,
                format!(
                    "`%{letter}` is no specifier: expected one of b D h H I l m n O q r s t T u U, or %{{…}} with i o t T x"
                ),
            )),
        }
    }

    /// `%r`: `%m http://HOST%U%q %H`
    fn request_line(&mut self, specifier: &Specifier) -> Result<(), FormatError> {
        let plain = Specifier { missing: None, kind: None, ..specifier.clone() };
        self.value(&plain, method(), "-")?;
        self.literal(b" ");
        let host = self.table.intern(Capture::of([Tag::REQ_HEADER, Tag::BEREQ_HEADER], &header("Host"), Pick::Last));
        self.add(Operation::Origin { capture: host, missing: b"http://localhost"[..].into() });
        let url = self.table.intern(url());
        self.add(Operation::Path { capture: url, missing: [].into() });
        self.add(Operation::Query { capture: url, missing: [].into() });
        self.literal(b" ");
        self.value(&plain, protocol(), "HTTP/1.0")
    }

    fn time(&mut self, specifier: &Specifier) -> Result<(), FormatError> {
        let missing = self.missing(specifier, "-")?;
        let (format, end) = match specifier.argument.strip_prefix("end:") {
            Some(format) => (format, Some(self.table.intern(response_end()))),
            None => (specifier.argument.as_str(), None),
        };
        let unit = match format {
            "sec" => Some(Unit::Seconds),
            "msec" => Some(Unit::Milliseconds),
            "usec" => Some(Unit::Microseconds),
            "msec_frac" => Some(Unit::MillisecondsFraction),
            "usec_frac" => Some(Unit::MicrosecondsFraction),
            _ => None,
        };
        if let (Some(unit), None) = (unit, end) {
            self.add(Operation::Start { unit, missing });
            return Ok(());
        }
        // varnishncsa shows local time; a JSON record is joined with those of other places, so it is always UTC there.
        let zone = if self.program.escape == Escape::Json { TimeZone::UTC } else { TimeZone::system() };
        let format = if format.is_empty() { "[%d/%b/%Y:%T %z]" } else { format };
        let clock = self.program.clocks.len();
        self.program.clocks.push(Clock::new(format, zone, specifier.offset)?);
        self.add(Operation::Time { clock, end, missing });
        Ok(())
    }

    fn duration(&mut self, specifier: &Specifier, unit: Unit) -> Result<(), FormatError> {
        let (end, missing) = (self.table.intern(response_end()), self.missing(specifier, "-")?);
        self.add(Operation::Duration { end, unit, missing });
        Ok(())
    }

    fn header(&mut self, specifier: &Specifier, tags: [Tag; 2]) -> Result<(), FormatError> {
        let name = &specifier.argument;
        if name.is_empty() || name.contains([':', ' ']) {
            return Err(FormatError::new(
                specifier.offset,
                format!("`{name}` is no header's name: write it as in %{{Host}}i"),
            ));
        }
        let capture = Capture::of(tags, &header(name), Pick::Last);
        if self.settings.address_headers.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            let (capture, missing) = (self.table.intern(capture), self.missing(specifier, "-")?);
            self.add(Operation::AddressList { capture, missing });
            return Ok(());
        }
        self.value(specifier, capture, "-")
    }

    fn extension(&mut self, specifier: &Specifier) -> Result<(), FormatError> {
        let argument = specifier.argument.as_str();
        match argument {
            "Varnish:time_firstbyte" => self.value(specifier, first_byte(), "-"),
            "Varnish:hitmiss" => {
                self.add(Operation::HitMiss);
                Ok(())
            }
            "Varnish:handling" => {
                self.add(Operation::Handling);
                Ok(())
            }
            "Varnish:side" => {
                self.add(Operation::Side);
                Ok(())
            }
            "Varnish:vxid" | "Varnish:xvid" => {
                self.add(Operation::Vxid);
                Ok(())
            }
            "Kafkalog:salt_id" => {
                let missing = self.missing(specifier, "-")?;
                self.add(Operation::SaltId { missing });
                Ok(())
            }
            _ if argument.starts_with("fake") => {
                // varnishkafka's way to write a constant: the default of something that is never there.
                let constant = self.missing(specifier, "-")?;
                self.literal(&constant);
                Ok(())
            }
            _ => match argument.split_once(':') {
                Some(("VCL_Log", key)) if !key.is_empty() => {
                    let select = Select::Key(key.as_bytes().into());
                    self.value(specifier, Capture(vec![Source { tag: Tag::VCL_LOG, select, pick: Pick::First }]), "")
                }
                Some(("VSL", rest)) => self.record(specifier, rest),
                _ => Err(FormatError::new(
                    specifier.offset,
                    format!(
                        "`%{{{argument}}}x`: expected Varnish:time_firstbyte, Varnish:hitmiss, Varnish:handling, Varnish:side, \
                         Varnish:vxid, VCL_Log:KEY, VSL:TAG[:PREFIX][N] or Kafkalog:salt_id"
                    ),
                )),
            },
        }
    }

    /// `%{VSL:tag[:prefix][N]}x`
    fn record(&mut self, specifier: &Specifier, text: &str) -> Result<(), FormatError> {
        let fail = |message: String| FormatError::new(specifier.offset, message);
        let (text, number) = match text.strip_suffix(']').and_then(|text| text.rsplit_once('[')) {
            Some((text, number)) => match number.parse::<u8>() {
                Ok(number @ 1..) => (text, Some(number)),
                _ => return Err(fail(format!("`[{number}]` is no field number: expected 1 to 255"))),
            },
            None => (text, None),
        };
        let (name, prefix) = text.split_once(':').map_or((text, None), |(name, prefix)| (name, Some(prefix)));
        let tag = Tag::by_name(name).ok_or_else(|| {
            fail(format!("`{name}` is no tag, or the beginning of several: see vsl(7) for their names"))
        })?;
        if tag.is_binary() || (tag.is_unsafe() && self.program.escape != Escape::Json) {
            return Err(fail(format!("records of tag {name} can hold control characters; they cannot be shown here")));
        }
        let select = match (prefix, number) {
            (None, None) => Select::Line,
            (None, Some(number)) => Select::Field(number),
            (Some(prefix), None) => Select::Header(prefix.as_bytes().into()),
            (Some(prefix), Some(number)) => Select::HeaderField(prefix.as_bytes().into(), number),
        };
        let lists_addresses = prefix
            .is_some_and(|prefix| self.settings.address_headers.iter().any(|known| known.eq_ignore_ascii_case(prefix)));
        let is_header = [Tag::REQ_HEADER, Tag::BEREQ_HEADER, Tag::RESP_HEADER, Tag::BERESP_HEADER].contains(&tag);
        if is_header && prefix.is_none() {
            return Err(fail(format!(
                "which header? Write VSL:{name}:HEADER, so that headers with addresses are not shown by chance"
            )));
        }
        let capture = self.table.intern(Capture(vec![Source { tag, select, pick: Pick::First }]));
        let missing = self.missing(specifier, "-")?;
        self.add(if is_header && lists_addresses {
            Operation::AddressList { capture, missing }
        } else if tag.may_hold_addresses() {
            Operation::AddressWords { capture, missing }
        } else if specifier.kind == Some(Kind::Number) {
            Operation::Number { capture, missing }
        } else {
            Operation::Value { capture, missing }
        });
        Ok(())
    }
}

fn header(name: &str) -> Select {
    Select::Header(name.as_bytes().into())
}

fn method() -> Capture {
    Capture::of([Tag::REQ_METHOD, Tag::BEREQ_METHOD], &Select::Line, Pick::First)
}

fn protocol() -> Capture {
    Capture::of([Tag::REQ_PROTOCOL, Tag::BEREQ_PROTOCOL], &Select::Line, Pick::First)
}

fn url() -> Capture {
    Capture::of([Tag::REQ_URL, Tag::BEREQ_URL], &Select::Line, Pick::First)
}

/// The client's address, or the backend's.
fn remote_address() -> Capture {
    Capture(vec![
        Source { tag: Tag::REQ_START, select: Select::Field(1), pick: Pick::First },
        Source { tag: Tag::BACKEND_OPEN, select: Select::Field(3), pick: Pick::Last },
    ])
}

/// Byte counts: a field of `ReqAcct` and `BereqAcct`, and of `PipeAcct` where it has one.
fn accounting(field: u8, pipe: Option<u8>) -> Capture {
    let source = |tag, field| Source { tag, select: Select::Field(field), pick: Pick::First };
    let mut sources = vec![source(Tag::REQ_ACCT, field), source(Tag::BEREQ_ACCT, field)];
    sources.extend(pipe.map(|field| source(Tag::PIPE_ACCT, field)));
    Capture(sources)
}

/// A field of the first `Timestamp` record with one of these labels.
fn timestamp(labels: &[&str], field: u8) -> Capture {
    let source = |label: &&str| Source {
        tag: Tag::TIMESTAMP,
        select: Select::HeaderField(label.as_bytes().into(), field),
        pick: Pick::First,
    };
    Capture(labels.iter().map(source).collect())
}

/// When the request started, seconds since 1970: the message's time, and the one that its salt is chosen by.
pub(crate) fn request_start() -> Capture {
    timestamp(&["Start"], 1)
}

fn response_end() -> Capture {
    timestamp(&["Resp", "PipeSess", "BerespBody"], 1)
}

fn first_byte() -> Capture {
    timestamp(&["Process", "Pipe", "Beresp"], 2)
}

fn basic_authorization() -> Capture {
    Capture::of([Tag::REQ_HEADER, Tag::BEREQ_HEADER], &header("Authorization"), Pick::First)
}
