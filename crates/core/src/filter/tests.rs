//! The grammar against what containerd accepts, refuses and matches.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::content::{Info, Status};
use crate::digest::Digest;
use crate::error::Kind;
use crate::id::{ContainerId, ContentRef, ImageName, LeaseId, Namespace, SandboxId, SnapshotKey};
use crate::labels::Labels;
use crate::model::{Container, Descriptor, Envelope, Image, Lease, RuntimeInfo, Sandbox, TypedAny};
use crate::snapshot::{SnapshotInfo, SnapshotKind};

const NOW: Timestamp = Timestamp { seconds: 1, nanos: 0 };

/// An object of name, other and labels; an empty field is absent.
struct Thing(&'static str, &'static str, Labels);

impl Fields for Thing {
    fn field(&self, path: &[String]) -> Option<String> {
        let value = match path[0].as_str() {
            "name" => self.0,
            "other" => self.1,
            "labels" => return self.2.get(&path[1..].join(".")).map(str::to_owned),
            _ => "",
        };
        (!value.is_empty()).then(|| value.to_owned())
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::unchecked(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

fn corpus() -> Vec<Thing> {
    vec![
        Thing("alpine", "", labels(&[("tier", "web")])),
        Thing("busybox", "", labels(&[])),
        Thing("alpine", "", labels(&[("tier", "db"), ("a b", "spaced")])),
        Thing("busybox", "", labels(&[("owner", "web")])),
        Thing("caddy", "", labels(&[("back\\slash and \"quote\"", "x")])),
        Thing("caddy", "", labels(&[("back\\slash and \"quote\".tail", "x")])),
        Thing("debian", "one, two", labels(&[("io.example/a.b", "v-1_2.3")])),
        Thing("erlang", "abc", labels(&[])),
    ]
}

fn parse(filters: &[&str]) -> crate::error::Result<Filters> {
    Filters::parse(&filters.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
}

#[track_caller]
fn check(filters: &[&str], expected: &[usize]) {
    let parsed = parse(filters).unwrap_or_else(|e| panic!("{filters:?}: {}", e.message()));
    let found: Vec<usize> = corpus()
        .iter()
        .enumerate()
        .filter(|(_, thing)| parsed.matches(*thing))
        .map(|(i, _)| i)
        .collect();
    assert_eq!(found, expected, "{filters:?}");
}

#[track_caller]
fn refuse(filter: &str, complaint: &str) {
    let error = parse(&[filter]).expect_err(filter);
    assert!(error.is(Kind::InvalidArgument));
    assert_eq!(error.message(), format!("filters: parse error: {complaint}: invalid argument"));
}

#[test]
fn no_filter_and_an_empty_one_match_everything() {
    let all: Vec<usize> = (0..corpus().len()).collect();
    check(&[], &all);
    check(&[""], &all);
    check(&["name==alpine", ""], &all);
    assert!(parse(&["", "name"]).unwrap().is_empty());
    assert!(parse(&["", "name=="]).is_err(), "each is parsed all the same");
}

#[test]
fn presence() {
    check(&["name"], &[0, 1, 2, 3, 4, 5, 6, 7]);
    check(&["other"], &[6, 7]);
    check(&["labels.tier"], &[0, 2]);
    check(&["labels.tier,name"], &[0, 2]);
    check(&["labels"], &[]);
    check(&["nonsense"], &[]);
}

#[test]
fn equality_needs_presence_and_inequality_does_not() {
    check(&["name==busybox"], &[1, 3]);
    check(&["name!=busybox"], &[0, 2, 4, 5, 6, 7]);
    check(&["labels.tier==web"], &[0]);
    check(&["labels.tier!=web"], &[1, 2, 3, 4, 5, 6, 7]);
    check(&[r#"other=="""#], &[]);
    check(&[r#"other!="""#], &[6, 7]);
    check(&["name==busybox,labels.owner"], &[3]);
    check(&["name==busybox,labels.owner==nobody"], &[]);
}

#[test]
fn filters_join_by_or() {
    check(&["name==alpine,labels.tier==db", "name==erlang"], &[2, 7]);
}

#[test]
fn quoted_fields_and_values() {
    check(&[r#"name==alpine,labels."a b""#], &[2]);
    check(&[r#"labels."back\\slash and \"quote\""==x"#], &[4]);
    check(&[r#"labels."back\\slash and \"quote\"".tail==x"#], &[5]);
    check(&[r#"labels."io.example/a.b"==v-1_2.3"#], &[6]);
    check(&[r#"labels.io."example/a".b"#], &[6]);
    check(&[r#"other=="one, two""#], &[6]);
    check(&[r#"name=="\x61lp\151n\u0065""#], &[0, 2]);
}

#[test]
fn regexps_search_anywhere() {
    check(&["other~=[abc]+,name!=alpine"], &[7]);
    check(&["name~=^a"], &[0, 2]);
    check(&["name~=/^[ab]/,labels.tier"], &[0, 2]);
    check(&["name~=|n$|"], &[6]);
    check(&[r#"name~="^e.*g$""#], &[7]);
    check(&["other~=/[a-c]{3,3}/"], &[7]);
    // An absent value is searched as an empty one.
    check(&["labels.owner~=^$"], &[0, 1, 2, 4, 5, 6, 7]);
    // Valid text, invalid regexp: nothing, and no error.
    check(&["name~=("], &[]);
    check(&["name~=a**"], &[]);
}

#[test]
fn spaces_may_stand_before_a_token_only() {
    check(&[" name == alpine, labels.tier==db"], &[2]);
    check(&["labels. tier"], &[0, 2]);
    refuse("name==alpine ,other", "[name==alpine >| |< ,other]: unexpected input:  ");
    refuse("name==alpine ", "[name==alpine >| |< ]: unexpected input:  ");
    refuse("name ", r#"[name ]: expected an operator ("=="|"!="|"~=")"#);
}

#[test]
fn values_may_hold_what_they_may_not_begin_with() {
    check(&["name==al/p|i\".=!~ne"], &[]);
    refuse("name==/tasks/", "[name== >|/|< tasks/]: invalid quote encountered");
}

#[test]
fn complaints_say_where() {
    refuse("name==alpine,", "[name==alpine,]: expected field or quoted");
    refuse("labels.", "[labels.]: expected field or quoted");
    refuse("labels.?x==y", "[labels. >|?|< x==y]: expected field or quoted");
    refuse("labels.|a|==b", "[labels. >|||< a|==b]: invalid quote encountered");
    refuse("labels.a/b==c", "[labels.a >|/|< b==c]: quoted literal not terminated");
    refuse("labels.a==/b", "[labels.a== >|/|< b]: quoted literal not terminated");
    refuse("name~=,other", "[name~= >|,|< other]: expected value or quoted");
    refuse("name==", "[name==]: expected value or quoted");
    refuse("name=x", r#"[name >|=|< x]: unsupported operator "=""#);
    refuse("name===x", r#"[name >|=|< ==x]: unsupported operator "===""#);
    refuse("name?x", r#"[name >|?|< x]: expected an operator ("=="|"!="|"~=")"#);
    refuse(r"name~=/\d/", r"[name~= >|/|< \d/]: illegal escape sequence");
    refuse(r#"name=="\x4""#, r#"[name== >|"|< \x4"]: illegal numeric escape sequence"#);
    refuse(r#"name=="\777""#, r#"[name== >|"|< \777"]: unquoting failed: quote syntax error"#);
    refuse(
        r#"name=="\U00110000""#,
        r#"[name== >|"|< \U00110000"]: unquoting failed: quote syntax error"#,
    );
    refuse(r#"name=="\xff""#, r#"[name== >|"|< \xff"]: unquoting failed: text is not UTF-8"#);
    refuse("é", "[ >|é|< ]: expected field or quoted");
    refuse("\0", "[ >|\0|< ]: unexpected null");
}

#[test]
fn what_real_clients_send_is_read() {
    for filter in [
        "namespace==moby,topic~=|^/tasks/|",
        r#"topic=="/tasks/exit""#,
        "type==io.containerd.snapshotter.v1, id==overlayfs",
        r#"type=="io.containerd.snapshotter.v1""#,
        "target.digest~=^sha256:0123.*$",
        "name==docker.io/library/busybox:latest",
        r#"labels."nerdctl/name"==web"#,
        r#"labels."buildkit/lease.temporary""#,
        r#"labels."containerd.io/uncompressed"==sha256:00"#,
        r#"name~="^docker\\.io/library/""#,
        "id~=^0123.*$",
    ] {
        assert!(parse(&[filter]).is_ok(), "{filter}");
    }
}

#[test]
fn mentions_looks_at_first_elements() {
    let filters = parse(&["topic==x", "event.container_id==y,namespace==z"]).unwrap();
    assert!(filters.mentions("event") && filters.mentions("namespace"));
    assert!(!filters.mentions("container_id"));
    assert!(!parse(&["", "event.x"]).unwrap().mentions("event"), "everything matches anyway");
}

#[test]
fn regexps_mean_what_go_means() {
    let matches =
        |pattern: &str, text: &str| go_regexp::compile(pattern).is_some_and(|r| r.is_match(text));
    for (pattern, text) in [
        (r"\d", "7"),
        (r"^[\d.]+$", "1.2"),
        (r"\bfoo\b", "éfoo"),
        (r"^\w+$", "aZ_9"),
        (r"[[]", "["),
        (r"[a&&b]", "&"),
        (r"[a~~b]", "~"),
        (r"^[+--]$", ","),
        (r"^[a-]$", "-"),
        (r"^[]a]$", "]"),
        (r"[[:alpha:]]", "x"),
        (r"a\<b", "a<b"),
        (r"a\/b", "a/b"),
        (r"{", "{"),
        (r"a{,2}", "a{,2}"),
        (r"\Qa.b\E+$", "a.bbb"),
        (r"\Q(", "("),
        (r"^\101$", "A"),
        (r"(?i)ABC", "abc"),
        (r"(?P<n>x)(?:y)", "xy"),
        (r"^.$", "é"),
        (r"^a{2}?b+?$", "aabb"),
    ] {
        assert!(matches(pattern, text), "{pattern} on {text}");
    }
    for (pattern, text) in [
        (r"\d", "٣"),
        (r"^\w$", "é"),
        (r"\s", "\u{b}"),
        (r".", "\n"),
        (r"(?x)a b", "ab"),
        (r"\u0041", "A"),
        (r"(a)\1", "aa"),
        (r"(?=a)", "a"),
        (r"a{2,1}", "aa"),
        (r"a{2}{2}", "aaaa"),
        (r"a+??", "a"),
        (r"[", "["),
        (r"\", "\\"),
    ] {
        assert!(!matches(pattern, text), "{pattern} on {text}");
    }
}

#[track_caller]
fn fields(object: &dyn Fields, expected: &[(&str, Option<&str>)]) {
    for (path, value) in expected {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        assert_eq!(object.field(&path).as_deref(), *value, "{path:?}");
    }
    assert_eq!(object.field(&[]), None);
}

#[test]
fn containers() {
    let container = Container {
        id: ContainerId::new("c1").unwrap(),
        labels: labels(&[("a.b", "1")]),
        image: String::new(),
        runtime: RuntimeInfo { name: "io.containerd.runc.v2".into(), options: None },
        spec: None,
        snapshotter: "overlayfs".into(),
        snapshot_key: "k".into(),
        created_at: NOW,
        updated_at: NOW,
        extensions: BTreeMap::new(),
        sandbox: String::new(),
    };
    fields(
        &container,
        &[
            ("id", Some("c1")),
            ("runtime.name", Some("io.containerd.runc.v2")),
            ("runtime", None),
            ("runtime.options", None),
            ("image", None),
            ("labels.a.b", Some("1")),
            ("labels", None),
            ("snapshotter", None),
        ],
    );
}

#[test]
fn images_and_content() {
    let digest = Digest::of(b"x");
    let image = Image {
        name: ImageName::new("docker.io/library/busybox:latest").unwrap(),
        labels: labels(&[("l", "1")]),
        target: Descriptor {
            media_type: "application/json".into(),
            digest: digest.clone(),
            size: 1,
            annotations: BTreeMap::from([("org.example".to_owned(), "a".to_owned())]),
        },
        created_at: NOW,
        updated_at: NOW,
    };
    fields(
        &image,
        &[
            ("name", Some("docker.io/library/busybox:latest")),
            ("target.digest", Some(digest.as_str())),
            ("target.mediatype", Some("application/json")),
            ("target.size", None),
            ("target", None),
            ("labels.l", Some("1")),
            ("annotations.org.example", Some("a")),
        ],
    );
    let info = Info {
        digest: digest.clone(),
        size: 1,
        created_at: NOW,
        updated_at: NOW,
        labels: labels(&[("l", "1")]),
    };
    fields(&info, &[("digest", Some(digest.as_str())), ("size", None), ("labels.l", Some("1"))]);
    let status = Status {
        reference: ContentRef::new("layer-1").unwrap(),
        offset: 0,
        total: 0,
        expected: None,
        started_at: NOW,
        updated_at: NOW,
    };
    fields(&status, &[("ref", Some("layer-1")), ("total", None)]);
}

#[test]
fn snapshots_leases_sandboxes_and_events() {
    let snapshot = SnapshotInfo {
        kind: SnapshotKind::View,
        name: SnapshotKey::new("k").unwrap(),
        parent: None,
        labels: labels(&[("l", "1")]),
        created_at: NOW,
        updated_at: NOW,
    };
    fields(
        &snapshot,
        &[
            ("kind", Some("view")),
            ("name", Some("k")),
            ("parent", Some("")),
            ("labels.l", Some("1")),
        ],
    );
    let lease =
        Lease { id: LeaseId::new("1-x").unwrap(), created_at: NOW, labels: labels(&[("l", "1")]) };
    fields(&lease, &[("id", Some("1-x")), ("labels.l", Some("1")), ("created_at", None)]);
    let sandbox = Sandbox {
        id: SandboxId::new("s").unwrap(),
        runtime: RuntimeInfo::default(),
        spec: None,
        labels: labels(&[("l", "1")]),
        extensions: BTreeMap::new(),
        sandboxer: "shim".into(),
        created_at: NOW,
        updated_at: NOW,
    };
    fields(&sandbox, &[("id", Some("s")), ("labels.l", Some("1")), ("sandboxer", None)]);
    let envelope = Envelope {
        timestamp: NOW,
        namespace: Namespace::new("moby").unwrap(),
        topic: "/tasks/exit".into(),
        event: TypedAny::default(),
    };
    fields(
        &envelope,
        &[("namespace", Some("moby")), ("topic", Some("/tasks/exit")), ("event.id", None)],
    );
}

/// Texts built from what the grammar cares about, so that parsing gets past the first rune.
fn filterish() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("name"),
        Just("labels"),
        Just("."),
        Just(","),
        Just("=="),
        Just("!="),
        Just("~="),
        Just("="),
        Just("\""),
        Just("/"),
        Just("|"),
        Just("\\"),
        Just("\\x4"),
        Just("\\U0011"),
        Just(" "),
        Just("\0"),
        Just("\u{fffd}"),
        Just("é"),
        Just("["),
        Just("("),
        Just("{1,"),
        Just("\n"),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn parsing_never_panics(filter in prop_oneof![any::<String>(), filterish()]) {
        if let Ok(filters) = Filters::parse(&[filter]) {
            for thing in corpus() {
                filters.matches(&thing);
            }
        }
    }

    #[test]
    fn a_quoted_text_is_read_back(key in any::<String>(), value in any::<String>()) {
        prop_assume!(!value.is_empty());
        let thing = Thing("", "", Labels::unchecked([(key.clone(), value.clone())]));
        let filter = format!("labels.{}=={}", quote(&key), quote(&value));
        let filters = Filters::parse(&[filter]).map_err(|e| TestCaseError::fail(e.message()))?;
        prop_assert!(filters.matches(&thing));
        let other = Thing("", "", Labels::unchecked([(key, format!("{value}x"))]));
        prop_assert!(!filters.matches(&other));
    }

    #[test]
    fn a_regexp_never_panics(pattern in any::<String>(), text in any::<String>()) {
        if let Some(regexp) = go_regexp::compile(&pattern) {
            regexp.is_match(&text);
        }
    }

    #[test]
    fn an_escaped_text_matches_itself(text in any::<String>()) {
        // Go's regexp.QuoteMeta escapes these and nothing else.
        let escaped: String = text
            .chars()
            .flat_map(|c| r"\.+*?()|[]{}^$".contains(c).then_some('\\').into_iter().chain([c]))
            .collect();
        let regexp = go_regexp::compile(&format!("^{escaped}$"));
        prop_assert!(regexp.is_some_and(|r| r.is_match(&text)));
    }
}
