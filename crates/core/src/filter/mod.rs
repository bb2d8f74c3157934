//! containerd's filter grammar (its `pkg/filters`): which objects a List or Subscribe returns.
//!
//! ```text
//! filters   := filter*                     one must match; none at all, or an empty one: all do
//! filter    := selector ("," selector)*    every one must match
//! selector  := path (operator value)?      without operator: the field is present
//! path      := field ("." field)*          the rest of a map's path, joined by dots, is its key
//! field     := [A-Za-z0-9_]+ | "quoted"
//! operator  := "==" | "!=" | "~="          equal, not equal or absent, found by a Go regexp
//! value     := printable runes but "," | "quoted" | /quoted/ | |quoted|     the last two after ~=
//! ```
//! Quoted texts know Go's escapes. Spaces before a token are skipped (`type==A, id==B`); a space
//! after a selector is an error. A regexp that does not compile matches nothing and is no error.
//!
//! What can be selected on each record stands in [`objects`](self) beside the record's names; the
//! payload of an event is decoded by whoever knows protobuf, and only when [`Filters::mentions`]
//! says that a filter asks for it.

mod go_regexp;
mod objects;
mod parse;
mod scan;

use crate::error::{Error, Result};
use regex::Regex;

/// What a filter looks at: fields by path.
pub trait Fields {
    /// The value at `path`; `None` when it is absent.
    fn field(&self, path: &[String]) -> Option<String>;
}

/// Filters joined by OR; an empty list matches everything.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    any_of: Vec<Vec<Selector>>,
}

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    /// `None` for a regexp that Go would not compile.
    Matches(Option<Regex>),
}

impl Filters {
    /// Parses filters; none, or an empty one, match everything.
    ///
    /// # Errors
    /// `InvalidArgument` with the position of what cannot be read.
    pub fn parse(filters: &[String]) -> Result<Self> {
        let parsed = filters
            .iter()
            .map(|filter| parse::selectors(filter))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|e| Error::invalid_argument(format!("filters: {e}")))?;
        // One that asks for nothing matches everything, whatever its neighbours ask for.
        let everything = parsed.iter().any(Vec::is_empty);
        Ok(Self { any_of: if everything { Vec::new() } else { parsed } })
    }

    /// Whether `object` matches.
    pub fn matches(&self, object: &dyn Fields) -> bool {
        self.is_empty()
            || self.any_of.iter().any(|all_of| all_of.iter().all(|one| one.matches(object)))
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.any_of.is_empty()
    }

    /// Whether any selector's path begins with `field`.
    pub fn mentions(&self, field: &str) -> bool {
        self.any_of.iter().flatten().any(|s| s.path.first().is_some_and(|first| first == field))
    }
}

impl Selector {
    fn matches(&self, object: &dyn Fields) -> bool {
        let value = object.field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_ref() == Some(wanted),
            Test::NotEqual(unwanted) => value.unwrap_or_default() != *unwanted,
            Test::Matches(regexp) => {
                regexp.as_ref().is_some_and(|r| r.is_match(value.as_deref().unwrap_or_default()))
            }
        }
    }
}

/// `text` in double quotes as the grammar reads it back, for use as field or value.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // Go's scanner takes U+FFFD for broken UTF-8 and NUL for the end of a C string.
            '\0'..='\x1f' | '\x7f' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            '\u{fffd}' => quoted.push_str("\\ufffd"),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
