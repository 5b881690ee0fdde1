//! From tokens to an expression.
//!
//! ```text
//!  queries    = query { line feed query }             one is enough
//!  any        = all { "or" all }
//!  all        = negation { "and" negation }
//!  negation   = [ "not" ] group
//!  group      = "(" any ")" | comparison
//!  comparison = [ "{" level "}" ] tag { "," tag } [ ":" prefix ] [ "[" field "]" ] [ operator operand ]
//!             | "vxid" operator number
//! ```

use super::lex::{Kind, Token, tokens};
use super::number::{decimal, integer};
use super::record_test::{Condition, Pattern, PatternError, RecordTest, TestTable};
use super::{Comparison, Expression, Levels, QueryError};
use crate::log::{Tag, TagGlobError, is_space};

/// How deep parentheses and `not` may nest; nobody writes more, and every level takes stack.
const DEPTH: u32 = 200;

pub(super) fn parse(query: &str, any_case: bool, table: &mut TestTable) -> Result<Expression, QueryError> {
    let tokens = tokens(query)?;
    let mut parser = Parser { query, tokens: &tokens, at: 0, any_case, table, depth: 0 };
    let mut queries = Vec::new();
    loop {
        while parser.tokens.get(parser.at).is_some_and(|token| token.kind == Kind::End) {
            parser.at += 1;
        }
        if parser.at == parser.tokens.len() {
            break;
        }
        queries.push(parser.any()?);
        parser.expect(Kind::End)?;
    }
    if queries.is_empty() {
        return Err(QueryError::whole(query, ""));
    }
    Ok(one_or(Expression::Any, queries))
}

/// The only part, or all of them together.
fn one_or(together: impl FnOnce(Vec<Expression>) -> Expression, mut parts: Vec<Expression>) -> Expression {
    if parts.len() == 1 { parts.remove(0) } else { together(parts) }
}

/// What stands left of an operator.
struct Subject {
    levels: Levels,
    tags: Vec<Tag>,
    prefix: Option<Box<[u8]>>,
    field: u32,
}

