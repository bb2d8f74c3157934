//! What the standard output of a request names: a path, a file, or a logging program.

use std::path::PathBuf;

use gantry_core::{Error, Result};

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Nowhere.
    None,
    /// A FIFO, or a file that exists.
    Path(PathBuf),
    /// A file that is made.
    File(PathBuf),
    /// A program that reads it.
    Logger(LoggerCommand),
}

/// A logging program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoggerCommand {
    /// Its path.
    pub(super) program: PathBuf,
    /// Its arguments: key, value, key, value.
    pub(super) args: Vec<String>,
    /// Whether it must say that it is ready, rather than only close the pipe.
    pub(super) says_ready: bool,
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::None);
        }
        let Some((scheme, rest)) = text.split_once("://").filter(|(s, _)| is_scheme(s)) else {
            return Ok(Self::Path(text.into()));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        match scheme {
            "fifo" => Ok(Self::Path(decode(path, false).into())),
            "file" => Ok(Self::File(decode(path, false).into())),
            "binary" | "binary-v2" => Ok(Self::Logger(LoggerCommand {
                program: decode(path, false).into(),
                args: arguments(query),
                says_ready: scheme == "binary-v2",
            })),
            other => Err(Error::unknown(format!("unknown STDIO scheme {other}"))),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// Each key once, with its first value, in the order in which they stand.
fn arguments(query: &str) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    let mut args = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key, true);
        if !seen.contains(&key) {
            args.extend([key.clone(), decode(value, true)]);
            seen.push(key);
        }
    }
    args
}

fn decode(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%').then(|| after.get(..2)).flatten();
        let value =
            escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(if first == b'+' && plus_is_space { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme_is_known_and_no_other() {
        assert_eq!(Target::parse("").unwrap(), Target::None);
        assert_eq!(Target::parse("/run/f o").unwrap(), Target::Path("/run/f o".into()));
        assert_eq!(Target::parse("fifo:///run/f").unwrap(), Target::Path("/run/f".into()));
        assert_eq!(Target::parse("file:///var/a%20b").unwrap(), Target::File("/var/a b".into()));
        let error = Target::parse("https://x").unwrap_err();
        assert_eq!(error.message(), "unknown STDIO scheme https");
    }

    #[test]
    fn a_logger_gets_its_query_as_arguments() {
        let text = "binary:///usr/bin/log?id=a+b&path=%2Fvar%2Flog&id=again&flag";
        let Target::Logger(command) = Target::parse(text).unwrap() else { panic!("no logger") };
        assert_eq!(command.program, PathBuf::from("/usr/bin/log"));
        assert_eq!(command.args, ["id", "a b", "path", "/var/log", "flag", ""]);
        assert!(!command.says_ready);
        let second = Target::parse("binary-v2:///bin/l").unwrap();
        assert!(matches!(second, Target::Logger(LoggerCommand { says_ready: true, .. })));
    }
}
