//! From specifiers to a program.

use super::append::Text;
use super::parse::{self, Item, Kind, Specifier};
use super::time::{Clock, Zone, check_time_format};
use super::values::{
    accounting, basic_authorization, header, host, method, protocol, remote_address, response_end, status, url,
};
use super::{Escape, FormatError, append_json};
use crate::log::Tag;
use crate::transaction::{Capture, CaptureId, CaptureTable, Pick};

/// What a format is compiled with, beside its notation.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The host's name, for `%l` of a JSON format.
    pub host: &'a str,
    /// Headers that hold addresses.
    pub address_headers: &'a [String],
    /// Where addresses are looked for in other text: `url`, `VCL_Log`, `VCL_Log:KEY`, or a header's name.
    pub searched: &'a [String],
}

impl Settings<'_> {
    /// Whether addresses are looked for in what has this name.
    pub(super) fn searches(&self, name: &str) -> bool {
        self.searched.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
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
    /// Text with addresses anywhere in it: those hashed.
    Searched {
        capture: CaptureId,
        part: Part,
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

/// Which part of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// Of a URL, up to its `?`.
    Path,
    /// Of a URL, from its `?` on.
    Query,
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
    needs_start: bool,
}

impl Program {
    /// Whether it shows the request's start, or a time that is counted from there: varnishncsa has no line for a request
    /// without one.
    #[must_use]
    pub fn needs_start(&self) -> bool {
        self.needs_start
    }

    /// Compiles a text format in varnishncsa's notation.
    ///
    /// # Errors
    ///
    /// [`FormatError`] with the place in the notation.
    pub fn line(notation: &str, settings: Settings<'_>, table: &mut CaptureTable) -> Result<Self, FormatError> {
        Compiler::new(notation, settings, table, Escape::Hex, Dialect::Stream).line()
    }

    /// Compiles a text format whose fields are separated by tabs: times are UTC.
    ///
    /// # Errors
    ///
    /// As [`line`](Self::line).
    pub fn tab_separated(
        notation: &str,
        settings: Settings<'_>,
        table: &mut CaptureTable,
    ) -> Result<Self, FormatError> {
        Compiler::new(notation, settings, table, Escape::Percent, Dialect::Stream).line()
    }

    /// Compiles a format for the program `varnishncsa`: addresses are shown as they are. `json` is its option `-j`.
    ///
    /// # Errors
    ///
    /// [`FormatError`] with varnishncsa's own message.
    pub fn varnishncsa(notation: &str, json: bool, table: &mut CaptureTable) -> Result<Self, FormatError> {
        let escape = if json { Escape::Raw } else { Escape::Hex };
        let settings = Settings { host: "", address_headers: &[], searched: &[] };
        Compiler::new(notation, settings, table, escape, Dialect::Varnishncsa { json }).line()
    }

    /// Compiles a JSON format in varnishkafka's notation.
    ///
    /// # Errors
    ///
    /// [`FormatError`] with the place in the notation.
    pub fn json(notation: &str, settings: Settings<'_>, table: &mut CaptureTable) -> Result<Self, FormatError> {
        let fields = parse::fields(notation)?;
        let mut compiler = Compiler::new(notation, settings, table, Escape::Json, Dialect::Stream);
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

/// Whose rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// A stream's: addresses are hashed, and there is more than varnishncsa has.
    Stream,
    Varnishncsa {
        json: bool,
    },
}

impl Dialect {
    pub(super) fn shows_addresses(self) -> bool {
        self != Self::Stream
    }

    fn missing_text(self) -> &'static str {
        if self == (Self::Varnishncsa { json: true }) { "" } else { "-" }
    }

    fn missing_number(self) -> &'static str {
        if self == (Self::Varnishncsa { json: true }) { "0" } else { "-" }
    }
}

pub(super) struct Compiler<'a> {
    notation: &'a str,
    pub(super) dialect: Dialect,
    pub(super) settings: Settings<'a>,
    pub(super) table: &'a mut CaptureTable,
    pub(super) program: Program,
    /// What has been read of text since the last step.
    text: Vec<u8>,
}

impl<'a> Compiler<'a> {
    fn new(
        notation: &'a str,
        settings: Settings<'a>,
        table: &'a mut CaptureTable,
        escape: Escape,
        dialect: Dialect,
    ) -> Self {
        let (steps, clocks) = (Vec::new(), Vec::new());
        let program = Program { steps, end: Text::default(), clocks, escape, needs_start: false };
        Self { notation, dialect, settings, table, program, text: Vec::new() }
    }

    /// Compiles a text format.
    fn line(mut self) -> Result<Program, FormatError> {
        for item in parse::line(self.notation)? {
            match item {
                Item::Literal(text) => self.literal(&text),
                Item::Specifier(specifier) => self.specifier(&specifier)?,
            }
        }
        Ok(self.finish())
    }

    fn finish(self) -> Program {
        Program { end: Text::new(&self.text), ..self.program }
    }

    pub(super) fn literal(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
    }

    pub(super) fn add(&mut self, operation: Operation) {
        let text = Text::new(&std::mem::take(&mut self.text));
        self.program.steps.push(Step { text, operation });
    }

