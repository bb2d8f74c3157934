//! States, keys, parents, labels, filters, namespaces.

use gantry_core::snapshot::SnapshotKind;
use gantry_core::{FieldMask, Kind, Labels};

use super::{World, key, labels, namespace, refused};

/// The record right after a prepare and a view.
pub async fn a_prepared_snapshot_is_active(world: World) {
    let mounts = world.prepare("a", None).await;
    assert_eq!(mounts.len(), 1);
    let info = world.stat("a").await;
    assert_eq!((info.kind, info.name, info.parent), (SnapshotKind::Active, key("a"), None));
    world.layer("c", None).await;
    world.view("v", Some("c")).await;
    let info = world.stat("v").await;
    assert_eq!((info.kind, info.parent), (SnapshotKind::View, Some(key("c"))));
}

/// The record right after a commit.
pub async fn a_commit_replaces_the_key_by_the_name(world: World) {
    world.layer("base", None).await;
    world.prepare("a", Some("base")).await;
    world.commit("c", "a").await;
    assert!(world.gone("a").await);
    let info = world.stat("c").await;
    assert_eq!((info.kind, info.parent), (SnapshotKind::Committed, Some(key("base"))));
}

/// A committed key is not there to be committed again.
pub async fn a_key_commits_once(world: World) {
    world.prepare("a", None).await;
    world.commit("c", "a").await;
    refused(world.try_commit("d", "a").await, Kind::NotFound);
    refused(world.try_commit("c", "a").await, Kind::AlreadyExists);
    refused(world.try_commit("e", "c").await, Kind::FailedPrecondition);
    assert_eq!(world.names(&[]).await, ["c"]);
}

/// A commit to a name in use changes nothing.
pub async fn a_taken_name_refuses_a_commit_and_the_key_survives(world: World) {
    world.layer("c", None).await;
    world.prepare("a", None).await;
    let error = refused(world.try_commit("c", "a").await, Kind::AlreadyExists);
    assert_eq!(error.message(), "snapshot \"c\": already exists");
    assert_eq!(world.stat("a").await.kind, SnapshotKind::Active);
    world.commit("d", "a").await;
}

/// Keys and names can be used again once they are free.
pub async fn keys_are_free_again_after_commit_and_removal(world: World) {
    world.prepare("a", None).await;
    world.commit("c", "a").await;
    world.prepare("a", Some("c")).await;
    world.remove("a").await;
    world.view("a", Some("c")).await;
    world.remove("a").await;
    world.prepare("a", None).await;
    world.remove("c").await;
    world.commit("c", "a").await;
    assert_eq!(world.names(&[]).await, ["c"]);
}

/// One key names one snapshot, of whatever kind.
pub async fn a_key_in_use_refuses_prepare_and_view(world: World) {
    world.layer("c", None).await;
    world.prepare("a", Some("c")).await;
    world.view("v", Some("c")).await;
    let (s, cx, c) = (&world.snapshotter, &world.cx, key("c"));
    for taken in ["a", "v", "c"] {
        let none = Labels::default;
        let error =
            refused(s.prepare(cx, &key(taken), Some(&c), none()).await, Kind::AlreadyExists);
        assert_eq!(error.message(), format!("snapshot {taken:?}: already exists"));
        refused(s.view(cx, &key(taken), Some(&c), none()).await, Kind::AlreadyExists);
    }
    assert_eq!(world.names(&[]).await, ["a", "c", "v"]);
}

/// Only an active snapshot can be committed.
pub async fn a_view_is_not_committed(world: World) {
    world.layer("c", None).await;
    world.view("v", Some("c")).await;
    refused(world.try_commit("d", "v").await, Kind::FailedPrecondition);
    assert_eq!(world.names(&[]).await, ["c", "v"]);
}

/// What a parent must be.
pub async fn a_parent_must_exist_and_be_committed(world: World) {
    world.prepare("a", None).await;
    world.view("v", None).await;
    let (s, cx) = (&world.snapshotter, &world.cx);
    let parents =
        [("absent", Kind::NotFound), ("a", Kind::InvalidArgument), ("v", Kind::InvalidArgument)];
    for (parent, kind) in parents {
        let parent = key(parent);
        refused(s.prepare(cx, &key("b"), Some(&parent), Labels::default()).await, kind);
        refused(s.view(cx, &key("b"), Some(&parent), Labels::default()).await, kind);
    }
    assert_eq!(world.names(&[]).await, ["a", "v"]);
}

/// Children of any kind keep their parent.
pub async fn a_parent_stays_while_it_has_children(world: World) {
    world.layer("c", None).await;
    for kind in ["active", "view", "committed"] {
        match kind {
            "active" => drop(world.prepare(kind, Some("c")).await),
            "view" => drop(world.view(kind, Some("c")).await),
            _ => world.layer(kind, Some("c")).await,
        }
        let refusal =
            refused(world.snapshotter.remove(&world.cx, &key("c")).await, Kind::FailedPrecondition);
        assert!(refusal.message().contains("remove"), "{}", refusal.message());
        world.remove(kind).await;
    }
    world.remove("c").await;
    assert_eq!(world.names(&[]).await, [""; 0]);
}

