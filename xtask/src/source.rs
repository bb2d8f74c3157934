//! The files of the repository as the gates see them: those git tracks or would track.
//!
//! Also the one thing the text checks need to know of Rust: what of a file is code, and what is
//! comment or literal ([`code_only`]).

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Result;

/// One text file of the repository.
#[derive(Clone, Debug)]
pub struct File {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
}

impl File {
    /// A file of the given path and text; for samples.
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// Whether this is a Rust source that people write: generated ones say so in their first line
    /// or lie in a directory named for it.
    pub fn is_own_rust(&self) -> bool {
        self.path.ends_with(".rs") && !self.is_generated()
    }

    /// Whether a program wrote this file.
    pub fn is_generated(&self) -> bool {
        let first = self.text.lines().next().unwrap_or_default();
        first.contains("@generated") || self.path.contains("/src/gen/")
    }
}

/// Every text file below `root` that git tracks or would track; files that are not UTF-8 (images,
/// archives) and files deleted but not yet committed are left out.
pub fn files(root: &Path) -> Result<Vec<File>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    if !listed.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr)).into());
    }
    let names = String::from_utf8(listed.stdout)?;
    let mut files = Vec::new();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        if let Ok(text) = fs::read_to_string(root.join(name)) {
            files.push(File { path: name.to_owned(), text });
        }
    }
    Ok(files)
}

/// `text` with comments and the insides of string and character literals blanked; lines keep
/// their numbers. Raw strings are understood up to any number of `#`.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !is_word(bytes, at) => raw_string_end(bytes, at).unwrap_or(at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        if end > at {
            let blanked = &bytes[at..end.min(bytes.len())];
            out.extend(blanked.iter().map(|b| if *b == b'\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(char::from(if bytes[at].is_ascii() { bytes[at] } else { b'?' }));
            at += 1;
        }
    }
    out
}

fn is_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| from + n)
}

fn comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

fn raw_string_end(bytes: &[u8], from: usize) -> Option<usize> {
    let hashes = bytes[from + 1..].iter().take_while(|b| **b == b'#').count();
    let open = from + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = &bytes[open + 1..];
    let length = body.windows(close.len()).position(|window| window == close);
    Some(length.map_or(bytes.len(), |n| open + 1 + n + close.len()))
}

/// A character literal ends within four characters or after an escape; anything else after `'`
/// is a lifetime.
fn char_end(bytes: &[u8], from: usize) -> usize {
    let rest = &bytes[from + 1..];
    if rest.first() == Some(&b'\\') {
        return rest
            .iter()
            .skip(2)
            .position(|b| *b == b'\'')
            .map_or(from, |n| from + 1 + 2 + n + 1);
    }
    match rest.iter().take(5).skip(1).position(|b| *b == b'\'') {
        Some(n) if n == 0 || !rest[0].is_ascii() => from + 1 + n + 2,
        _ => from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "let a = \"unsafe\\\"\"; // unsafe\n/* unsafe /* x */ */ let b = r#\"unsafe\"#;";
        let code = code_only(text);
        assert!(!code.contains("unsafe"), "{code}");
        assert!(code.contains("let a") && code.contains("let b"), "{code}");
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn lifetimes_and_characters_do_not_swallow_code() {
        let code = code_only("fn f<'a>(x: &'a str) { g('\"', '\\'', '\\n', 'é'); unsafe {} }");
        assert!(code.contains("unsafe"), "{code}");
        assert!(code_only("var\"unsafe\"; for x in y { unsafe {} }").contains("unsafe"));
    }
}
