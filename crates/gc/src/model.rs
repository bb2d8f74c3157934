//! A second, naive reading of the rules, and random worlds on which both must agree.
//!
//! The model knows labels as the enum that the texts are made from, keeps flat and full marks as
//! separate facts, and applies every rule until nothing changes.

use std::collections::BTreeSet;

use gantry_core::{Labels, Timestamp};
use proptest::prelude::*;
use proptest::sample::select;

use crate::{Node, Object, Plan, View};

const NOW: i64 = 1_000_000;

/// Records are generated in these terms; numbers become short names.
#[derive(Clone, Debug)]
enum Record {
    Lease { id: u8, expires: Option<i64>, flat: bool },
    Leased { lease: u8, what: Object },
    Image { name: u8, target: u8, expires: Option<i64>, labels: Vec<L> },
    Content { digest: u8, labels: Vec<L> },
    Ingest { reference: u8, expires: Option<i64>, shared: Option<u8> },
    Snapshot { snapshotter: u8, key: u8, parent: Option<u8>, labels: Vec<L> },
    Container { id: u8, snapshot: Option<(u8, u8)>, labels: Vec<L> },
    Sandbox { labels: Vec<L> },
    Stream { id: u8, lease: Option<u8> },
    Mount { name: u8, lease: Option<u8>, labels: Vec<L> },
}

