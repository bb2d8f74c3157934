//! The dependency arrows of `docs/architecture.md`, on the graph that cargo resolves.
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::sync::LazyLock;

use xtask::layers::{Ban, Graph};

const WIRE: &[&str] = &["tonic", "tonic-prost", "prost", "ttrpc", "gantry-api"];

const BANS: &[Ban] = &[
    Ban {
        package: "gantry-core",
        must_not_reach: &["tonic", "prost", "ttrpc", "sled", "redb", "tonic-prost", "gantry-api"],
        because: "the nouns know neither the wire nor the store",
    },
    Ban {
        package: "gantry-gc",
        must_not_reach: &["tonic", "prost", "sled", "redb", "tokio-stream", "rustix", "nix"],
        because: "marking is pure: no clock, no disk, no wire",
    },
    Ban {
        package: "gantry-metadata",
        must_not_reach: &["tonic", "tonic-prost", "gantryd", "gantry-plugin-content"],
        because: "the store's owner does not know who asks",
    },
    Ban {
        package: "gantry-shim",
        must_not_reach: &[
            "tonic",
            "hyper",
            "h2",
            "sled",
            "redb",
            "gantry-metadata",
            "gantryd",
            "gantry-plugin-content",
            "gantry-plugin-diff",
            "gantry-plugin-snapshots",
        ],
        because: "the shim stays small and meets the daemon only through the wire",
    },
    Ban {
        package: "gantry-sys",
        must_not_reach: &["tokio", "tonic", "prost", "sled", "gantry-metadata"],
        because: "system calls have no policy above them",
    },
    Ban {
        package: "gantry-ttrpc",
        must_not_reach: &["tonic", "hyper", "sled", "gantry-metadata", "gantryd"],
        because: "the shim links it, and nothing larger",
    },
    Ban {
        package: "gantry-shim-state",
        must_not_reach: &["tonic", "tokio", "sled", "gantry-metadata", "gantryd"],
        because: "files of the bundle are read by whoever comes after, without a runtime",
    },
    Ban {
        package: "gantry-plugin",
        must_not_reach: &["tonic", "prost", "sled", "gantryd", "gantry-metadata"],
        because: "ordering and stopping plugins needs to know none of them",
    },
    Ban {
        package: "gantry-plugin-content",
        must_not_reach: &["gantryd", "gantry-plugin-diff", "gantry-plugin-snapshots"],
        because: "implementations do not know each other's insides",
    },
    Ban {
        package: "gantry-plugin-snapshots",
        must_not_reach: &["gantryd", "gantry-plugin-diff", "gantry-plugin-content"],
        because: "implementations do not know each other's insides",
    },
    Ban {
        package: "gantry-plugin-runtime",
        must_not_reach: &[
            "gantryd",
            "tonic",
            "gantry-shim",
            "gantry-plugin-content",
            "gantry-plugin-diff",
            "gantry-plugin-snapshots",
        ],
        because: "tasks meet shims through the wire, and other plugins not at all",
    },
    Ban {
        package: "gantry-plugin-diff",
        must_not_reach: &["gantryd", "gantry-plugin-content", "gantry-plugin-snapshots"],
        because: "implementations do not know each other's insides",
    },
    Ban {
        package: "gantry-plugin-mounts",
        must_not_reach: &[
            "tonic",
            "gantryd",
            "gantry-plugin-content",
            "gantry-plugin-diff",
            "gantry-plugin-snapshots",
        ],
        because: "implementations do not know each other's insides",
    },
    Ban {
        package: "gantry-api",
        must_not_reach: &["gantry-core", "gantry-metadata", "gantryd", "protox", "prost-build"],
        because: "messages hold no logic, and users of the crate generate nothing",
    },
    Ban {
        package: "gantryd",
        must_not_reach: &["gantry-conformance", "gantry-tests", "xtask", "gantry-shim", "protox"],
        because: "nothing of the workshop ships",
    },
];

static GRAPH: LazyLock<Graph> = LazyLock::new(|| Graph::of_workspace(&xtask::root()).unwrap());

#[test]
fn every_arrow_points_down() {
    let graph = &*GRAPH;
    let found = graph.check(BANS);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_package_has_a_rule() {
    let graph = &*GRAPH;
    let free = ["gantry-conformance", "gantry-tests", "xtask"];
    for member in graph.members() {
        let ruled = BANS.iter().any(|ban| ban.package == member) || free.contains(&member);
        assert!(ruled, "{member} has no row in BANS: say what it must not reach");
    }
}

#[test]
fn the_graph_sees_what_is_there() {
    let graph = &*GRAPH;
    assert!(graph.reaches("gantryd", "gantry-core"));
    assert!(graph.reaches("gantry-metadata", "sled"));
    assert!(!graph.reaches("gantry-core", "proptest"), "development dependencies do not count");
}

#[test]
fn a_forbidden_arrow_is_caught() {
    let graph = Graph::of(&[("gantry-core", &["thiserror", "prost"])]);
    let ban = Ban { package: "gantry-core", must_not_reach: WIRE, because: "sample" };
    assert_eq!(graph.check(&[ban]), ["gantry-core must not reach prost: sample"]);
    let absent = Ban { package: "gantry-attic", must_not_reach: WIRE, because: "sample" };
    assert_eq!(graph.check(&[absent]), ["gantry-attic is no package of the workspace"]);
}
