//! Taking back what no record names, and looking whether what is recorded is there.
//!
//! The sweep lists files first and asks for records afterwards: a file that appears later is not
//! looked at, and one whose record appears later is asked for again under its digest's lock.
//! Records of unused blobs go first, files after: a kill between leaves garbage, never damage.

use std::collections::BTreeSet;
use std::fs::File;

use async_trait::async_trait;
use gantry_core::digest::Hasher;
use gantry_core::{Cx, Error, Result};
use gantry_metadata::Reclaim;
use gantry_metadata::stores::content::{self as records, Blob};

use crate::blocking;
use crate::body::hash_file;
use crate::layout;
use crate::store::LocalStore;

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files of blobs.
    pub blobs: usize,
    /// Files of writes that were given up.
    pub ingests: usize,
}

/// How closely a check looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// That each file is there with its size.
    Sizes,
    /// That its bytes have its digest, too: reads every blob.
    Bytes,
}

impl LocalStore {
    /// Removes blobs that nothing names and files that no record names. Blocks.
    pub(crate) fn sweep_blocking(&self) -> Result<Swept> {
        let shared = &self.shared;
        let blobs = shared.layout.list_blobs()?;
        let ingests = shared.layout.list_ingests()?;

        let unused = shared.metadata.read_blocking(records::unused)?;
        if !unused.is_empty() {
            fail::fail_point!("content.sweep/before-forget", |_| Err(Error::unknown("failpoint")));
            shared.metadata.update_blocking(move |tx| records::forget(tx, unused))?;
        }
        fail::fail_point!("content.sweep/after-forget", |_| Err(Error::unknown("failpoint")));

        let mut swept = Swept::default();
        let (named, numbers) = shared.metadata.read_blocking(|view| {
            Ok::<_, Error>((records::blobs(view)?, records::numbers(view)?))
        })?;
        for digest in blobs.into_iter().filter(|digest| !named.contains_key(digest)) {
            // One that is held is being committed or copied; the next sweep decides.
            let Some(_one) = shared.digests.try_hold(&digest) else { continue };
            if shared.metadata.read_blocking(|view| records::blob(view, &digest))?.is_some() {
                continue;
            }
            fail::fail_point!("content.sweep/before-remove", |_| Err(Error::unknown("failpoint")));
            layout::remove(&shared.layout.blob(&digest))?;
            swept.blobs += 1;
        }
        for number in ingests.into_iter().filter(|number| !numbers.contains(number)) {
            layout::remove(&shared.layout.ingest(number))?;
            swept.ingests += 1;
        }
        Ok(swept)
    }

    /// Removes blobs that nothing names and files that no record names.
    ///
    /// # Errors
    /// What the file system or the metadata store fails with; what was removed stays removed.
    pub async fn sweep(&self) -> Result<Swept> {
        let store = self.clone();
        blocking(move || store.sweep_blocking()).await
    }

    /// What is recorded but not there, one sentence each; empty when all is well. Changes nothing.
    ///
    /// # Errors
    /// `Cancelled` or `DeadlineExceeded` of the call; what the metadata store fails with.
    pub async fn check(&self, cx: &Cx, depth: Depth) -> Result<Vec<String>> {
        let (store, cx) = (self.clone(), cx.clone());
        blocking(move || {
            let (blobs, damage) = store.shared.metadata.read_blocking(|view| {
                Ok::<_, Error>((records::blobs(view)?, records::damage(view)?))
            })?;
            let mut found: BTreeSet<String> = damage;
            for blob in blobs.values() {
                cx.check()?;
                if let Some(problem) = store.problem(&cx, blob, depth)? {
                    // It may have been deleted and swept while we looked.
                    let digest = &blob.digest;
                    let still =
                        store.shared.metadata.read_blocking(|v| records::blob(v, digest))?;
                    if still.is_some() {
                        found.insert(format!("blob {digest}: {problem}"));
                    }
                }
            }
            Ok(found.into_iter().collect())
        })
        .await
    }

    fn problem(&self, cx: &Cx, blob: &Blob, depth: Depth) -> Result<Option<String>> {
        match self.shared.layout.blob_size(&blob.digest) {
            Err(e) => return Ok(Some(e.message())),
            Ok(None) => return Ok(Some("its file is missing".to_owned())),
            Ok(Some(size)) if size != blob.size => {
                return Ok(Some(format!("its file has {size} bytes, {} are recorded", blob.size)));
            }
            Ok(Some(_)) if depth == Depth::Sizes => return Ok(None),
            Ok(Some(_)) => {}
        }
        let path = self.shared.layout.blob(&blob.digest);
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let hashed = File::open(&path)
            .map_err(|e| Error::io(format!("open {}", path.display()), e))
            .and_then(|file| hash_file(cx, &file, &mut hasher, || path.display().to_string()));
        match hashed {
            Ok(_) => {
                let found = hasher.finish();
                Ok((found != blob.digest).then(|| format!("its bytes have the digest {found}")))
            }
            Err(e) => {
                cx.check()?;
                Ok(Some(e.message()))
            }
        }
    }
}

#[async_trait]
impl Reclaim for LocalStore {
    fn name(&self) -> &str {
        "content"
    }
    async fn reclaim(&self) -> Result<()> {
        let swept = self.sweep().await?;
        tracing::debug!(blobs = swept.blobs, ingests = swept.ingests, "content reclaimed");
        Ok(())
    }
}
