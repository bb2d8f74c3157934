//! The label grammar of the crate's header: one label in, its meaning out.

use gantry_core::{Labels, Timestamp};

use crate::condition::{self, UsedAt};
use crate::node::Object;

/// What a label says about the record it stands on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Label {
    Root,
    /// The record refers to this.
    Refers(Object),
    /// This refers to the record.
    ReferredBy(Object),
    /// The record refers to this snapshot while one of the tests holds.
    RefersWhile(Object, Vec<UsedAt>),
    /// The record, a snapshot, was used then.
    UsedAt(Timestamp),
}

/// What the labels of a record say, those that say nothing here left out.
pub(crate) fn read(labels: &Labels) -> impl Iterator<Item = Label> {
    labels.iter().filter_map(|(key, value)| parse(key.strip_prefix("containerd.io/gc.")?, value))
}

/// When the record stops being a root; an unreadable time is no time.
pub(crate) fn expiry(labels: &Labels) -> Option<Timestamp> {
    labels.get("containerd.io/gc.expire").and_then(Timestamp::parse_rfc3339)
}

/// Whether a lease holds its resources without what their labels name.
pub(crate) fn is_flat(labels: &Labels) -> bool {
    labels.get("containerd.io/gc.flat").is_some()
}

fn parse(key: &str, value: &str) -> Option<Label> {
    if key.starts_with("root") {
        return Some(Label::Root);
    }
    if let Some(kind) = key.strip_prefix("ref.") {
        return target(kind, value).map(Label::Refers);
    }
    if let Some(kind) = key.strip_prefix("bref.") {
        let parent = target(kind, value)?;
        // Nothing points at these to die with them.
        let never = matches!(parent, Object::Stream(_) | Object::Mount(_));
        return (!never).then_some(Label::ReferredBy(parent));
    }
    if key.starts_with("cond.value-usedat") {
        return Timestamp::parse_rfc3339(value).map(Label::UsedAt);
    }
    let rest = key.strip_prefix("cond.snapshot")?.trim_start_matches(['.', '/']);
    let (tests, key) = condition::parse(value)?;
    Some(Label::RefersWhile(snapshot(rest, key), tests))
}

/// The object that `kind` with its suffix, and `value`, name.
fn target(kind: &str, value: &str) -> Option<Object> {
    if let Some(rest) = kind.strip_prefix("snapshot.") {
        return Some(snapshot(rest, value));
    }
    let end = kind.find(['.', '/']).unwrap_or(kind.len());
    let make = match &kind[..end] {
        "content" => Object::Content,
        "image" => Object::Image,
        "container" => Object::Container,
        "stream" => Object::Stream,
        "mount" => Object::Mount,
        _ => return None,
    };
    Some(make(value.to_owned()))
}

fn snapshot(snapshotter: &str, key: &str) -> Object {
    let snapshotter = snapshotter.split_once('/').map_or(snapshotter, |(name, _)| name);
    Object::Snapshot { snapshotter: snapshotter.to_owned(), key: key.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Option<Label> {
        let labels = Labels::unchecked([(format!("containerd.io/{key}"), value.to_owned())]);
        read(&labels).next()
    }

    fn content(digest: &str) -> Object {
        Object::Content(digest.to_owned())
    }

    fn overlay(key: &str) -> Object {
        Object::Snapshot { snapshotter: "overlayfs".to_owned(), key: key.to_owned() }
    }

    #[test]
    fn references_and_their_suffixes() {
        for key in ["content", "content.l.0", "content/x", "content.config", "content."] {
            assert_eq!(
                one(&format!("gc.ref.{key}"), "d"),
                Some(Label::Refers(content("d"))),
                "{key}"
            );
        }
        for key in ["contents", "content-1", "contentx.l", "", "blob", "snapshot", "lease"] {
            assert_eq!(one(&format!("gc.ref.{key}"), "d"), None, "{key}");
        }
        assert_eq!(one("gc.ref.content", ""), None, "an empty value is no label");
        assert_eq!(one("gc.ref.image.x", "n"), Some(Label::Refers(Object::Image("n".into()))));
        assert_eq!(one("gc.ref.stream", "s"), Some(Label::Refers(Object::Stream("s".into()))));
        assert_eq!(one("gc.ref.mount/a", "m"), Some(Label::Refers(Object::Mount("m".into()))));
        for key in ["snapshot.overlayfs", "snapshot.overlayfs/linux", "snapshot.overlayfs/a/b"] {
            assert_eq!(
                one(&format!("gc.ref.{key}"), "k/1"),
                Some(Label::Refers(overlay("k/1"))),
                "{key}"
            );
        }
        let dotted = Object::Snapshot { snapshotter: "io.example".into(), key: "k".into() };
        assert_eq!(one("gc.ref.snapshot.io.example/x", "k"), Some(Label::Refers(dotted)));
    }

    #[test]
    fn back_references() {
        assert_eq!(
            one("gc.bref.container.x", "c"),
            Some(Label::ReferredBy(Object::Container("c".into())))
        );
        assert_eq!(one("gc.bref.content", "d"), Some(Label::ReferredBy(content("d"))));
        assert_eq!(one("gc.bref.image/1", "i"), Some(Label::ReferredBy(Object::Image("i".into()))));
        assert_eq!(one("gc.bref.snapshot.overlayfs/1", "k"), Some(Label::ReferredBy(overlay("k"))));
        assert_eq!(one("gc.bref.imagex", "i"), None);
        assert_eq!(one("gc.bref.mount", "m"), None);
    }

    #[test]
    fn the_rest() {
        assert_eq!(one("gc.root", "2020-01-01"), Some(Label::Root));
        assert_eq!(one("gc.root.mine", "x"), Some(Label::Root));
        assert_eq!(one("uncompressed", "x"), None);
        assert_eq!(
            one("gc.cond.snapshot.overlayfs/1", "usedat<1ns|k"),
            Some(Label::RefersWhile(overlay("k"), vec![UsedAt::Within(1)]))
        );
        assert_eq!(
            one("gc.cond.value-usedat", "1970-01-01T00:00:01Z"),
            Some(Label::UsedAt(Timestamp { seconds: 1, nanos: 0 }))
        );
        assert_eq!(one("gc.cond.value-usedat", "now"), None);
    }

    #[test]
    fn leases_read_their_own() {
        let labels = Labels::unchecked([
            ("containerd.io/gc.expire".to_owned(), "soon".to_owned()),
            ("containerd.io/gc.flat".to_owned(), "x".to_owned()),
        ]);
        assert_eq!(expiry(&labels), None);
        assert!(is_flat(&labels));
    }
}