/// Every call on an absent key.
pub async fn what_is_absent_is_not_found(world: World) {
    let (s, cx, absent) = (&world.snapshotter, &world.cx, key("absent"));
    let error = refused(s.stat(cx, &absent).await, Kind::NotFound);
    assert_eq!(error.message(), "snapshot absent does not exist: not found");
    refused(s.mounts(cx, &absent).await, Kind::NotFound);
    refused(s.usage(cx, &absent).await, Kind::NotFound);
    refused(s.remove(cx, &absent).await, Kind::NotFound);
    refused(world.try_commit("c", "absent").await, Kind::NotFound);
    let everything = FieldMask::default();
    refused(s.update(cx, &absent, Labels::default(), &everything).await, Kind::NotFound);
}

/// A committed snapshot is seen through a view.
pub async fn a_committed_snapshot_is_not_mounted(world: World) {
    world.layer("c", None).await;
    refused(world.snapshotter.mounts(&world.cx, &key("c")).await, Kind::FailedPrecondition);
}

/// Mounts repeats what the opening call said.
pub async fn mounts_answers_as_prepare_did(world: World) {
    world.layer("1", None).await;
    world.layer("2", Some("1")).await;
    for (number, parent) in [None, Some("1"), Some("2")].into_iter().enumerate() {
        let (active, view) = (format!("a{number}"), format!("v{number}"));
        let said = world.prepare(&active, parent).await;
        assert_eq!(world.snapshotter.mounts(&world.cx, &key(&active)).await.unwrap(), said);
        let said = world.view(&view, parent).await;
        assert_eq!(world.snapshotter.mounts(&world.cx, &key(&view)).await.unwrap(), said);
    }
}

/// An update moves one of the two times.
pub async fn times_tell_creation_from_update(world: World) {
    world.prepare("a", None).await;
    let made = world.stat("a").await;
    assert_eq!(made.created_at, made.updated_at);
    let update = || async {
        let labels = labels([("l", "1")]);
        let mask = FieldMask::default();
        world.snapshotter.update(&world.cx, &key("a"), labels, &mask).await.unwrap()
    };
    // A coarse clock may not have moved yet.
    let mut updated = update().await;
    for _ in 0..1000 {
        if updated.updated_at != made.updated_at {
            break;
        }
        updated = update().await;
    }
    assert_eq!(updated.created_at, made.created_at);
    assert!(updated.updated_at > made.updated_at);
    assert_eq!(world.stat("a").await, updated);
}

/// The four forms of a mask, on every kind of snapshot.
pub async fn labels_change_by_mask(world: World) {
    world.layer("c", None).await;
    world.prepare("a", Some("c")).await;
    world.view("v", Some("c")).await;
    for name in ["c", "a", "v"] {
        let update = async |values: Labels, paths: &[&str]| {
            let mask = FieldMask::new(paths.iter().map(|p| (*p).to_owned()).collect());
            world.snapshotter.update(&world.cx, &key(name), values, &mask).await
        };
        let all = labels([("l1", "1"), ("l2", "2"), ("a/b.c", "3")]);
        assert_eq!(update(all.clone(), &[]).await.unwrap().labels, all);

        let some = labels([("l1", "new"), ("l4", "4")]);
        let some = update(some, &["labels.l1", "labels.l2"]).await.unwrap();
        assert_eq!(some.labels, labels([("l1", "new"), ("a/b.c", "3")]));

        let dotted = update(labels([("a/b.c", "9")]), &["labels.a/b.c"]).await.unwrap();
        assert_eq!(dotted.labels, labels([("l1", "new"), ("a/b.c", "9")]));

        let whole = update(labels([("l4", "4")]), &["labels"]).await.unwrap();
        assert_eq!(whole.labels, labels([("l4", "4")]));

        refused(update(labels([("x", "y")]), &["parent"]).await, Kind::InvalidArgument);
        let info = world.stat(name).await;
        assert_eq!(info.labels, labels([("l4", "4")]));
        assert_eq!(info.kind, whole.kind);
    }
}

/// A committed snapshot has the labels of its commit.
pub async fn a_commit_does_not_inherit_labels(world: World) {
    let (s, cx) = (&world.snapshotter, &world.cx);
    s.prepare(cx, &key("a"), None, labels([("of", "prepare"), ("x", "1")])).await.unwrap();
    assert_eq!(world.stat("a").await.labels, labels([("of", "prepare"), ("x", "1")]));
    s.commit(cx, &key("c"), &key("a"), None, labels([("of", "commit")])).await.unwrap();
    assert_eq!(world.stat("c").await.labels, labels([("of", "commit")]));
}

