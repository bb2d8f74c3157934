//! Committing at the other side, and finishing it after an interruption.
//!
//! The intent holds all that the record needs, so that a commit that went through there is
//! finished here, whatever became of the call.

use std::sync::Arc;

use gantry_core::snapshot::{SnapshotKind, Usage};
use gantry_core::{Cx, Error, Kind, Labels, Result, SnapshotKey};
use gantry_metadata::IntentId;
use gantry_metadata::schema::{Key, Parts};
use gantry_metadata::stores::SnapshotCommit;

use super::backend::is_unclear;
use super::flight::{Flight, Holding};
use super::{Inner, backend_key, inherited};

/// The kind of intents that say "this is being committed at a proxy's backend".
pub(super) const BACKEND_COMMIT: &str = "snapshot.backend-commit";

/// A commit on its way.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    /// What it makes of the record; names the backend key it gets.
    commit: SnapshotCommit,
    /// The backend key that it has.
    from: String,
    /// The backend key of the parent to rebase on; empty for none.
    parent: String,
}

impl Planned {
    fn encode(&self, snapshotter: &str) -> Vec<u8> {
        let SnapshotCommit { name, key, parent, labels, backend_key, .. } = &self.commit;
        let parent = parent.as_ref().map_or("", SnapshotKey::as_str);
        let texts = [snapshotter, backend_key, &self.from, name.as_str(), key.as_str(), parent];
        let encoded = texts.into_iter().fold(Key::new(), Key::sized);
        let encoded = labels.iter().fold(encoded, |all, (k, v)| all.sized(k).sized(v));
        encoded.prefix()
    }

    /// The commit that `payload` describes, if it is one of `snapshotter`.
    pub(super) fn decode(snapshotter: &str, payload: &[u8]) -> Option<Self> {
        let mut parts = Parts::of(payload);
        if parts.sized()? != snapshotter {
            return None;
        }
        let mut text = || parts.sized().map(str::to_owned);
        let (backend_key, from, name, key, parent) = (text()?, text()?, text()?, text()?, text()?);
        let mut labels = Labels::default();
        while let (Some(key), Some(value)) = (text(), text()) {
            labels.set(key, value);
        }
        let commit = SnapshotCommit {
            name: SnapshotKey::new(name).ok()?,
            key: SnapshotKey::new(key).ok()?,
            parent: SnapshotKey::new(parent).ok(),
            labels,
            usage: Usage::default(),
            backend_key,
        };
        Some(Self { commit, from, parent: String::new() })
    }
}

impl Inner {
    pub(super) async fn commit(
        self: &Arc<Self>,
        cx: Cx,
        commit: SnapshotCommit,
        _: Holding,
    ) -> Result<()> {
        self.check(&cx, commit.clone()).await?;
        let (flight, planned) = self.plan(&cx, commit).await?;
        let committed = self.ask_and_commit(&cx, flight, planned).await;
        if committed.is_err() {
            self.settle_behind();
        }
        committed
    }

    /// Whether the record could be committed as asked.
    async fn check(&self, cx: &Cx, commit: SnapshotCommit) -> Result<()> {
        let (records, cx) = (self.records.clone(), cx.clone());
        let rebases = self.capabilities.contains(&"rebase");
        self.would_do(move |tx| {
            let (ns, SnapshotCommit { name, key, parent, .. }) = (cx.namespace(), &commit);
            let taken = records.find(tx.view(), ns, name)?.is_some();
            let active = records.find(tx.view(), ns, key)?;
            let parentless = active
                .is_some_and(|a| a.info.kind == SnapshotKind::Active && a.info.parent.is_none());
            if !taken && parentless && parent.is_some() && !rebases {
                return Err(Error::not_implemented(format!(
                    "snapshotter {} cannot give snapshot {key} a parent at its commit",
                    records.snapshotter()
                )));
            }
            records.commit(tx, &cx, commit)
        })
        .await
    }

