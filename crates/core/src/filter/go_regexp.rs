//! Go's regular expressions on the `regex` crate: the same engine family (RE2), another dialect.
//!
//! Translated, so that a pattern means what its author tested against containerd:
//!
//! | Go | here |
//! |---|---|
//! | `\d \w \s` and `\b` are ASCII, `\s` without `\v` | written out as classes |
//! | `[` `&` `~` `--` inside a class are plain | escaped |
//! | `\` before any punctuation is that character | escaped plainly (`\<` is a word start here) |
//! | `{` that begins no repetition is plain | escaped |
//! | `\Q..\E`, octal escapes | written out |
//! | a repetition of a repetition, as `a**`, does not exist | refused |
//! | flags other than `imsU`, `\u` do not exist | refused |
//!
//! A pattern that does not compile is `None`. Matching time is linear in the value; the compiled
//! size is bounded by the crate's default.

use regex::Regex;

/// Compiles `pattern` as Go would; `None` when Go, or the translation, has no reading of it.
pub(super) fn compile(pattern: &str) -> Option<Regex> {
    Regex::new(&translate(pattern)?).ok()
}

/// Whether what stands before is a repetition: RE2 repeats none again, but `?` makes it lazy.
enum Repeated {
    No,
    Once,
    Lazily,
}

fn translate(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    let mut repeated = Repeated::No;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        repeated = match (c, repeated) {
            ('?', Repeated::Once) => Repeated::Lazily,
            ('*' | '+' | '?', Repeated::No) => Repeated::Once,
            ('{', Repeated::No) if is_repetition(after) => Repeated::Once,
            ('*' | '+' | '?', _) => return None,
            ('{', _) if is_repetition(after) => return None,
            _ => Repeated::No,
        };
        rest = match c {
            '\\' if after.starts_with('Q') => quoted(&after[1..], &mut out),
            '\\' => escape(after, false, &mut out)?,
            '[' => class(after, &mut out)?,
            '(' if after.starts_with('?') => {
                check_group(&after[1..])?;
                out.push('(');
                after
            }
            '{' if is_repetition(after) => {
                let (inside, left) = after.split_once('}')?;
                out.extend(["{", inside, "}"]);
                left
            }
            '{' => {
                out.push_str("\\{");
                after
            }
            c => {
                out.push(c);
                after
            }
        };
    }
    Some(out)
}

/// `\Q` has been read: everything up to `\E` or the end is plain. Returns what is left.
fn quoted<'a>(rest: &'a str, out: &mut String) -> &'a str {
    let (plain, left) = rest.split_once("\\E").unwrap_or((rest, ""));
    out.push_str(&regex::escape(plain));
    left
}

/// A backslash has been read. Returns what is left.
fn escape<'a>(rest: &'a str, in_class: bool, out: &mut String) -> Option<&'a str> {
    let c = rest.chars().next()?;
    let left = &rest[c.len_utf8()..];
    match c {
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        's' => out.push_str("[\\t\\n\\f\\r ]"),
        'S' => out.push_str("[^\\t\\n\\f\\r ]"),
        'b' if !in_class => out.push_str("(?-u:\\b)"),
        'A' | 'z' | 'B' if !in_class => out.extend(['\\', c]),
        'a' | 'f' | 'n' | 'r' | 't' | 'v' | 'x' | 'p' | 'P' => out.extend(['\\', c]),
        '0'..='7' => return octal(rest, out),
        c if c.is_ascii_punctuation() || c == ' ' => {
            out.push_str(&format!("\\x{{{:x}}}", u32::from(c)));
        }
        _ => return None,
    }
    Some(left)
}

/// Up to three octal digits; one alone but `\0` would be a back-reference, which RE2 has not.
fn octal<'a>(rest: &'a str, out: &mut String) -> Option<&'a str> {
    let digits = rest.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
    if digits == 1 && !rest.starts_with('0') {
        return None;
    }
    let (number, left) = rest.split_at(digits);
    out.push_str(&format!("\\x{{{:x}}}", u32::from_str_radix(number, 8).ok()?));
    Some(left)
}

/// An opening bracket has been read. Returns what follows the class.
fn class<'a>(rest: &'a str, out: &mut String) -> Option<&'a str> {
    let mut rest = rest;
    out.push('[');
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    let mut first = true;
    loop {
        let c = rest.chars().next()?;
        let after = &rest[c.len_utf8()..];
        rest = match c {
            ']' if !first => {
                out.push(']');
                return Some(after);
            }
            '[' if after.starts_with(':') && after.contains(":]") => {
                let end = after.find(":]")? + 2;
                out.push('[');
                out.push_str(&after[..end]);
                &after[end..]
            }
            '\\' => escape(after, true, out)?,
            // A minus that begins or ends the class, or ends a range, is plain.
            '-' if !first && !after.starts_with(['-', ']']) => {
                out.push('-');
                after
            }
            '-' if !first && after.starts_with('-') => {
                out.push_str("-\\-");
                &after[1..]
            }
            '[' | ']' | '&' | '~' | '-' | '^' => {
                out.extend(['\\', c]);
                after
            }
            c => {
                out.push(c);
                after
            }
        };
        first = false;
    }
}

/// `(?` has been read: a name, or flags that Go knows.
fn check_group(rest: &str) -> Option<()> {
    if rest.starts_with("P<") || rest.starts_with('<') {
        return Some(());
    }
    let end = rest.find([':', ')'])?;
    rest[..end].chars().all(|flag| "imsU-".contains(flag)).then_some(())
}

/// Whether an opening brace begins `{n}`, `{n,}` or `{n,m}`.
fn is_repetition(rest: &str) -> bool {
    let Some((inner, _)) = rest.split_once('}') else { return false };
    let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && number(low) && number(high)
}
