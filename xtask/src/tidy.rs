//! The state every file must be in, checked on its text.
//!
//! Each function takes files and returns findings `path:line: what`; `xtask/tests/tidy.rs` runs
//! them on the repository, and on bad samples that must be caught.

use crate::source::{File, code_only};

/// Lines a Rust file may have.
pub const FILE_LINES_MAX: usize = 500;

/// How far above its sleep a polling loop may begin.
const LOOP_LINES_MAX: usize = 10;

/// One check: files in, findings out.
pub type Check = fn(&[File]) -> Vec<String>;

/// What [`all`] runs.
pub const CHECKS: &[Check] =
    &[headers, lengths, leftovers, unsafe_code, machine_paths, sleeps, manifests, links, commands];

/// Every finding of every check.
pub fn all(files: &[File]) -> Vec<String> {
    CHECKS.iter().flat_map(|check| check(files)).collect()
}

/// Every hand-written Rust file begins with `//!`.
pub fn headers(files: &[File]) -> Vec<String> {
    let bare = |file: &&File| {
        file.is_own_rust() && !file.text.starts_with("//!") && !file.text.trim().is_empty()
    };
    let say = |file: &File| format!("{}:1: begins without a `//!` header", file.path);
    files.iter().filter(bare).map(say).collect()
}

/// No hand-written Rust file has more than [`FILE_LINES_MAX`] lines.
pub fn lengths(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_own_rust()) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", file.path));
        }
    }
    found
}

/// No placeholder macros and no notes to oneself.
pub fn leftovers(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_own_rust()) {
        let code = code_only(&file.text);
        for (number, (line, code)) in (1..).zip(file.text.lines().zip(code.lines())) {
            for banned in ["todo!", "unimplemented!", "dbg!"] {
                if code.contains(banned) {
                    found.push(format!("{}:{number}: `{banned}`", file.path));
                }
            }
            let comment = line.split_once("//").map_or("", |(_, comment)| comment);
            for note in ["TODO", "FIXME", "XXX", "HACK"] {
                if words(comment).any(|word| word == note) && line.len() != code.trim_end().len() {
                    found.push(format!("{}:{number}: a {note} note", file.path));
                }
            }
        }
    }
    found
}

/// `unsafe` stands in `crates/sys` alone, nor does anyone lift the lint elsewhere.
pub fn unsafe_code(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_own_rust()) {
        if file.path.starts_with("crates/sys/") {
            continue;
        }
        let code = code_only(&file.text);
        for (number, line) in (1..).zip(code.lines()) {
            let lifted = line.contains("unsafe_code") && line.contains("#");
            if lifted || words(line).any(|word| word == "unsafe") {
                found.push(format!("{}:{number}: unsafe outside crates/sys", file.path));
            }
        }
    }
    found
}

/// No path that exists on one developer's machine only.
pub fn machine_paths(files: &[File]) -> Vec<String> {
    // Written in pieces, so that this file passes its own check.
    let banned =
        [["/ro", "ot/"], ["/ho", "me/"], ["/wo", "rk/"], ["/tmp/go", "bin"], ["/tmp/c", "16"]];
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in (1..).zip(file.text.lines()) {
            for path in banned.map(|pieces| pieces.concat()) {
                if mentions(line, &path) {
                    found.push(format!("{}:{number}: a path of one machine", file.path));
                }
            }
        }
    }
    found
}

/// Whether `line` names the absolute `path`, and not some longer path that contains it.
fn mentions(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before
            .is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '>' | '/'))
    })
}

/// Tests poll with a deadline. A sleep stands in a loop that asks for a condition, or below a
/// comment that says why time itself is what is tested; a file that stops tokio's clock may let
/// virtual time pass.
pub fn sleeps(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_own_rust()) {
        let a_test = file.path.starts_with("tests/") || file.path.contains("/tests/");
        if !a_test {
            continue;
        }
        let code = code_only(&file.text);
        let code: Vec<&str> = code.lines().collect();
        let text: Vec<&str> = file.text.lines().collect();
        let is_virtual = |line: &str| {
            let stopped =
                |line: &&str| line.contains("time::pause()") || line.contains("start_paused");
            line.contains("tokio::time::sleep(") && code.iter().any(stopped)
        };
        for (at, line) in code.iter().enumerate().filter(|(_, line)| line.contains("sleep(")) {
            let before = &code[at.saturating_sub(LOOP_LINES_MAX)..at];
            let polls = before.iter().any(|line| words(line).any(|w| w == "loop" || w == "while"));
            let explained = at > 0 && text[at - 1].trim_start().starts_with("// ");
            if !polls && !explained && !is_virtual(line) {
                found.push(format!("{}:{}: sleeps instead of waiting", file.path, at + 1));
            }
        }
    }
    found
}

/// Each package takes version, edition, licence, lints and every dependency from the workspace.
pub fn manifests(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        let manifest: toml::Table = match file.text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                found.push(format!("{}: {error}", file.path));
                continue;
            }
        };
        let Some(package) = manifest.get("package").and_then(toml::Value::as_table) else {
            continue;
        };
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            if !inherits(package.get(key)) {
                found.push(format!("{}: package.{key} is not the workspace's", file.path));
            }
        }
        if !inherits(manifest.get("lints")) {
            found.push(format!("{}: lints are not the workspace's", file.path));
        }
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(wanted) = manifest.get(table).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, wanted) in wanted {
                if !inherits(Some(wanted)) {
                    found.push(format!("{}: {table}.{name} is not the workspace's", file.path));
                }
            }
        }
    }
    found
}

fn inherits(value: Option<&toml::Value>) -> bool {
    let workspace = value.and_then(toml::Value::as_table).and_then(|table| table.get("workspace"));
    workspace.and_then(toml::Value::as_bool) == Some(true)
}

/// Every relative link of a document names a file of the repository.
pub fn links(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let path = target.split('#').next().unwrap_or_default();
                if path.is_empty() || target.contains("://") {
                    continue;
                }
                let wanted = resolve(&file.path, path);
                let prefix = format!("{}/", wanted.trim_end_matches('/'));
                if !files.iter().any(|f| f.path == wanted || f.path.starts_with(&prefix)) {
                    found.push(format!("{}:{number}: link to absent {wanted}", file.path));
                }
            }
        }
    }
    found
}

/// Every `cargo xtask COMMAND` that a document or the pipeline names exists.
pub fn commands(files: &[File]) -> Vec<String> {
    let main = files.iter().find(|file| file.path == "xtask/src/main.rs");
    let variants = main.and_then(|main| main.text.split_once("enum Command {"));
    let body = variants.map_or("", |(_, rest)| rest.split("\n}").next().unwrap_or_default());
    let known: Vec<String> = body
        .lines()
        .filter_map(|line| Some(line.trim().split_once('(')?.0.to_lowercase()))
        .collect();
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md") || file.path == ".ci/run") {
        for (number, line) in (1..).zip(file.text.lines()) {
            for rest in line.split("cargo xtask ").skip(1) {
                let name = rest.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
                if !name.is_empty() && !known.iter().any(|known| known == name) {
                    found.push(format!("{}:{number}: no command `{name}`", file.path));
                }
            }
        }
    }
    found
}

/// The repository path that `link` means in the document `from`.
pub fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}