struct Parser<'a> {
    query: &'a str,
    /// The last one is an end, and is never passed inside a query.
    tokens: &'a [Token],
    at: usize,
    any_case: bool,
    table: &'a mut TestTable,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn token(&self) -> &'a Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> &'a Token {
        let token = self.token();
        self.at += 1;
        token
    }

    fn error(&self, message: impl Into<String>) -> QueryError {
        QueryError::at(self.query, self.token().place.clone(), message)
    }

    fn unexpected(&self, wanted: &str) -> QueryError {
        self.error(format!("Expected {wanted} got '{}'", &self.query[self.token().place.clone()]))
    }

    fn expect(&self, kind: Kind) -> Result<(), QueryError> {
        match self.token().kind {
            found if found == kind => Ok(()),
            Kind::End => Err(self.error(format!("Expected {} got end of input", kind.name()))),
            _ => Err(self.unexpected(kind.name())),
        }
    }

    fn skip(&mut self, kind: Kind) -> Result<(), QueryError> {
        self.expect(kind)?;
        self.at += 1;
        Ok(())
    }

    fn value(&self, wanted: &str) -> Result<&'a [u8], QueryError> {
        if self.token().kind == Kind::Value { Ok(&self.token().value) } else { Err(self.unexpected(wanted)) }
    }

    fn any(&mut self) -> Result<Expression, QueryError> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.error(format!("Parentheses nest deeper than {DEPTH} times")));
        }
        let mut parts = vec![self.all()?];
        while self.token().kind == Kind::Or {
            self.at += 1;
            parts.push(self.all()?);
        }
        self.depth -= 1;
        Ok(one_or(Expression::Any, parts))
    }

    fn all(&mut self) -> Result<Expression, QueryError> {
        let mut parts = vec![self.negation()?];
        while self.token().kind == Kind::And {
            self.at += 1;
            parts.push(self.negation()?);
        }
        Ok(one_or(Expression::All, parts))
    }

    fn negation(&mut self) -> Result<Expression, QueryError> {
        if self.token().kind == Kind::Not {
            self.at += 1;
            return Ok(Expression::Not(Box::new(self.group()?)));
        }
        self.group()
    }

    fn group(&mut self) -> Result<Expression, QueryError> {
        if self.token().kind == Kind::OpenGroup {
            self.at += 1;
            let inside = self.any()?;
            self.skip(Kind::CloseGroup)?;
            return Ok(inside);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expression, QueryError> {
        let Some(Subject { levels, tags, prefix, field }) = self.subject()? else { return self.vxid() };
        let condition = match self.token().kind {
            Kind::End | Kind::And | Kind::Or | Kind::CloseGroup => Condition::Present,
            Kind::Same | Kind::NotSame => {
                let wanted = self.next().kind == Kind::Same;
                let text = self.value("string")?.into();
                self.at += 1;
                Condition::Same { text, any_case: self.any_case, wanted }
            }
            Kind::Matches | Kind::MatchesNot => {
                let wanted = self.next().kind == Kind::Matches;
                Condition::Matches { pattern: self.pattern()?, wanted }
            }
            kind => match compared_by(kind) {
                Some(comparison) => {
                    self.at += 1;
                    self.number(comparison)?
                }
                None => return Err(self.unexpected("operator")),
            },
        };
        Ok(Expression::Record(self.table.intern(RecordTest { tags, prefix, field, condition }), levels))
    }

    /// What is compared; `None` for `vxid`.
    fn subject(&mut self) -> Result<Option<Subject>, QueryError> {
        let levels = if self.token().kind == Kind::OpenLevel { self.levels()? } else { Levels::All };
        let mut tags = Vec::new();
        let (mut vxids, mut names) = (0, 0);
        loop {
            if self.token().kind == Kind::Vxid {
                vxids += 1;
            } else {
                names += 1;
                let glob = self.value("VSL tag name")?;
                Tag::add_by_glob(glob, &mut tags).map_err(|error| {
                    self.error(match error {
                        TagGlobError::None => "Tag name matches zero tags",
                        TagGlobError::Ambiguous => "Tag name is ambiguous",
                        TagGlobError::Syntax => "Syntax error in tag name",
                    })
                })?;
            }
            self.at += 1;
            if self.token().kind != Kind::Comma {
                break;
            }
            self.at += 1;
        }
        let mut prefix = None;
        if self.token().kind == Kind::Colon {
            self.at += 1;
            prefix = Some(self.value("string")?.into());
            self.at += 1;
        }
        let mut field = 0;
        if self.token().kind == Kind::OpenField {
            self.at += 1;
            let (number, rest) = integer(self.value("integer")?);
            field = match u32::try_from(number as i32) {
                Ok(number @ 1..) if rest.is_empty() => number,
                _ => return Err(self.error("Expected positive integer")),
            };
            self.at += 1;
            self.skip(Kind::CloseField)?;
        }
        if vxids == 0 {
            tags.sort();
            tags.dedup();
            return Ok(Some(Subject { levels, tags, prefix, field }));
        }
        let has_prefix = prefix.is_some_and(|prefix| !prefix.is_empty());
        if vxids > 1 || levels != Levels::All || field > 0 || has_prefix || names > 0 {
            return Err(self.error("Unexpected taglist selection for vxid"));
        }
        Ok(None)
    }

    fn levels(&mut self) -> Result<Levels, QueryError> {
        self.at += 1;
        let (number, rest) = integer(self.value("integer")?);
        let level = number as i32;
        if level < 0 {
            return Err(self.error("Expected positive integer"));
        }
        let levels = match rest {
            b"" => Levels::Only(level),
            b"-" => Levels::UpTo(level),
            b"+" => Levels::From(level),
            _ => return Err(self.error("Syntax error in level limit")),
        };
        self.at += 1;
        self.skip(Kind::CloseLevel)?;
        Ok(levels)
    }

    fn vxid(&mut self) -> Result<Expression, QueryError> {
        let comparison = compared_by(self.token().kind).ok_or_else(|| self.unexpected("vxid operator"))?;
        self.at += 1;
        let place = self.token();
        match self.number(comparison)? {
            Condition::Integer(comparison, number) => Ok(Expression::Vxid(comparison, number)),
            _ => {
                let text = &self.query[place.place.clone()];
                let message = format!("Expected integer got '{text}'");
                Err(QueryError::at(self.query, place.place.clone(), message).with_caret(0))
            }
        }
    }

    fn number(&mut self, comparison: Comparison) -> Result<Condition, QueryError> {
        let text = self.value("number")?;
        let condition = if text.contains(&b'.') {
            match decimal(text) {
                (Some(number), b"") => Condition::Decimal(comparison, number),
                _ => return Err(self.error("Floating point parse error")),
            }
        } else {
            let (number, rest) = integer(text);
            if !rest.iter().all(|byte| is_space(*byte)) {
                return Err(self.error("Integer parse error"));
            }
            Condition::Integer(comparison, number)
        };
        self.at += 1;
        Ok(condition)
    }

    fn pattern(&mut self) -> Result<Pattern, QueryError> {
        let text = self.value("regular expression")?;
        // A query is UTF-8, and a backslash takes a whole character or the first byte of one.
        let text = str::from_utf8(text).map_err(|_| self.error("Regular expression error: no UTF-8"))?;
        let pattern = Pattern::new(text, self.any_case).map_err(|PatternError { message, offset }| {
            self.error(format!("Regular expression error: {message}")).with_caret(offset)
        })?;
        self.at += 1;
        Ok(pattern)
    }
}

/// How an operator compares numbers.
fn compared_by(operator: Kind) -> Option<Comparison> {
    Some(match operator {
        Kind::Equal => Comparison::Equal,
        Kind::NotEqual => Comparison::NotEqual,
        Kind::Less => Comparison::Less,
        Kind::LessOrEqual => Comparison::LessOrEqual,
        Kind::Greater => Comparison::Greater,
        Kind::GreaterOrEqual => Comparison::GreaterOrEqual,
        _ => return None,
    })
}
