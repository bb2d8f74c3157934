//! Cuts a filter into tokens.
//!
//! One rule depends on the past: after an operator a run of printable runes is a value, anywhere
//! else only `[A-Za-z0-9_]+` is a word. The first complaint is kept, since later ones are its
//! consequences. Positions are byte offsets of whole characters.

use regex::Regex;
use std::sync::OnceLock;

/// What stands at a position.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token {
    End,
    Word(String),
    Quoted {
        quote: char,
        text: Result<String, &'static str>,
    },
    Separator,
    Operator(String),
    /// A rune or escape that no filter may hold; see [`Scanner::complaint`].
    Illegal,
    /// A rune that begins no token.
    Other,
}

pub(super) struct Scanner<'a> {
    input: &'a str,
    at: usize,
    value_next: bool,
    complaint: Option<&'static str>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self { input, at: 0, value_next: false, complaint: None }
    }

    /// Where the next rune stands.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next rune, left where it is.
    pub(super) fn peek(&self) -> Option<char> {
        self.input[self.at..].chars().next()
    }

    /// Why a token was [`Token::Illegal`].
    pub(super) fn complaint(&self) -> &'static str {
        self.complaint.unwrap_or_default()
    }

    /// The next token and where it begins.
    pub(super) fn scan(&mut self) -> (usize, Token) {
        while self.peek().is_some_and(is_space) {
            self.advance();
        }
        let start = self.at;
        let Some(first) = self.peek() else { return (start, Token::End) };
        if is_illegal(first) {
            self.complain_of(first);
            return (start, Token::Illegal);
        }
        self.advance();
        let token = match first {
            '"' | '/' | '|' => self.quoted(first),
            ',' | '.' => {
                self.value_next = false;
                Token::Separator
            }
            '=' | '!' | '~' => {
                self.skip_while(|c| matches!(c, '=' | '!' | '~'));
                self.value_next = true;
                Token::Operator(self.input[start..self.at].to_owned())
            }
            _ if self.value_next => {
                self.skip_while(is_value_rune);
                self.value_next = false;
                Token::Word(self.input[start..self.at].to_owned())
            }
            c if is_word_rune(c) => {
                self.skip_while(is_word_rune);
                Token::Word(self.input[start..self.at].to_owned())
            }
            _ => Token::Other,
        };
        (start, token)
    }

    fn advance(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.advance();
        }
    }

    fn complain(&mut self, of: &'static str) {
        self.complaint.get_or_insert(of);
    }

    fn complain_of(&mut self, illegal: char) {
        self.complain(if illegal == '\0' { "unexpected null" } else { "rune error" });
    }

    /// The rest of a text whose opening quote has been read.
    fn quoted(&mut self, quote: char) -> Token {
        let mut bytes = Vec::new();
        let mut legal = true;
        let mut overflow = false;
        loop {
            match self.peek() {
                Some(c) if c == quote => {
                    self.advance();
                    break;
                }
                Some('\\') => {
                    self.advance();
                    match self.escape(quote) {
                        Escape::Byte(b) => bytes.push(b),
                        Escape::Rune(c) => {
                            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                        }
                        Escape::TooLarge => overflow = true,
                        Escape::Illegal => legal = false,
                    }
                }
                Some(c) if c != '\n' && !is_illegal(c) => {
                    self.advance();
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                other => {
                    if let Some(c) = other.filter(|c| is_illegal(*c)) {
                        self.complain_of(c);
                    }
                    self.complain("quoted literal not terminated");
                    return Token::Illegal;
                }
            }
        }
        if !legal {
            return Token::Illegal;
        }
        // Nothing stored can equal a text that is not UTF-8, so asking for one is a mistake.
        let text = if overflow { Err("quote syntax error") } else { Ok(bytes) }
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "text is not UTF-8"));
        Token::Quoted { quote, text }
    }

    /// What follows a backslash. An illegal rune is left in place: it may be the closing quote.
    fn escape(&mut self, quote: char) -> Escape {
        let Some(c) = self.peek() else {
            self.complain("illegal escape sequence");
            return Escape::Illegal;
        };
        let simple = match c {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 0x0b,
            '\\' => b'\\',
            '0'..='7' => return self.number(8, 3),
            'x' | 'u' | 'U' => {
                self.advance();
                let digits = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                return match self.number(16, digits) {
                    Escape::Rune(rune) if c == 'x' => {
                        u8::try_from(u32::from(rune)).map_or(Escape::TooLarge, Escape::Byte)
                    }
                    other => other,
                };
            }
            c if c == quote => {
                self.advance();
                return Escape::Rune(c);
            }
            _ => {
                self.complain("illegal escape sequence");
                return Escape::Illegal;
            }
        };
        self.advance();
        Escape::Byte(simple)
    }

    fn number(&mut self, base: u32, digits: usize) -> Escape {
        let mut value: u32 = 0;
        for _ in 0..digits {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(base)) else {
                self.complain("illegal numeric escape sequence");
                return Escape::Illegal;
            };
            // Eight hex digits fit exactly.
            value = value * base + digit;
            self.advance();
        }
        match (base, u8::try_from(value)) {
            (8, byte) => byte.map_or(Escape::TooLarge, Escape::Byte),
            _ if value > u32::from(char::MAX) => Escape::TooLarge,
            // Go writes U+FFFD for half a surrogate pair.
            _ => Escape::Rune(char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER)),
        }
    }
}

enum Escape {
    Byte(u8),
    Rune(char),
    TooLarge,
    Illegal,
}

/// Go's decoder returns U+FFFD for broken UTF-8, so its scanner refuses a real one too.
fn is_illegal(c: char) -> bool {
    matches!(c, '\0' | char::REPLACEMENT_CHARACTER)
}

fn is_space(c: char) -> bool {
    c.is_whitespace()
}

fn is_word_rune(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// Letters, marks, numbers, punctuation and symbols: what Go calls graphic, without spaces.
fn is_value_rune(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_graphic() && c != ',';
    }
    static GRAPHIC: OnceLock<Option<Regex>> = OnceLock::new();
    let graphic = GRAPHIC.get_or_init(|| Regex::new(r"^[\p{L}\p{M}\p{N}\p{P}\p{S}]$").ok());
    !is_illegal(c) && graphic.as_ref().is_some_and(|g| g.is_match(c.encode_utf8(&mut [0; 4])))
}
