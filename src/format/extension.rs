//! `%{…}x`: what varnishncsa has no letters for.

use super::compile::{Compiler, Dialect, Operation, Part};
use super::parse::{Kind, Specifier};
use super::values::{first_byte, logged};
use super::{Escape, FormatError};
use crate::log::{Tag, TagGlobError};
use crate::transaction::{Capture, Pick, Select, Source};

impl Compiler<'_> {
    pub(super) fn extension(&mut self, specifier: &Specifier) -> Result<(), FormatError> {
        let argument = specifier.argument.as_str();
        match argument {
            "Varnish:time_firstbyte" => self.number(specifier, first_byte()),
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
            "Varnish:vxid" => {
                self.add(Operation::Vxid);
                Ok(())
            }
            // As varnishkafka spells it.
            "Varnish:xvid" if self.dialect == Dialect::Stream => {
                self.add(Operation::Vxid);
                Ok(())
            }
            "Kafkalog:host" if self.dialect == Dialect::Stream => {
                let mut host = Vec::new();
                self.program.escape.append(self.settings.host.as_bytes(), &mut host);
                self.literal(&host);
                Ok(())
            }
            "Kafkalog:salt_id" if self.dialect == Dialect::Stream => {
                let missing = self.missing(specifier, "-")?;
                self.add(Operation::SaltId { missing });
                Ok(())
            }
            _ if argument.starts_with("fake") && self.dialect == Dialect::Stream => {
                // varnishkafka's way to write a constant: the default of something that is never there.
                let constant = self.missing(specifier, "-")?;
                self.literal(&constant);
                Ok(())
            }
            _ => match argument.split_once(':') {
                Some(("VCL_Log", key))
                    if !key.is_empty() && (self.settings.searches("VCL_Log") || self.settings.searches(argument)) =>
                {
                    self.searched(specifier, logged(key))
                }
                Some(("VCL_Log", key)) if !key.is_empty() || self.dialect.shows_addresses() => {
                    self.value(specifier, logged(key), "")
                }
                Some(("VSL", rest)) => self.record(specifier, rest),
                _ => Err(FormatError::new(
                    specifier.offset,
                    format!(
                        "`%{{{argument}}}x`: expected Varnish:time_firstbyte, Varnish:hitmiss, Varnish:handling, Varnish:side, \
                         Varnish:vxid, VCL_Log:KEY, VSL:TAG[:PREFIX][N], Kafkalog:salt_id or Kafkalog:host"
                    ),
                )
                .or_in_varnishncsa(format!("Unknown formatting extension: {argument}"))),
            },
        }
    }

    /// `%{VSL:tag[:prefix][N]}x`
    fn record(&mut self, specifier: &Specifier, text: &str) -> Result<(), FormatError> {
        let fail =
            |message: String, stock: String| Err(FormatError::new(specifier.offset, message).or_in_varnishncsa(stock));
        let (text, number) = match text.strip_suffix(']') {
            Some(inside) => {
                let Some((text, digits)) = inside.rsplit_once('[').filter(|(_, digits)| !digits.is_empty()) else {
                    return fail(format!("`{text}`: expected TAG[N]"), format!("Syntax error: VSL:{text}"));
                };
                match digits.trim_ascii_start().parse::<i64>() {
                    Ok(number @ 1..=255) => (text, Some(number as u8)),
                    Ok(_) => {
                        return fail(
                            format!("`[{digits}]` is no field number: expected 1 to 255"),
                            format!("Syntax error. Field specifier must be between 1 and 255: {inside}]"),
                        );
                    }
                    Err(_) => {
                        return fail(
                            format!("`[{digits}]` is no field number: expected 1 to 255"),
                            format!("Syntax error: VSL:{inside}]"),
                        );
                    }
                }
            }
            None if text.is_empty() => {
                return fail("the tag is missing: write VSL:TAG".to_owned(), "Missing tag in VSL:".to_owned());
            }
            None => (text, None),
        };
        let (name, prefix) = text.split_once(':').map_or((text, None), |(name, prefix)| (name, Some(prefix)));
        let tag = match Tag::by_name(name) {
            Ok(tag) => tag,
            Err(TagGlobError::Ambiguous) => {
                return fail(
                    format!("`{name}` is the beginning of several tags: write one out"),
                    format!("Tag not unique: {text}"),
                );
            }
            Err(_) => {
                return fail(
                    format!("`{name}` is no tag: see vsl(7) for their names"),
                    format!("Unknown log tag: {text}"),
                );
            }
        };
        let clear = self.dialect.shows_addresses();
        let is_json = matches!(self.program.escape, Escape::Json | Escape::Raw);
        if (tag.is_unsafe() && !is_json) || (tag.is_binary() && self.program.escape != Escape::Raw) {
            return fail(
                format!("records of tag {name} can hold control characters; they cannot be shown here"),
                format!("Tag {} can contain control characters", tag.name().unwrap_or(name)),
            );
        }
        let select = match (prefix, number) {
            (None, None) if clear && (tag.is_unsafe() || tag.is_binary()) => Select::Payload,
            (None, None) => Select::Line,
            (None, Some(number)) => Select::Field(number),
            (Some(prefix), None) => Select::Header(prefix.as_bytes().into()),
            (Some(prefix), Some(number)) => Select::HeaderField(prefix.as_bytes().into(), number),
        };
        let lists_addresses = prefix
            .is_some_and(|prefix| self.settings.address_headers.iter().any(|known| known.eq_ignore_ascii_case(prefix)));
        let is_header = [Tag::REQ_HEADER, Tag::BEREQ_HEADER, Tag::RESP_HEADER, Tag::BERESP_HEADER].contains(&tag);
        if is_header && prefix.is_none() && !clear {
            return fail(
                format!(
                    "which header? Write VSL:{name}:HEADER, so that headers with addresses are not shown by chance"
                ),
                String::new(),
            );
        }
        let capture = Capture(vec![Source { tag, select, pick: Pick::First }]);
        if clear {
            return self.text(specifier, capture);
        }
        let capture = self.table.intern(capture);
        let missing = self.missing(specifier, "-")?;
        self.add(if is_header && lists_addresses {
            Operation::AddressList { capture, missing }
        } else if self.settings.searches(prefix.filter(|_| is_header).unwrap_or(name))
            || ([Tag::REQ_URL, Tag::BEREQ_URL].contains(&tag) && self.settings.searches("url"))
        {
            Operation::Searched { capture, part: Part::Whole, missing }
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