    /// What stands for a missing value: the default that the format gives, or `otherwise`.
    pub(super) fn missing(&self, specifier: &Specifier, otherwise: &str) -> Result<Box<[u8]>, FormatError> {
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
        self.program.escape.append(text.as_bytes(), &mut escaped);
        Ok(escaped.into())
    }

    /// A value as it is, or as a number if the format says so.
    pub(super) fn value(
        &mut self,
        specifier: &Specifier,
        capture: Capture,
        otherwise: &str,
    ) -> Result<(), FormatError> {
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
            )
            .or_in_varnishncsa(self.unknown(specifier)));
        }
        let json = self.program.escape == Escape::Json;
        match specifier.letter {
            'b' => self.number(specifier, accounting(5, None)),
            'I' => self.number(specifier, accounting(3, Some(3))),
            'O' => self.number(specifier, accounting(6, Some(4))),
            's' => self.number(specifier, status()),
            'm' => self.text(specifier, method()),
            'H' => self.value(specifier, protocol(), "HTTP/1.0"),
            'h' if self.dialect.shows_addresses() => self.text(specifier, remote_address()),
            'h' => {
                let (capture, missing) = (self.table.intern(remote_address()), self.missing(specifier, "-")?);
                self.add(Operation::Address { capture, missing });
                Ok(())
            }
            'U' => {
                let missing = self.missing(specifier, self.dialect.missing_text())?;
                self.url(Part::Path, missing);
                Ok(())
            }
            'q' => {
                let missing = self.missing(specifier, "")?;
                self.url(Part::Query, missing);
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
            'n' if self.dialect == Dialect::Stream => {
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
                        )
                        .or_in_varnishncsa(format!("Unknown specifier: %{{{other}}}T")));
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
            )
            .or_in_varnishncsa(self.unknown(specifier))),
        }
    }

    /// What varnishncsa says of a specifier that it does not know.
    fn unknown(&self, specifier: &Specifier) -> String {
        format!("Unknown format specifier at: {}", &self.notation[specifier.offset..])
    }

    pub(super) fn text(&mut self, specifier: &Specifier, capture: Capture) -> Result<(), FormatError> {
        self.value(specifier, capture, self.dialect.missing_text())
    }

    pub(super) fn number(&mut self, specifier: &Specifier, capture: Capture) -> Result<(), FormatError> {
        self.value(specifier, capture, self.dialect.missing_number())
    }

    fn url(&mut self, part: Part, missing: Box<[u8]>) {
        let capture = self.table.intern(url());
        self.add(match part {
            _ if self.settings.searches("url") => Operation::Searched { capture, part, missing },
            Part::Path => Operation::Path { capture, missing },
            Part::Query => Operation::Query { capture, missing },
            Part::Whole => Operation::Value { capture, missing },
        });
    }

    /// `%r`: `%m http://HOST%U%q %H`
    fn request_line(&mut self, specifier: &Specifier) -> Result<(), FormatError> {
        let plain = Specifier { missing: None, kind: None, ..specifier.clone() };
        self.value(&plain, method(), "-")?;
        self.literal(b" ");
        let host = self.table.intern(host());
        self.add(Operation::Origin { capture: host, missing: b"http://localhost"[..].into() });
        self.url(Part::Path, [].into());
        self.url(Part::Query, [].into());
        self.literal(b" ");
        self.value(&plain, protocol(), "HTTP/1.0")
    }

    fn time(&mut self, specifier: &Specifier) -> Result<(), FormatError> {
        let missing = self.missing(specifier, "-")?;
        self.program.needs_start = true;
        let (format, end) = match specifier.argument.strip_prefix("end:") {
            Some(format) if self.dialect == Dialect::Stream => (format, Some(self.table.intern(response_end()))),
            _ => (specifier.argument.as_str(), None),
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
        let zone = match self.program.escape {
            Escape::Json | Escape::Percent => Zone::Utc,
            Escape::Hex | Escape::Raw => Zone::Local,
        };
        let format = if format.is_empty() { "[%d/%b/%Y:%T %z]" } else { format };
        if self.dialect == Dialect::Stream {
            check_time_format(format, specifier.offset)?;
        }
        let clock = self.program.clocks.len();
        self.program.clocks.push(Clock::new(format, zone));
        self.add(Operation::Time { clock, end, missing });
        Ok(())
    }

    fn duration(&mut self, specifier: &Specifier, unit: Unit) -> Result<(), FormatError> {
        let (end, missing) = (self.table.intern(response_end()), self.missing(specifier, "-")?);
        self.program.needs_start = true;
        self.add(Operation::Duration { end, unit, missing });
        Ok(())
    }

    /// Text with addresses anywhere in it.
    pub(super) fn searched(&mut self, specifier: &Specifier, capture: Capture) -> Result<(), FormatError> {
        let (capture, missing) = (self.table.intern(capture), self.missing(specifier, "-")?);
        self.add(Operation::Searched { capture, part: Part::Whole, missing });
        Ok(())
    }

    fn header(&mut self, specifier: &Specifier, tags: [Tag; 2]) -> Result<(), FormatError> {
        let name = &specifier.argument;
        if self.dialect.shows_addresses() {
            return self.text(specifier, Capture::of(tags, &header(name), Pick::Last));
        }
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
        if self.settings.searches(name) {
            return self.searched(specifier, capture);
        }
        self.value(specifier, capture, "-")
    }
}
