//! What the workspace is built from, against `deny.toml`: licences, banned crates, sources.
//!
//! The same file serves `cargo deny`, which checks advisories as well but takes minutes to
//! install; this reads its plain lists and asks cargo alone, without the network.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::layers::cargo;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// One package of the dependency graph.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// SPDX expression of its manifest; empty when it has none.
    pub license: String,
    /// Where it comes from; `None` for packages of the workspace.
    pub source: Option<String>,
}

/// What `deny.toml` allows and forbids.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Licences a package may be used under.
    pub licenses: BTreeSet<String>,
    /// Crates that must not be in the graph.
    pub banned: BTreeSet<String>,
}

/// Findings: packages without an allowed licence, banned, or from elsewhere than the registry.
pub fn check(packages: &[Package], rules: &Rules) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        if rules.banned.contains(&package.name) {
            found.push(format!("{} is banned", package.name));
        }
        let Some(source) = &package.source else { continue };
        if source != REGISTRY {
            found.push(format!("{} comes from {source}", package.name));
        }
        if !allows(&package.license, &rules.licenses) {
            found.push(format!("{}: licence {:?} is not allowed", package.name, package.license));
        }
    }
    found
}

/// Reads `deny.toml` below `root`.
pub fn rules(root: &Path) -> Result<Rules> {
    let text: toml::Table = fs::read_to_string(root.join("deny.toml"))?.parse()?;
    let texts = |list: Option<&toml::Value>, key: Option<&str>| -> BTreeSet<String> {
        let items = list.and_then(toml::Value::as_array).into_iter().flatten();
        let named = items.filter_map(|item| match key {
            Some(key) => item.get(key)?.as_str(),
            None => item.as_str(),
        });
        named.map(str::to_owned).collect()
    };
    let table = |name: &str, key: &str| text.get(name)?.get(key).cloned();
    Ok(Rules {
        licenses: texts(table("licenses", "allow").as_ref(), None),
        banned: texts(table("bans", "deny").as_ref(), Some("name")),
    })
}

/// Every package of the resolved graph.
pub fn packages(root: &Path) -> Result<Vec<Package>> {
    let metadata = cargo(root, &["metadata", "--format-version", "1"])?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let listed = metadata["packages"].as_array().ok_or("cargo metadata without packages")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let package = |value: &serde_json::Value| Package {
        name: text(&value["name"]),
        license: text(&value["license"]),
        source: value["source"].as_str().map(str::to_owned),
    };
    Ok(listed.iter().map(package).collect())
}

/// Whether the SPDX expression can be met with `allowed` licences alone. `/` is the old `OR`.
pub fn allows(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let met = either(&mut words, allowed);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= both(words, allowed);
    }
    met
}

fn both(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let met = either(words, allowed);
        return words.next_if_eq(&")").is_some() && met;
    }
    let Some(name) = words.next() else { return false };
    match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => allowed.contains(&format!("{name} WITH {exception}")),
        None => allowed.contains(name),
    }
}
