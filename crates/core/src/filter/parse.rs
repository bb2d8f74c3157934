//! From one filter to its selectors; complaints read as containerd's, for people who search them.

use super::scan::{Scanner, Token};
use super::{Selector, Test, go_regexp};

/// What is wrong with a filter, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("parse error: [{marked}]: {complaint}")]
pub(super) struct ParseError {
    marked: String,
    complaint: String,
}

/// The selectors of `input`, all of which must match; none for an empty input.
pub(super) fn selectors(input: &str) -> Result<Vec<Selector>, ParseError> {
    let mut parser = Parser { input, scanner: Scanner::new(input) };
    let mut selectors = Vec::new();
    if input.is_empty() {
        return Ok(selectors);
    }
    loop {
        selectors.push(parser.selector()?);
        match parser.scanner.peek() {
            None => return Ok(selectors),
            Some(',') => _ = parser.scanner.scan(),
            Some(other) => {
                let at = parser.scanner.position();
                let shown = if other == '\0' { char::REPLACEMENT_CHARACTER } else { other };
                return Err(parser.error(at, format!("unexpected input: {shown}")));
            }
        }
    }
}

struct Parser<'a> {
    input: &'a str,
    scanner: Scanner<'a>,
}

impl Parser<'_> {
    fn selector(&mut self) -> Result<Selector, ParseError> {
        let mut path = vec![self.field()?];
        while self.scanner.peek() == Some('.') {
            self.scanner.scan();
            path.push(self.field()?);
        }
        if matches!(self.scanner.peek(), None | Some(',')) {
            return Ok(Selector { path, test: Test::Present });
        }
        let (at, token) = self.scanner.scan();
        let test = match token {
            Token::Operator(operator) => match operator.as_str() {
                "==" => Test::Equal(self.value(false)?),
                "!=" => Test::NotEqual(self.value(false)?),
                "~=" => Test::Matches(go_regexp::compile(&self.value(true)?)),
                _ => return Err(self.error(at, format!("unsupported operator {operator:?}"))),
            },
            Token::Illegal => return Err(self.illegal(at)),
            _ => return Err(self.error(at, r#"expected an operator ("=="|"!="|"~=")"#)),
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, ParseError> {
        let (at, token) = self.scanner.scan();
        self.text(at, token, false, "expected field or quoted")
    }

    fn value(&mut self, regexp: bool) -> Result<String, ParseError> {
        let (at, token) = self.scanner.scan();
        self.text(at, token, regexp, "expected value or quoted")
    }

    /// A word or a quoted text; only a regexp may stand in `/` or `|`.
    fn text(
        &self,
        at: usize,
        token: Token,
        regexp: bool,
        expected: &str,
    ) -> Result<String, ParseError> {
        match token {
            Token::Word(word) => Ok(word),
            Token::Quoted { quote, .. } if quote != '"' && !regexp => {
                Err(self.error(at, "invalid quote encountered"))
            }
            Token::Quoted { text, .. } => {
                text.map_err(|why| self.error(at, format!("unquoting failed: {why}")))
            }
            Token::Illegal => Err(self.illegal(at)),
            _ => Err(self.error(at, expected)),
        }
    }

    fn illegal(&self, at: usize) -> ParseError {
        self.error(at, self.scanner.complaint())
    }

    fn error(&self, at: usize, complaint: impl Into<String>) -> ParseError {
        let (before, rest) = self.input.split_at(at);
        let mut rest = rest.chars();
        let marked = match rest.next() {
            Some(here) => format!("{before} >|{here}|< {}", rest.as_str()),
            None => self.input.to_owned(),
        };
        ParseError { marked, complaint: complaint.into() }
    }
}