    async fn plan(&self, cx: &Cx, commit: SnapshotCommit) -> Result<(Flight, Planned)> {
        let (records, cx, flights) = (self.records.clone(), cx.clone(), Arc::clone(&self.flights));
        self.metadata
            .update(move |tx| {
                let ns = cx.namespace();
                let active = records.get(tx.view(), ns, &commit.key)?;
                let rebase = commit.parent.as_ref().filter(|_| active.info.parent.is_none());
                let parent = rebase.map(|p| records.get(tx.view(), ns, p)).transpose()?;
                let parent = parent.map(|p| p.backend_key).unwrap_or_default();
                let (_, backend_key) = backend_key(tx, &cx, &commit.name)?;
                let commit = SnapshotCommit { backend_key, ..commit };
                let planned = Planned { commit, from: active.backend_key, parent };
                let payload = planned.encode(records.snapshotter().as_str());
                let intent = tx.begin_intent(BACKEND_COMMIT, ns, payload)?;
                Ok((flights.begin(intent), planned))
            })
            .await
    }

    async fn ask_and_commit(&self, cx: &Cx, flight: Flight, planned: Planned) -> Result<()> {
        try_fail_point!("snapshot.proxy-commit/before-backend");
        let SnapshotCommit { backend_key, labels, .. } = &planned.commit;
        let asked = self.backend.commit(
            cx,
            backend_key.clone(),
            planned.from.clone(),
            planned.parent.clone(),
            inherited(labels),
        );
        match asked.await {
            Ok(()) => {}
            Err(error) if is_unclear(&error) => match self.is_committed(cx, &planned).await {
                Ok(true) => {}
                // Where even that is unclear, the intent stays to be settled.
                Ok(false) | Err(_) => return Err(error),
            },
            Err(error) => return Err(error),
        }
        try_fail_point!("snapshot.proxy-commit/before-record");
        self.record_commit(cx.clone(), flight.id, planned).await
    }

    async fn is_committed(&self, cx: &Cx, planned: &Planned) -> Result<bool> {
        match self.backend.stat(cx, planned.commit.backend_key.clone()).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(Kind::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn record_commit(&self, cx: Cx, intent: IntentId, planned: Planned) -> Result<()> {
        let records = self.records.clone();
        self.metadata
            .update(move |tx| {
                let key = &planned.commit.key;
                let now = records.get(tx.view(), cx.namespace(), key)?.backend_key;
                if now != planned.from {
                    return Err(Error::not_found(format!("snapshot {key} was replaced")));
                }
                records.commit(tx, &cx, planned.commit)?;
                tx.end_intent(intent)
            })
            .await
    }

    /// Finishes a commit that was interrupted, if the other side has it; forgets it otherwise.
    ///
    /// # Errors
    /// When the other side cannot be asked.
    pub(super) async fn settle_commit(
        &self,
        cx: Cx,
        intent: IntentId,
        planned: Planned,
    ) -> Result<()> {
        if !self.is_committed(&cx, &planned).await? {
            return self.metadata.update(move |tx| tx.end_intent(intent)).await;
        }
        let garbage = planned.commit.backend_key.clone();
        match self.record_commit(cx.clone(), intent, planned).await {
            // Nothing here can name it any more: its key, or its parent, is gone, or its name taken.
            Err(error) if !is_unclear(&error) => self.settle_garbage(&cx, intent, garbage).await,
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_remembered_as_it_was_planned() {
        let key = |text: &str| SnapshotKey::new(text).unwrap();
        let commit = SnapshotCommit {
            name: key("sha256:c"),
            key: key("a b/\n"),
            parent: Some(key("p")),
            labels: Labels::unchecked([("k".to_owned(), "v".to_owned())]),
            usage: Usage::default(),
            backend_key: "ns/2/sha256:c".into(),
        };
        let planned = Planned { commit, from: "ns/1/a".into(), parent: "ns/0/p".into() };
        let payload = planned.encode("stargz");
        let back = Planned::decode("stargz", &payload).unwrap();
        assert_eq!(format!("{:?}", back.commit), format!("{:?}", planned.commit));
        assert_eq!(back.from, planned.from);
        assert!(Planned::decode("nydus", &payload).is_none());
        assert!(Planned::decode("stargz", b"\0\0").is_none());
    }
}