/// Filters name kind, name, parent and labels.
pub async fn lists_match_filters_in_byte_order(world: World) {
    world.layer("p", None).await;
    world.prepare("b", Some("p")).await;
    world.view("V", Some("p")).await;
    world.prepare("a/é", None).await;
    let labelled = labels([("l", "1"), ("a/b", "2")]);
    world.snapshotter.prepare(&world.cx, &key("z"), None, labelled).await.unwrap();
    let cases: [(&[&str], &[&str]); 9] = [
        (&[], &["V", "a/é", "b", "p", "z"]),
        (&["kind==active"], &["a/é", "b", "z"]),
        (&["kind==view"], &["V"]),
        (&["kind==committed"], &["p"]),
        (&["name==p", "name==b"], &["b", "p"]),
        (&["parent==p"], &["V", "b"]),
        (&["parent==p,kind==active"], &["b"]),
        (&["labels.l"], &["z"]),
        (&["labels.\"a/b\"==2"], &["z"]),
    ];
    for (filters, expected) in cases {
        assert_eq!(world.names(filters).await, expected, "{filters:?}");
    }
}

/// Keys are texts, not paths.
pub async fn keys_are_any_text(world: World) {
    let odd = ["../../etc", "extract-1-x sha256:abc", "/", "a\nb", "ключ", ".", "a/b/c"];
    for name in odd {
        world.prepare(name, None).await;
        let committed = format!("{name} committed");
        world.commit(&committed, name).await;
        world.view(name, Some(&committed)).await;
        assert_eq!(world.stat(name).await.parent, Some(key(&committed)));
    }
    assert_eq!(world.names(&[]).await.len(), 2 * odd.len());
}

/// The same key in two namespaces is two snapshots.
pub async fn namespaces_do_not_meet(world: World) {
    let (s, one, two) = (&world.snapshotter, &world.cx, namespace("two"));
    world.layer("c", None).await;
    let none = Labels::default;
    refused(s.stat(&two, &key("c")).await, Kind::NotFound);
    refused(s.prepare(&two, &key("a"), Some(&key("c")), none()).await, Kind::NotFound);
    let mine = s.prepare(one, &key("a"), None, none()).await.unwrap();
    let theirs = s.prepare(&two, &key("a"), None, none()).await.unwrap();
    assert_ne!(mine, theirs);
    s.remove(&two, &key("a")).await.unwrap();
    assert_eq!(world.names(&[]).await, ["a", "c"]);
}

/// `containerd.io/snapshot.ref` refuses a prepare whose result is there already.
pub async fn a_target_that_exists_refuses_a_prepare(world: World) {
    let (s, cx) = (&world.snapshotter, &world.cx);
    let target = || labels([("containerd.io/snapshot.ref", "chain")]);
    s.prepare(cx, &key("a"), None, target()).await.unwrap();
    world.commit("chain", "a").await;
    let error = refused(s.prepare(cx, &key("b"), None, target()).await, Kind::AlreadyExists);
    assert_eq!(error.message(), "target snapshot \"chain\": already exists");
    assert_eq!(world.names(&[]).await, ["chain"]);
}

/// With the capability `rebase`, a commit gives a parent to one that has none.
pub async fn a_commit_rebases_where_declared(world: World) {
    let (s, cx) = (&world.snapshotter, &world.cx);
    world.layer("base", None).await;
    world.prepare("a", None).await;
    let outcome = s.commit(cx, &key("c"), &key("a"), Some(&key("base")), Labels::default()).await;
    if !s.capabilities().contains(&"rebase") {
        refused(outcome, Kind::NotImplemented);
        assert_eq!(world.names(&[]).await, ["a", "base"]);
        return;
    }
    outcome.unwrap();
    assert_eq!(world.stat("c").await.parent, Some(key("base")));
    refused(s.remove(cx, &key("base")).await, Kind::FailedPrecondition);
    world.prepare("b", None).await;
    let absent = key("absent");
    let lost = s.commit(cx, &key("d"), &key("b"), Some(&absent), Labels::default()).await;
    refused(lost, Kind::NotFound);
    assert!(!world.gone("b").await);
}

/// A parent, once there, stays.
pub async fn a_commit_cannot_change_a_parent(world: World) {
    let (s, cx) = (&world.snapshotter, &world.cx);
    world.layer("one", None).await;
    world.layer("two", None).await;
    world.prepare("a", Some("one")).await;
    let moved = s.commit(cx, &key("c"), &key("a"), Some(&key("two")), Labels::default()).await;
    refused(moved, Kind::InvalidArgument);
    s.commit(cx, &key("c"), &key("a"), Some(&key("one")), Labels::default()).await.unwrap();
    assert_eq!(world.stat("c").await.parent, Some(key("one")));
}
