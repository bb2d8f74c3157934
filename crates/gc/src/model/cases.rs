//! The rules one by one; each case is also put to the naive model.

use super::*;

fn check(world: &[Record], removed: &[Object]) {
    let world: World = world.iter().map(|r| ("n".to_owned(), r.clone())).collect();
    let plan = plan(&world);
    assert_eq!(plan.remove, naive_plan(&world), "model and plan differ");
    let mut removed: Vec<Node> =
        removed.iter().map(|o| Node { namespace: "n".to_owned(), object: o.clone() }).collect();
    removed.sort();
    assert_eq!(plan.remove, removed);
}

fn blob(digest: u8, labels: &[L]) -> Record {
    Record::Content { digest, labels: labels.to_vec() }
}
fn layer(key: u8, parent: Option<u8>) -> Record {
    Record::Snapshot { snapshotter: 0, key, parent, labels: vec![] }
}

#[test]
fn an_image_keeps_its_manifest_config_layers_and_unpacked_chain() {
    check(
        &[
            Record::Image { name: 0, target: 0, expires: None, labels: vec![] },
            blob(0, &[L::Ref(content(1), "."), L::Ref(content(2), ".l.")]),
            blob(1, &[L::Ref(snapshot(0, 1), "/")]),
            blob(2, &[]),
            blob(3, &[]),
            layer(0, None),
            layer(1, Some(0)),
            layer(2, Some(1)),
        ],
        &[content(3), snapshot(0, 2)],
    );
}

#[test]
fn a_flat_lease_keeps_parents_and_targets_but_not_what_labels_name() {
    check(
        &[
            Record::Lease { id: 0, expires: None, flat: true },
            Record::Leased { lease: 0, what: content(0) },
            Record::Leased { lease: 0, what: snapshot(0, 1) },
            Record::Leased { lease: 0, what: image(0) },
            Record::Image { name: 0, target: 2, expires: Some(NOW - 1), labels: vec![] },
            blob(0, &[L::Ref(content(1), ".")]),
            blob(1, &[]),
            blob(2, &[L::Ref(content(3), ".")]),
            blob(3, &[]),
            layer(0, None),
            layer(1, Some(0)),
        ],
        &[content(1), content(3)],
    );
}

#[test]
fn what_a_flat_lease_holds_counts_as_its_better_reference() {
    // Whichever is walked first.
    let image = Record::Image { name: 0, target: 0, expires: None, labels: vec![] };
    let lease = Record::Lease { id: 0, expires: None, flat: true };
    let rest = [
        Record::Leased { lease: 0, what: content(0) },
        blob(0, &[L::Ref(content(1), ".")]),
        blob(1, &[]),
    ];
    check(&[&[image.clone(), lease.clone()], &rest[..]].concat(), &[]);
    check(&[&[lease, image], &rest[..]].concat(), &[]);
}

#[test]
fn an_expired_lease_goes_with_all_it_held() {
    check(
        &[
            Record::Lease { id: 0, expires: Some(NOW - 1), flat: false },
            Record::Leased { lease: 0, what: content(0) },
            Record::Leased { lease: 0, what: Object::Ingest("r0".into()) },
            blob(0, &[]),
            Record::Ingest { reference: 0, expires: None, shared: None },
            Record::Stream { id: 0, lease: Some(0) },
        ],
        &[
            Object::Lease("l0".into()),
            content(0),
            Object::Ingest("r0".into()),
            Object::Stream("t0".into()),
        ],
    );
}

#[test]
fn an_expired_image_lives_while_something_refers_to_it() {
    let image_0 = |labels| Record::Image { name: 0, target: 0, expires: Some(NOW - 1), labels };
    let holder = Record::Image { name: 1, target: 9, expires: None, labels: vec![] };
    check(&[image_0(vec![L::Bref(image(1), ".")]), blob(0, &[]), holder], &[]);
    check(&[image_0(vec![L::Bref(image(1), ".")]), blob(0, &[])], &[image(0), content(0)]);
}

#[test]
fn an_ingest_keeps_the_blob_it_was_opened_on_until_its_stamp_runs_out() {
    let ingest = |expires| Record::Ingest { reference: 0, expires, shared: Some(0) };
    check(&[ingest(Some(NOW)), blob(0, &[])], &[]);
    check(&[ingest(Some(NOW - 1)), blob(0, &[])], &[Object::Ingest("r0".into()), content(0)]);
    check(&[ingest(None)], &[Object::Ingest("r0".into())]);
}

#[test]
fn a_mount_named_for_a_container_goes_with_it() {
    let mount = Record::Mount { name: 0, lease: None, labels: vec![L::Bref(container(0), ".")] };
    let alive = Record::Container { id: 0, snapshot: None, labels: vec![] };
    check(&[mount.clone(), alive], &[]);
    check(&[mount], &[Object::Mount("m0".into())]);
    check(&[Record::Mount { name: 0, lease: None, labels: vec![] }], &[]);
}

#[test]
fn namespaces_do_not_keep_each_others_objects() {
    let world = vec![
        ("a".to_owned(), Record::Image { name: 0, target: 0, expires: None, labels: vec![] }),
        ("b".to_owned(), blob(0, &[])),
    ];
    let node = Node { namespace: "b".to_owned(), object: content(0) };
    assert_eq!(plan(&world).remove, [node]);
}

#[test]
fn an_unreadable_expiry_is_no_expiry() {
    let mut view = View::new(at(NOW));
    let labels = Labels::unchecked([("containerd.io/gc.expire".into(), "tomorrow".into())]);
    view.lease("n", "l", &labels);
    view.image("n", "i", "d", &labels);
    assert_eq!(view.plan(), Plan { remove: vec![], kept: 2 });
}

#[test]
fn rings_are_collected() {
    check(
        &[blob(0, &[L::Ref(content(1), ".")]), blob(1, &[L::Ref(content(0), ".")])],
        &[content(0), content(1)],
    );
}

#[test]
fn what_was_written_meanwhile_is_a_root() {
    let mut view = View::new(at(NOW));
    let child =
        Labels::unchecked([("containerd.io/gc.ref.content.0".to_owned(), "child".to_owned())]);
    view.content("n", "new", &child);
    view.content("n", "child", &Labels::default());
    view.content("n", "old", &Labels::default());
    view.pin(Node { namespace: "n".into(), object: Object::Content("new".into()) });
    let old = Node { namespace: "n".into(), object: Object::Content("old".into()) };
    assert_eq!(view.plan(), Plan { remove: vec![old], kept: 2 });
}

#[test]
fn a_use_that_is_told_late_counts_in_the_next_plan() {
    let mut view = View::new(at(NOW));
    let on = |key: &str, value: &str| Labels::unchecked([(key.to_owned(), value.to_owned())]);
    view.image("n", "i", "d", &on("containerd.io/gc.cond.snapshot.s", "usedat<1h|k"));
    view.snapshot("n", "s", "k", None, &Labels::default());
    assert_eq!(view.plan().remove.len(), 1);
    let used = on("containerd.io/gc.cond.value-usedat", &at(NOW).to_rfc3339());
    view.snapshot("n", "s", "k", None, &used);
    assert_eq!(view.plan().remove, []);
}
