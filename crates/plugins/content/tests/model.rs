//! Any sequence of calls, sweeps and restarts does what a model of twenty lines per call says.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use common::{World, cx, reference};
use gantry_core::content::{ContentStore, Writer, WriterOpts};
use gantry_core::filter::Filters;
use gantry_core::{Digest, Kind, Labels};
use gantry_plugin_content::{Depth, Swept};
use proptest::prelude::*;
use proptest::sample::select;

/// A namespace and a ref in it.
type At = (&'static str, &'static str);
type Data = Vec<u8>;

#[derive(Clone, Debug)]
enum Op {
    Open { at: At, total: u64, expected: Option<Data> },
    Write { at: At, data: &'static str },
    Truncate { at: At },
    Drop { at: At },
    Commit { at: At, size: Said, expected: Said },
    Abort { at: At },
    Delete { namespace: &'static str, data: Data },
    Sweep,
    Restart,
}

/// What a client says about what it wrote.
#[derive(Clone, Copy, Debug)]
enum Said {
    Nothing,
    Right,
    Wrong,
}

#[derive(Clone, Debug)]
struct Ingest {
    number: u64,
    total: u64,
    shared: Option<Data>,
    /// `None` while it has no file.
    file: Option<Data>,
}

#[derive(Clone, Debug)]
struct Writing {
    number: u64,
    linked: bool,
    data: Data,
}

#[derive(Debug, Default)]
struct Model {
    blobs: BTreeSet<Data>,
    content: BTreeSet<(&'static str, Data)>,
    ingests: BTreeMap<At, Ingest>,
    writers: BTreeMap<At, Writing>,
    numbers: u64,
}

impl Model {
    fn open(&mut self, at: At, total: u64, expected: Option<&Data>) -> Result<u64, Kind> {
        if expected.is_some_and(|e| self.content.contains(&(at.0, e.clone()))) {
            return Err(Kind::AlreadyExists);
        }
        if self.writers.contains_key(&at) {
            return Err(Kind::Unavailable);
        }
        let fits = |e: &&Data| total == 0 || total == e.len() as u64;
        let shared = expected.filter(|e| self.blobs.contains(*e)).filter(fits).cloned();
        let total = shared.as_ref().map_or(total, |e| e.len() as u64);
        let restart =
            self.ingests.get(&at).is_none_or(|i| total > 0 && i.total > 0 && i.total != total);
        if restart {
            self.numbers += 1;
            let fresh = Ingest { number: self.numbers, total, shared: None, file: None };
            self.ingests.insert(at, fresh);
        }
        let ingest = self.ingests.get_mut(&at).unwrap();
        if total > 0 {
            ingest.total = total;
        }
        ingest.shared = shared.clone();
        let data = match &shared {
            Some(blob) => blob.clone(),
            None => ingest.file.get_or_insert_default().clone(),
        };
        let offset = data.len() as u64;
        let number = ingest.number;
        self.writers.insert(at, Writing { number, linked: shared.is_some(), data });
        Ok(offset)
    }

    fn change(&mut self, at: At, change: impl FnOnce(&mut Data)) {
        let writer = self.writers.get_mut(&at).unwrap();
        change(&mut writer.data);
        writer.linked = false;
        if let Some(ingest) = self.ingests.get_mut(&at).filter(|i| i.number == writer.number) {
            ingest.file = Some(writer.data.clone());
        }
    }

    fn commit(&mut self, at: At, size: Said, expected: Said) -> Result<(), Kind> {
        let Writing { number, data, .. } = self.writers.remove(&at).unwrap();
        // An empty write says 0, which says nothing; one more than that is wrong.
        if matches!(size, Said::Wrong) || matches!(expected, Said::Wrong) {
            return Err(Kind::FailedPrecondition);
        }
        if self.ingests.get(&at).is_none_or(|i| i.number != number) {
            return Err(Kind::NotFound);
        }
        self.ingests.remove(&at);
        self.blobs.insert(data.clone());
        if self.content.insert((at.0, data)) { Ok(()) } else { Err(Kind::AlreadyExists) }
    }

    fn sweep(&mut self) {
        let shared: BTreeSet<_> = self.ingests.values().filter_map(|i| i.shared.clone()).collect();
        let seen: BTreeSet<_> = self.content.iter().map(|(_, data)| data.clone()).collect();
        self.blobs.retain(|blob| shared.contains(blob) || seen.contains(blob));
    }
}

/// The store, the model, and the writers that are open.
struct Pair {
    world: World,
    model: Model,
    open: BTreeMap<At, Box<dyn Writer>>,
}

fn kind<T>(outcome: gantry_core::Result<T>) -> Result<T, Kind> {
    outcome.map_err(|e| e.kind())
}

impl Pair {
    async fn apply(&mut self, op: &Op) {
        let store = self.world.store.clone();
        match op.clone() {
            Op::Open { at, total, expected } => {
                let modelled = self.model.open(at, total, expected.as_ref());
                let expected = expected.map(|e| Digest::of(&e));
                let opts = WriterOpts { reference: reference(at.1), total, expected };
                let opened = kind(store.writer(&cx(at.0), opts).await);
                assert_eq!(opened.as_ref().map(|w| w.status().offset).map_err(|k| *k), modelled);
                if let Ok(writer) = opened {
                    self.open.insert(at, writer);
                }
            }
            Op::Write { at, data } => {
                let Some(writer) = self.open.get_mut(&at) else { return };
                writer.write(Bytes::from_static(data.as_bytes())).await.unwrap();
                self.model.change(at, |file| file.extend_from_slice(data.as_bytes()));
            }
            Op::Truncate { at } => {
                let Some(writer) = self.open.get_mut(&at) else { return };
                writer.truncate(0).await.unwrap();
                self.model.change(at, Vec::clear);
            }
            Op::Drop { at } => {
                self.open.remove(&at);
                self.model.writers.remove(&at);
            }
            Op::Commit { at, size, expected } => {
                let Some(mut writer) = self.open.remove(&at) else { return };
                let data = self.model.writers[&at].data.clone();
                let modelled = self.model.commit(at, size, expected);
                let size = match size {
                    Said::Nothing => 0,
                    Said::Right => data.len() as u64,
                    Said::Wrong => data.len() as u64 + 1,
                };
                let expected = match expected {
                    Said::Nothing => None,
                    Said::Right => Some(Digest::of(&data)),
                    Said::Wrong => Some(Digest::of(b"never written")),
                };
                let cx = cx(at.0);
                let made = writer.commit(&cx, size, expected.as_ref(), Labels::default()).await;
                assert_eq!(kind(made), modelled.map(|()| Digest::of(&data)));
            }
            Op::Abort { at } => {
                let modelled = self.model.ingests.remove(&at).map(drop).ok_or(Kind::NotFound);
                assert_eq!(kind(store.abort(&cx(at.0), &reference(at.1)).await), modelled);
            }
            Op::Delete { namespace, data } => {
                let there = self.model.content.remove(&(namespace, data.clone()));
                let modelled = if there { Ok(()) } else { Err(Kind::NotFound) };
                assert_eq!(kind(store.delete(&cx(namespace), &Digest::of(&data)).await), modelled);
            }
            Op::Sweep => {
                store.sweep().await.unwrap();
                self.model.sweep();
            }
            Op::Restart => {
                self.open.clear();
                self.model.writers.clear();
                self.world.reopen();
                self.model.sweep();
            }
        }
    }

    async fn compare(&self) {
        for (at, writer) in &self.open {
            let modelled = &self.model.writers[at];
            assert_eq!(writer.status().offset, modelled.data.len() as u64, "{at:?}");
            assert_eq!(writer.digest(), Digest::of(&modelled.data), "{at:?}");
        }
        for namespace in NAMESPACES {
            let listed = self.world.store.list(&cx(namespace), &Filters::default()).await.unwrap();
            let listed: Vec<_> = listed.into_iter().map(|i| (i.digest, i.size)).collect();
            let mut modelled: Vec<_> = self
                .model
                .content
                .iter()
                .filter(|(ns, _)| *ns == namespace)
                .map(|(_, data)| (Digest::of(data), data.len() as u64))
                .collect();
            modelled.sort();
            assert_eq!(listed, modelled);
            let (cx, all) = (cx(namespace), Filters::default());
            let statuses = self.world.store.list_statuses(&cx, &all).await.unwrap();
            let statuses: Vec<_> = statuses
                .into_iter()
                .map(|s| (s.reference.into_string(), s.offset, s.total))
                .collect();
            let modelled: Vec<_> = self
                .model
                .ingests
                .iter()
                .filter(|((ns, _), _)| *ns == namespace)
                .filter_map(|((_, r), i)| {
                    i.file.as_ref().map(|f| ((*r).to_owned(), f.len() as u64, i.total))
                })
                .collect();
            assert_eq!(statuses, modelled);
        }
    }

    /// With nothing open, disk and model agree to the file.
    async fn settle(mut self) {
        self.apply(&Op::Restart).await;
        self.compare().await;
        let store = &self.world.store;
        assert_eq!(store.sweep().await.unwrap(), Swept::default());
        assert!(store.check(&cx("a"), Depth::Bytes).await.unwrap().is_empty());
        let files = self.model.ingests.values().filter(|i| i.file.is_some()).count();
        assert_eq!(self.world.files(), (self.model.blobs.len(), files));
        for (namespace, data) in &self.model.content {
            let reader = store.reader(&cx(namespace), &Digest::of(data)).await.unwrap();
            assert_eq!(reader.read_at(0, 1_000).await.unwrap(), *data);
        }
    }
}

const NAMESPACES: [&str; 2] = ["a", "b"];
const REFS: [&str; 2] = ["r", "s"];

fn at() -> impl Strategy<Value = At> {
    (select(&NAMESPACES[..]), select(&REFS[..]))
}

fn data() -> impl Strategy<Value = Data> {
    select(vec![&b"x"[..], b"yy", b"xyy", b"yyx", b""]).prop_map(<[u8]>::to_vec)
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![4 => Just(Said::Nothing), 4 => Just(Said::Right), 1 => Just(Said::Wrong)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (at(), select(vec![0, 0, 1, 2, 3]), proptest::option::of(data()))
            .prop_map(|(at, total, expected)| Op::Open { at, total, expected }),
        5 => (at(), select(vec!["x", "yy"])).prop_map(|(at, data)| Op::Write { at, data }),
        1 => at().prop_map(|at| Op::Truncate { at }),
        2 => at().prop_map(|at| Op::Drop { at }),
        5 => (at(), said(), said()).prop_map(|(at, size, expected)| Op::Commit { at, size, expected }),
        1 => at().prop_map(|at| Op::Abort { at }),
        2 => (select(&NAMESPACES[..]), data())
            .prop_map(|(namespace, data)| Op::Delete { namespace, data }),
        1 => Just(Op::Sweep),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..Default::default() })]

    #[test]
    fn the_store_does_what_the_model_says(ops in proptest::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair =
                Pair { world: World::new(), model: Model::default(), open: BTreeMap::new() };
            for op in &ops {
                pair.apply(op).await;
                pair.compare().await;
            }
            pair.settle().await;
        });
    }
}