/// A label by its meaning.
#[derive(Clone, Debug)]
enum L {
    Root,
    Ref(Object, &'static str),
    Bref(Object, &'static str),
    /// Used less (or more) than so many seconds ago.
    Cond {
        snapshotter: u8,
        key: u8,
        within: bool,
        seconds: i64,
    },
    UsedAt(i64),
    Noise,
}

type World = Vec<(String, Record)>;

fn name(kind: char, number: u8) -> String {
    format!("{kind}{number}")
}
fn content(n: u8) -> Object {
    Object::Content(name('d', n))
}
fn image(n: u8) -> Object {
    Object::Image(name('i', n))
}
fn container(n: u8) -> Object {
    Object::Container(name('c', n))
}
fn snapshot(snapshotter: u8, key: u8) -> Object {
    Object::Snapshot { snapshotter: name('s', snapshotter), key: name('k', key) }
}
fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

/// The text of a label.
fn text(index: usize, label: &L) -> (String, String) {
    let named = |object: &Object, suffix: &str| match object {
        Object::Content(n) => (format!("content{suffix}"), n.clone()),
        Object::Image(n) => (format!("image{suffix}"), n.clone()),
        Object::Container(n) => (format!("container{suffix}"), n.clone()),
        Object::Stream(n) => (format!("stream{suffix}"), n.clone()),
        Object::Mount(n) => (format!("mount{suffix}"), n.clone()),
        Object::Snapshot { snapshotter, key } => {
            (format!("snapshot.{snapshotter}/{index}"), key.clone())
        }
        Object::Lease(_) | Object::Ingest(_) => ("nothing".to_owned(), String::new()),
    };
    let (key, value) = match label {
        L::Root => ("root".to_owned(), "yes".to_owned()),
        L::Ref(object, separator) => {
            let (kind, value) = named(object, &format!("{separator}{index}"));
            (format!("ref.{kind}"), value)
        }
        L::Bref(object, separator) => {
            let (kind, value) = named(object, &format!("{separator}{index}"));
            (format!("bref.{kind}"), value)
        }
        L::Cond { snapshotter, key, within, seconds } => (
            format!("cond.snapshot.s{snapshotter}/{index}"),
            format!("nonsense>1,usedat{}{seconds}s|k{key}", if *within { '<' } else { '>' }),
        ),
        L::UsedAt(seconds) => ("cond.value-usedat".to_owned(), at(*seconds).to_rfc3339()),
        L::Noise => (format!("ref.contents.{index}"), "d0".to_owned()),
    };
    (format!("containerd.io/gc.{key}"), value)
}

fn texts(labels: &[L], expires: Option<i64>, flat: bool) -> Labels {
    let mut all: Vec<_> = labels.iter().enumerate().map(|(i, l)| text(i, l)).collect();
    if let Some(seconds) = expires {
        all.push(("containerd.io/gc.expire".to_owned(), at(seconds).to_rfc3339()));
    }
    if flat {
        all.push(("containerd.io/gc.flat".to_owned(), "x".to_owned()));
    }
    Labels::unchecked(all)
}

fn plan(world: &World) -> Plan {
    let mut view = View::new(at(NOW));
    for (ns, record) in world {
        match record {
            Record::Lease { id, expires, flat } => {
                view.lease(ns, &name('l', *id), &texts(&[], *expires, *flat));
            }
            Record::Leased { lease, what } => view.leased(ns, &name('l', *lease), what.clone()),
            Record::Image { name: n, target, expires, labels } => {
                view.image(
                    ns,
                    &name('i', *n),
                    &name('d', *target),
                    &texts(labels, *expires, false),
                );
            }
            Record::Content { digest, labels } => {
                view.content(ns, &name('d', *digest), &texts(labels, None, false));
            }
            Record::Ingest { reference, expires, shared } => {
                let shared = shared.map(|d| name('d', d));
                view.ingest(ns, &name('r', *reference), expires.map(at), shared.as_deref());
            }
            Record::Snapshot { snapshotter, key, parent, labels } => {
                let parent = parent.map(|p| name('k', p));
                let labels = texts(labels, None, false);
                view.snapshot(
                    ns,
                    &name('s', *snapshotter),
                    &name('k', *key),
                    parent.as_deref(),
                    &labels,
                );
            }
            Record::Container { id, snapshot, labels } => {
                let (s, k) =
                    snapshot.map_or_else(Default::default, |(s, k)| (name('s', s), name('k', k)));
                view.container(ns, &name('c', *id), &s, &k, &texts(labels, None, false));
            }
            Record::Sandbox { labels } => view.sandbox(ns, &texts(labels, None, false)),
            Record::Stream { id, lease } => {
                view.stream(ns, &name('t', *id), lease.map(|l| name('l', l)).as_deref());
            }
            Record::Mount { name: n, lease, labels } => {
                let lease = lease.map(|l| name('l', l));
                view.mount(ns, &name('m', *n), lease.as_deref(), &texts(labels, None, false));
            }
        }
    }
    view.plan()
}

/// A mark: the namespace, the object, and whether labels are followed from it.
type Mark = (String, Object, bool);

fn record_of(record: &Record) -> Option<Object> {
    Some(match record {
        Record::Lease { id, .. } => Object::Lease(name('l', *id)),
        Record::Image { name: n, .. } => image(*n),
        Record::Content { digest, .. } => content(*digest),
        Record::Ingest { reference, .. } => Object::Ingest(name('r', *reference)),
        Record::Snapshot { snapshotter, key, .. } => snapshot(*snapshotter, *key),
        Record::Container { id, .. } => container(*id),
        Record::Stream { id, .. } => Object::Stream(name('t', *id)),
        Record::Mount { name: n, .. } => Object::Mount(name('m', *n)),
        Record::Leased { .. } | Record::Sandbox { .. } => return None,
    })
}

fn labels_of(record: &Record) -> &[L] {
    match record {
        Record::Image { labels, .. }
        | Record::Content { labels, .. }
        | Record::Snapshot { labels, .. }
        | Record::Container { labels, .. }
        | Record::Sandbox { labels }
        | Record::Mount { labels, .. } => labels,
        _ => &[],
    }
}

fn expired(expires: Option<i64>) -> bool {
    expires.is_some_and(|e| e < NOW)
}

/// Everything marked when only the leases in `leases` and, if `others`, all other roots count.
fn naive_marks(world: &World, lease_counts: impl Fn(u8) -> bool, others: bool) -> BTreeSet<Mark> {
    let mut marks = BTreeSet::new();
    loop {
        let before = marks.len();
        for (ns, record) in world {
            apply(world, ns, record, &lease_counts, others, &mut marks);
        }
        if marks.len() == before {
            return marks;
        }
    }
}

fn apply(
    world: &World,
    ns: &str,
    record: &Record,
    lease_counts: &impl Fn(u8) -> bool,
    others: bool,
    marks: &mut BTreeSet<Mark>,
) {
    let live = |lease: u8| {
        lease_counts(lease)
            && world.iter().any(|(n, r)| {
                n == ns && matches!(r, Record::Lease { id, expires, .. } if *id == lease && !expired(*expires))
            })
    };
    let mut mark = |object: Object, full: bool| {
        marks.insert((ns.to_owned(), object, full));
    };
    // Roots, and what live leases hold.
    match record {
        Record::Lease { id, .. } if live(*id) => mark(Object::Lease(name('l', *id)), true),
        Record::Leased { lease, what } if live(*lease) => {
            let flat = world.iter().any(|(n, r)| {
                n == ns && matches!(r, Record::Lease { id, flat: true, .. } if id == lease)
            });
            let labelled =
                matches!(what, Object::Content(_) | Object::Image(_) | Object::Snapshot { .. });
            mark(what.clone(), !(flat && labelled));
        }
        Record::Stream { id, lease: Some(lease) } if live(*lease) => {
            mark(Object::Stream(name('t', *id)), true);
        }
        Record::Mount { name: n, lease: Some(lease), .. } if live(*lease) => {
            mark(Object::Mount(name('m', *n)), true);
        }
        _ => {}
    }
    if others {
        let rooted = labels_of(record).iter().any(|l| matches!(l, L::Root));
        match record {
            Record::Image { name: n, expires, .. } if !expired(*expires) => mark(image(*n), true),
            Record::Content { digest, .. } if rooted => mark(content(*digest), true),
            Record::Snapshot { snapshotter, key, .. } if rooted => {
                mark(snapshot(*snapshotter, *key), true);
            }
            Record::Ingest { reference, expires: Some(e), .. } if *e >= NOW => {
                mark(Object::Ingest(name('r', *reference)), true);
            }
            Record::Container { id, .. } => mark(container(*id), true),
            Record::Stream { id, lease: None } => mark(Object::Stream(name('t', *id)), true),
            Record::Mount { name: n, lease: None, labels }
                if !labels.iter().any(|l| matches!(l, L::Bref(..))) =>
            {
                mark(Object::Mount(name('m', *n)), true);
            }
            Record::Sandbox { labels } => {
                for label in labels {
                    if let L::Ref(object, _) = label {
                        mark(object.clone(), true);
                    }
                }
            }
            _ => {}
        }
    }
    // Edges.
    let Some(object) = record_of(record) else { return };
    for full in [false, true] {
        if !marks.contains(&(ns.to_owned(), object.clone(), full)) {
            continue;
        }
        let target = match record {
            Record::Image { target, .. } => Some(content(*target)),
            Record::Ingest { shared: Some(d), .. } => Some(content(*d)),
            Record::Snapshot { snapshotter, parent: Some(p), .. } => {
                Some(snapshot(*snapshotter, *p))
            }
            Record::Container { snapshot: Some((s, k)), .. } => Some(snapshot(*s, *k)),
            _ => None,
        };
        marks.extend(target.map(|t| (ns.to_owned(), t, full)));
    }
    for label in labels_of(record) {
        let from_here = marks.contains(&(ns.to_owned(), object.clone(), true));
        match label {
            L::Ref(child, _) if from_here && !matches!(record, Record::Mount { .. }) => {
                marks.insert((ns.to_owned(), child.clone(), true));
            }
            L::Bref(parent, _) if marks.contains(&(ns.to_owned(), parent.clone(), true)) => {
                marks.insert((ns.to_owned(), object.clone(), true));
            }
            L::Cond { snapshotter, key, within, seconds }
                if from_here && matches!(record, Record::Image { .. } | Record::Content { .. }) =>
            {
                let holds = world.iter().any(|(n, r)| {
                    n == ns
                        && record_of(r) == Some(snapshot(*snapshotter, *key))
                        && labels_of(r).iter().any(|l| match l {
                            L::UsedAt(t) if *within => NOW - t < *seconds,
                            L::UsedAt(t) => NOW - t > *seconds,
                            _ => false,
                        })
                });
                if holds {
                    marks.insert((ns.to_owned(), snapshot(*snapshotter, *key), true));
                }
            }
            _ => {}
        }
    }
}

fn naive_plan(world: &World) -> Vec<Node> {
    let marks = naive_marks(world, |_| true, true);
    let recorded: BTreeSet<Node> = world
        .iter()
        .filter_map(|(ns, r)| record_of(r).map(|object| Node { namespace: ns.clone(), object }))
        .collect();
    let marked = |n: &Node, full| marks.contains(&(n.namespace.clone(), n.object.clone(), full));
    recorded.into_iter().filter(|n| !marked(n, true) && !marked(n, false)).collect()
}

fn target() -> impl Strategy<Value = Object> {
    prop_oneof![
        4 => (0..5u8).prop_map(content),
        3 => (0..2u8, 0..5u8).prop_map(|(s, k)| snapshot(s, k)),
        2 => (0..3u8).prop_map(image),
        1 => (0..3u8).prop_map(|n| Object::Stream(name('t', n))),
        1 => (0..3u8).prop_map(|n| Object::Mount(name('m', n))),
    ]
}

fn parent() -> impl Strategy<Value = Object> {
    prop_oneof![
        (0..5u8).prop_map(content),
        (0..2u8, 0..5u8).prop_map(|(s, k)| snapshot(s, k)),
        (0..3u8).prop_map(image),
        (0..3u8).prop_map(container),
    ]
}

fn label() -> impl Strategy<Value = L> {
    let separator = || select(vec![".", "/", ".l."]);
    prop_oneof![
        1 => Just(L::Root),
        6 => (target(), separator()).prop_map(|(o, s)| L::Ref(o, s)),
        3 => (parent(), separator()).prop_map(|(o, s)| L::Bref(o, s)),
        2 => (0..2u8, 0..5u8, any::<bool>(), 0..200i64).prop_map(|(snapshotter, key, within, seconds)|
            L::Cond { snapshotter, key, within, seconds }),
        2 => (0..200i64).prop_map(|age| L::UsedAt(NOW - age)),
        1 => Just(L::Noise),
    ]
}

fn labels() -> impl Strategy<Value = Vec<L>> {
    // One use per record: two would be two texts of one key, of which a map keeps one.
    proptest::collection::vec(label(), 0..4).prop_map(|mut labels| {
        let mut used = false;
        labels.retain(|l| !matches!(l, L::UsedAt(_)) || !std::mem::replace(&mut used, true));
        labels
    })
}

fn record() -> impl Strategy<Value = Record> {
    let expires = || proptest::option::of(select(vec![NOW - 1, NOW, NOW + 1]));
    let lease = || proptest::option::of(0..3u8);
    prop_oneof![
        2 => (0..3u8, expires(), any::<bool>())
            .prop_map(|(id, expires, flat)| Record::Lease { id, expires, flat }),
        3 => (0..3u8, prop_oneof![4 => target(), 1 => (0..3u8).prop_map(|n| Object::Ingest(name('r', n)))])
            .prop_map(|(lease, what)| Record::Leased { lease, what }),
        3 => (0..3u8, 0..5u8, expires(), labels())
            .prop_map(|(name, target, expires, labels)| Record::Image { name, target, expires, labels }),
        5 => (0..5u8, labels()).prop_map(|(digest, labels)| Record::Content { digest, labels }),
        2 => (0..3u8, expires(), proptest::option::of(0..5u8))
            .prop_map(|(reference, expires, shared)| Record::Ingest { reference, expires, shared }),
        5 => (0..2u8, 0..5u8, proptest::option::of(0..5u8), labels())
            .prop_map(|(snapshotter, key, parent, labels)|
                Record::Snapshot { snapshotter, key, parent, labels }),
        1 => (0..3u8, proptest::option::of((0..2u8, 0..5u8)), labels())
            .prop_map(|(id, snapshot, labels)| Record::Container { id, snapshot, labels }),
        1 => labels().prop_map(|labels| Record::Sandbox { labels }),
        1 => (0..3u8, lease()).prop_map(|(id, lease)| Record::Stream { id, lease }),
        1 => (0..3u8, lease(), labels())
            .prop_map(|(name, lease, labels)| Record::Mount { name, lease, labels }),
    ]
}

/// Each object is recorded once, as in a store; sandboxes and held resources may repeat.
fn world() -> impl Strategy<Value = World> {
    let namespace = || select(vec!["a".to_owned(), "b".to_owned()]);
    proptest::collection::vec((namespace(), record()), 0..40).prop_map(|records| {
        let mut seen = BTreeSet::new();
        records
            .into_iter()
            .filter(|(ns, r)| record_of(r).is_none_or(|object| seen.insert((ns.clone(), object))))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_plan_is_the_naive_fixpoint(world in world()) {
        prop_assert_eq!(plan(&world).remove, naive_plan(&world));
    }

    #[test]
    fn the_order_of_records_does_not_matter(
        (world, shuffled) in world().prop_flat_map(|w| (Just(w.clone()), Just(w).prop_shuffle()))
    ) {
        prop_assert_eq!(plan(&world), plan(&shuffled));
    }

    #[test]
    fn what_a_live_lease_reaches_stays(world in world()) {
        let removed = plan(&world).remove;
        for (namespace, object, _) in naive_marks(&world, |_| true, false) {
            let node = Node { namespace, object };
            prop_assert!(!removed.contains(&node), "{:?}", node);
        }
    }

    #[test]
    fn one_more_root_never_removes_more(world in world(), extra in 0..5u8) {
        let before: BTreeSet<Node> = plan(&world).remove.into_iter().collect();
        let mut more = world;
        more.push(("a".to_owned(), Record::Lease { id: 9, expires: None, flat: false }));
        more.push(("a".to_owned(), Record::Leased { lease: 9, what: content(extra) }));
        let after: BTreeSet<Node> = plan(&more).remove.into_iter().collect();
        prop_assert!(after.is_subset(&before));
    }

    #[test]
    fn a_second_collection_finds_nothing(world in world()) {
        let removed: BTreeSet<Node> = plan(&world).remove.into_iter().collect();
        let left: World = world
            .into_iter()
            .filter(|(ns, r)| match (r, record_of(r)) {
                // A lease takes its entries along.
                (Record::Leased { lease, .. }, _) => !removed
                    .contains(&Node { namespace: ns.clone(), object: Object::Lease(name('l', *lease)) }),
                (_, Some(object)) => !removed.contains(&Node { namespace: ns.clone(), object }),
                _ => true,
            })
            .collect();
        prop_assert_eq!(plan(&left).remove, vec![]);
    }
}

mod cases;
