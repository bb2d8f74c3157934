//! Writes a configuration with the meaning of every key above it.

use toml::Value;

use super::Config;
use super::settings::{Key, Setting, Shape};

/// `config` as a file that [`super::load::parse`] reads back to the same.
///
/// # Errors
/// When a value cannot be expressed in TOML, such as a path that is not UTF-8.
pub fn commented(config: &Config) -> Result<String, toml::ser::Error> {
    let values = Value::try_from(config)?;
    let mut out = String::new();
    table(&mut out, Config::SHAPE, &values, "");
    Ok(out)
}

fn table(out: &mut String, shape: Shape, values: &Value, path: &str) {
    let Shape::Table(keys) = shape else { return };
    // In TOML a value after a sub-table would belong to that table, so values come first.
    let (plain, tables): (Vec<&Key>, Vec<&Key>) =
        keys.iter().partition(|key| matches!(key.shape, Shape::Value));
    for key in plain {
        let Some(value) = values.get(key.name) else { continue };
        comment(out, key);
        out.push_str(&format!("{} = {value}\n\n", key.name));
    }
    for key in tables {
        let Some(inner) = values.get(key.name) else { continue };
        let at = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        comment(out, key);
        out.push_str(&format!("[{at}]\n"));
        table(out, key.shape, inner, &at);
    }
}

fn comment(out: &mut String, key: &Key) {
    for line in key.doc {
        out.push_str(format!("#{line}").trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::parse;
    use super::super::value::{Backend, LogLevel};
    use super::*;

    #[test]
    fn the_default_file_loads_to_the_default() {
        let text = commented(&Config::default()).unwrap();
        assert_eq!(parse(&text).unwrap(), Config::default());
    }

    #[test]
    fn what_was_changed_survives() {
        let mut config = Config::default();
        config.log.level = LogLevel::Trace;
        config.metadata.backend = Backend::Redb;
        config.address = "/tmp/with \"quote\"".into();
        config.socket.gid = 7;
        assert_eq!(parse(&commented(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn every_key_has_a_comment() {
        fn check(shape: Shape, path: &str) {
            let Shape::Table(keys) = shape else { return };
            for key in keys {
                assert!(!key.doc.is_empty(), "{path}.{} has no doc comment", key.name);
                check(key.shape, key.name);
            }
        }
        check(Config::SHAPE, "");
        let text = commented(&Config::default()).unwrap();
        assert!(text.starts_with("# Folder for what must survive a power cut"), "{text}");
    }
}
