//! Where files lie, and the few steps on them that must be durable.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gantry_core::digest::Algorithm;
use gantry_core::{Digest, Error, Result};
use gantry_metadata::stores::content::IngestNumber;

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];

/// The folders of one store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes the folders below `root`, durably, where they are absent.
    pub(crate) fn create(root: &Path) -> Result<Self> {
        let layout = Self { root: root.to_owned() };
        let mut wanted = vec![layout.ingests(), layout.blobs()];
        wanted.extend(ALGORITHMS.iter().map(|a| layout.blobs().join(a.as_str())));
        for folder in wanted {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|e| Error::io(format!("create {}", folder.display()), e))?;
        }
        for folder in [layout.blobs(), layout.root.clone()] {
            sync_folder(&folder)?;
        }
        if let Some(parent) = layout.root.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_folder(parent)?;
        }
        Ok(layout)
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }
    fn ingests(&self) -> PathBuf {
        self.root.join("ingest")
    }
    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.algorithm().as_str()).join(digest.hex())
    }
    /// The file of a write in progress.
    pub(crate) fn ingest(&self, number: IngestNumber) -> PathBuf {
        self.ingests().join(number.0.to_string())
    }

    /// The size of a blob's file; `None` when there is none.
    pub(crate) fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.blob(digest);
        match fs::metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("stat {}", path.display()), e)),
        }
    }

    /// Moves a complete, durable ingest to its digest, replacing what lies there. When this
    /// returns, so does a power cut leave it.
    pub(crate) fn place(&self, number: IngestNumber, digest: &Digest) -> io::Result<()> {
        let (from, to) = (self.ingest(number), self.blob(digest));
        fs::rename(from, &to)?;
        // Blobs never change; this keeps a stray program from changing one.
        fs::set_permissions(&to, fs::Permissions::from_mode(0o400))?;
        to.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    /// Undoes [`Layout::place`].
    pub(crate) fn put_back(&self, number: IngestNumber, digest: &Digest) -> io::Result<()> {
        fs::rename(self.blob(digest), self.ingest(number))?;
        fs::set_permissions(self.ingest(number), fs::Permissions::from_mode(0o600))
    }

    /// All blobs that have a file; names that are no digests are left alone.
    pub(crate) fn list_blobs(&self) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for algorithm in ALGORITHMS {
            for name in names(&self.blobs().join(algorithm.as_str()))? {
                found.extend(Digest::parse(format!("{}:{name}", algorithm.as_str())));
            }
        }
        Ok(found)
    }

    /// All ingests that have a file.
    pub(crate) fn list_ingests(&self) -> Result<Vec<IngestNumber>> {
        let names = names(&self.ingests())?;
        Ok(names.iter().filter_map(|name| name.parse().ok().map(IngestNumber)).collect())
    }
}

/// Removes a file; one that is gone is success.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| Error::io(format!("sync {}", folder.display()), e))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::io(format!("list {}", folder.display()), e);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}
