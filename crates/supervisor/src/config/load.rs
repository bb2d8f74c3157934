//! Reads a configuration file, strictly: whatever is not understood is an error with its line.
//!
//! All faults of a file are reported at once, so that one start shows everything to be put right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::Config;
use super::settings::{Key, Setting, Shape};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file, or what flags made of it, has faults.
    #[error("{origin}: {}", Faults(.faults))]
    Faults {
        /// The file's path, or what else the values come from.
        origin: String,
        /// Each with the key and, where there is one, the line.
        faults: Vec<String>,
    },
}

struct Faults<'a>(&'a [String]);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n  "))
    }
}

/// Reads `path`; values are not checked beyond their types, for flags may still replace them.
///
/// # Errors
/// When it cannot be read, is no TOML, or has unknown keys or values of a wrong type.
pub fn read(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text)
        .map_err(|faults| ConfigError::Faults { origin: path.display().to_string(), faults })
}

/// As [`read`] for [`super::DEFAULT_FILE`], which need not exist.
///
/// # Errors
/// As [`read`].
pub fn read_default() -> Result<Config, ConfigError> {
    match read(Path::new(super::DEFAULT_FILE)) {
        Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(Config::default())
        }
        other => other,
    }
}

/// Parses the text of a file.
///
/// # Errors
/// All unknown keys, or else the first value of a wrong type.
pub fn parse(text: &str) -> Result<Config, Vec<String>> {
    let table = DeTable::parse(text).map_err(|error| vec![described(text, &error)])?;
    let mut faults = Vec::new();
    unknown_keys(text, table.get_ref(), Config::SHAPE, "", &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    toml::from_str(text).map_err(|error| vec![described(text, &error)])
}

fn described(text: &str, error: &toml::de::Error) -> String {
    let Some(span) = error.span() else { return error.message().to_owned() };
    let line = line_of(text, span.start);
    let source = text.lines().nth(line - 1).unwrap_or_default().trim();
    format!("line {line}: {} in `{source}`", error.message().trim())
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

fn unknown_keys(
    text: &str,
    table: &DeTable<'_>,
    shape: Shape,
    path: &str,
    faults: &mut Vec<String>,
) {
    let Shape::Table(keys) = shape else { return };
    for (name, value) in table {
        let at = join(path, name.get_ref());
        match keys.iter().find(|key| key.name == name.get_ref()) {
            Some(key) => {
                if let DeValue::Table(inner) = value.get_ref() {
                    unknown_keys(text, inner, key.shape, &at, faults);
                }
            }
            None => {
                let line = line_of(text, name.span().start);
                let hint = nearest(&at, name.get_ref(), keys, path);
                faults.push(format!("line {line}: unknown key `{at}`; {hint}"));
            }
        }
    }
}

/// Names the key meant, from the same table if one is near, else from anywhere.
fn nearest(at: &str, name: &str, keys: &[Key], path: &str) -> String {
    let near = |wanted: &str, known: &str| strsim::normalized_damerau_levenshtein(wanted, known);
    let here = keys.iter().map(|key| (near(name, key.name), join(path, key.name)));
    let mut everywhere = Vec::new();
    all_keys(Config::SHAPE, "", &mut everywhere);
    let elsewhere = everywhere.into_iter().map(|known| {
        let last = known.rsplit('.').next().unwrap_or_default();
        (near(at, &known).max(near(name, last) - 0.05), known)
    });
    let best = here.chain(elsewhere).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, known)) if score >= 0.5 => format!("did you mean `{known}`?"),
        _ => {
            let known: Vec<_> = keys.iter().map(|key| key.name).collect();
            format!("known here: {}", known.join(", "))
        }
    }
}

fn all_keys(shape: Shape, path: &str, out: &mut Vec<String>) {
    let Shape::Table(keys) = shape else { return };
    for key in keys {
        let at = join(path, key.name);
        all_keys(key.shape, &at, out);
        out.push(at);
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        parse(text).unwrap_err().join("\n")
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        assert_eq!(
            fault("root = '/r'\n\n[grpc]\nmax_recv_message_size = 1\n"),
            "line 4: unknown key `grpc.max_recv_message_size`; \
             did you mean `grpc.max_recv_message_bytes`?"
        );
        assert_eq!(fault("rot = '/r'"), "line 1: unknown key `rot`; did you mean `root`?");
        assert_eq!(fault("[lgo]"), "line 1: unknown key `lgo`; did you mean `log`?");
        assert_eq!(
            fault("[grpc]\naddress = '/x'"),
            "line 2: unknown key `grpc.address`; did you mean `address`?"
        );
    }

    #[test]
    fn a_key_like_no_other_gets_the_list() {
        let text = fault("[socket]\nzzzzzzzzzzzz = 1");
        assert_eq!(text, "line 2: unknown key `socket.zzzzzzzzzzzz`; known here: uid, gid, mode");
    }

    #[test]
    fn all_unknown_keys_are_told_at_once() {
        assert_eq!(parse("a1 = 1\nb2 = 2\n[c3]\n").unwrap_err().len(), 3);
    }

    #[test]
    fn a_value_of_a_wrong_kind_names_its_line() {
        let text = fault("root = '/r'\n[log]\nlevel = 'loud'");
        assert!(text.starts_with("line 3: \"loud\" is none of error"), "{text}");
        let text = fault("root = 5");
        assert!(text.starts_with("line 1: invalid type: integer"), "{text}");
        let text = fault("[socket]\nuid = -1");
        assert!(text.starts_with("line 2: "), "{text}");
        let text = fault("log = 3");
        assert!(text.starts_with("line 1: "), "{text}");
        let text = fault("root = ");
        assert!(text.starts_with("line 1: "), "{text}");
    }

    #[test]
    fn what_is_not_set_keeps_its_default() {
        let config = parse("[log]\nformat = 'json'").unwrap();
        assert_eq!(config.log.level, Config::default().log.level);
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let absent = read(&path).unwrap_err().to_string();
        assert!(absent.contains("c.toml"), "{absent}");
        std::fs::write(&path, "rot = 1").unwrap();
        let bad = read(&path).unwrap_err().to_string();
        assert!(bad.contains("c.toml: line 1: unknown key"), "{bad}");
    }
}
