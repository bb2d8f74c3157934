//! The dependency graph that cargo really resolves, for the arrows of `docs/architecture.md`.
//!
//! Features matter: one crate of the workspace may switch on a feature of another that a third
//! must not have. So what a package reaches is asked package by package (`cargo tree -p`), which
//! resolves features as a build of that package alone does; `cargo metadata` would show the union.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::Result;

/// What each package of the workspace is built from.
#[derive(Debug)]
pub struct Graph {
    reached: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Resolves the workspace at `root` by its lock file.
    pub fn of_workspace(root: &Path) -> Result<Self> {
        let metadata = cargo(root, &["metadata", "--no-deps", "--format-version", "1"])?;
        let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
        let packages = metadata["packages"].as_array().ok_or("cargo metadata without packages")?;
        let mut reached = BTreeMap::new();
        for name in packages.iter().filter_map(|package| package["name"].as_str()) {
            let args = ["tree", "-p", name, "-e", "normal,build", "--prefix", "none", "-f", "{p}"];
            let tree = cargo(root, &args)?;
            reached.insert(name.to_owned(), names(&tree, name));
        }
        Ok(Self { reached })
    }

    /// A graph of the given arrows; for samples.
    pub fn of(arrows: &[(&str, &[&str])]) -> Self {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self { reached: arrows.iter().map(|(from, to)| ((*from).to_owned(), own(to))).collect() }
    }

    /// The packages of the workspace.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.reached.keys().map(String::as_str)
    }

    /// Whether `package` is built from `other`, directly or not; development dependencies do not
    /// count.
    pub fn reaches(&self, package: &str, other: &str) -> bool {
        self.reached.get(package).is_some_and(|reached| reached.contains(other))
    }

    /// Findings: every arrow of `banned` that exists, and rows that name no member.
    pub fn check(&self, banned: &[Ban]) -> Vec<String> {
        let mut found = Vec::new();
        for ban in banned {
            if !self.reached.contains_key(ban.package) {
                found.push(format!("{} is no package of the workspace", ban.package));
            }
            for other in ban.must_not_reach {
                if self.reaches(ban.package, other) {
                    found.push(format!("{} must not reach {other}: {}", ban.package, ban.because));
                }
            }
        }
        found
    }
}

/// What a package must not be built from, and why.
#[derive(Clone, Copy, Debug)]
pub struct Ban {
    /// A package of the workspace.
    pub package: &'static str,
    /// Packages it must not reach.
    pub must_not_reach: &'static [&'static str],
    /// The rule that a violation breaks.
    pub because: &'static str,
}

fn names(tree: &str, itself: &str) -> BTreeSet<String> {
    let first_words = tree.lines().filter_map(|line| line.split_whitespace().next());
    first_words.filter(|name| *name != itself).map(str::to_owned).collect()
}

/// What `cargo ARGS` prints, run in `root` on the lock file as it is.
pub fn cargo(root: &Path, args: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(args).arg("--locked").current_dir(root).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo {}: {text}", args.join(" ")).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
