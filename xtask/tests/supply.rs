//! The dependency graph keeps to `deny.toml`, and the check can fail.
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use xtask::supply::{Package, Rules, allows, check, packages, rules};

fn sample() -> Rules {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Rules {
        licenses: own(&["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]),
        banned: own(&["left-pad"]),
    }
}

#[test]
fn the_workspace_is_built_from_what_is_allowed() {
    let root = xtask::root();
    let packages = packages(&root).unwrap();
    assert!(packages.len() > 50, "cargo lists {} packages", packages.len());
    let found = check(&packages, &rules(&root).unwrap());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_rules_are_read() {
    let rules = rules(&xtask::root()).unwrap();
    assert!(rules.licenses.contains("MIT") && rules.banned.contains("openssl-sys"), "{rules:?}");
}

#[test]
fn a_licence_needs_one_allowed_way() {
    let allowed = sample().licenses;
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "(MIT OR GPL-3.0) AND Apache-2.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ] {
        assert!(allows(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0 WITH x", "(MIT", "MIT MIT"] {
        assert!(!allows(bad, &allowed), "{bad}");
    }
}

#[test]
fn a_stranger_is_caught() {
    let registry = "registry+https://github.com/rust-lang/crates.io-index";
    let package = |name: &str, license: &str, source: &str| Package {
        name: name.to_owned(),
        license: license.to_owned(),
        source: Some(source.to_owned()),
    };
    let packages = [
        package("fine", "MIT", registry),
        package("left-pad", "MIT", registry),
        package("viral", "GPL-3.0", registry),
        package("forked", "MIT", "git+https://example.com/forked"),
    ];
    let found = check(&packages, &sample());
    let wanted = ["left-pad is banned", "viral: licence", "forked comes from git"];
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    assert!(found.iter().zip(wanted).all(|(found, wanted)| found.starts_with(wanted)), "{found:?}");
}
