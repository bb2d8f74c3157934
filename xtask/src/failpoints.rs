//! Failpoints have one name each, of one shape, and stand in their crate's list.
//!
//! The list (`pub const FAILPOINTS`) is what the crash torture draws from: a failpoint missing
//! there is a commit point that no test ever kills the daemon at.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::File;

/// How code reaches a failpoint: the crate's macro, or a crate's own wrapper of it.
const USES: &[&str] = &["fail_point!(", "failpoint!(", "failpoint("];

/// Findings: names used but not listed, listed but not used, used by two crates, misshapen.
pub fn check(files: &[File]) -> Vec<String> {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut listed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.is_own_rust() && file.path.starts_with("crates/")) {
        let owner = owner(&file.path);
        for name in USES.iter().flat_map(|marker| named_after(&file.text, marker)) {
            used.entry(owner.clone()).or_default().insert(name);
        }
        for name in list(&file.text) {
            listed.entry(owner.clone()).or_default().insert(name);
        }
    }
    let mut found = Vec::new();
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let nothing = BTreeSet::new();
    for (owner, names) in &used {
        let known = listed.get(owner).unwrap_or(&nothing);
        for name in names {
            if !known.contains(name) {
                found.push(format!("{owner}: failpoint {name} is not in FAILPOINTS"));
            }
            if !well_formed(name) {
                found.push(format!("{owner}: failpoint {name} is not `area.step/where`"));
            }
            if let Some(other) = owners.insert(name, owner) {
                found.push(format!("{owner}: failpoint {name} belongs to {other} too"));
            }
        }
    }
    for (owner, names) in &listed {
        let reached = used.get(owner).unwrap_or(&nothing);
        for name in names.difference(reached) {
            found.push(format!("{owner}: FAILPOINTS lists {name}, which no code reaches"));
        }
    }
    found
}

/// Every listed name, sorted: what a torture can draw from.
pub fn all(files: &[File]) -> Vec<String> {
    let own = files.iter().filter(|file| file.is_own_rust() && file.path.starts_with("crates/"));
    let names: BTreeSet<String> = own.flat_map(|file| list(&file.text)).collect();
    names.into_iter().collect()
}

/// The directory of the crate that `path` belongs to.
fn owner(path: &str) -> String {
    path.split("/src/").next().unwrap_or(path).to_owned()
}

/// String literals that directly follow `marker`, on its line or the next.
fn named_after(text: &str, marker: &str) -> Vec<String> {
    let names = text.match_indices(marker).filter_map(|(at, _)| {
        let rest = text[at + marker.len()..].trim_start().strip_prefix('"')?;
        rest.split('"').next().map(str::to_owned)
    });
    names.collect()
}

/// The literals of `const FAILPOINTS: &[&str] = &[..]`.
fn list(text: &str) -> Vec<String> {
    let Some((_, rest)) = text.split_once("const FAILPOINTS:") else { return Vec::new() };
    let Some((_, rest)) = rest.split_once('=') else { return Vec::new() };
    let body = rest.split("];").next().unwrap_or_default();
    body.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

fn well_formed(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    name.split_once('/')
        .is_some_and(|(step, place)| part(place) && step.contains('.') && step.split('.').all(part))
}
