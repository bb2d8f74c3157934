//! An image made here, so that no test needs a registry: an OCI layout in one archive.
//!
//! Three layers in the three encodings that images come in. The second hides a file of the first
//! and makes a directory opaque; the third adds what archives often get wrong: a hard link, a
//! symbolic link that points out of the image, a file that is not root's.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// The name that the archive gives its image.
pub const NAME: &str = "registry.example/test/layers:1";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image archive and what is in it.
#[derive(Debug)]
pub struct Image {
    /// The archive, to be imported.
    pub archive: PathBuf,
    /// Digests of the index's manifest, of the configuration and of the layers as stored.
    pub blobs: Vec<String>,
    /// The chain ID of the topmost layer: the name of its snapshot.
    pub chain: String,
}

/// Writes the archive into `dir`.
pub fn archive(dir: &Path) -> Image {
    let layers = [
        ("+gzip", gzip as fn(&[u8]) -> Vec<u8>, first()),
        ("", <[u8]>::to_vec as fn(&[u8]) -> Vec<u8>, second()),
        ("+zstd", zstandard as fn(&[u8]) -> Vec<u8>, third()),
    ];
    let mut files = Vec::new();
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    let mut chain = String::new();
    for (suffix, encode, tar) in layers {
        let diff_id = digest(&tar);
        chain = match chain.as_str() {
            "" => diff_id.clone(),
            below => digest(format!("{below} {diff_id}").as_bytes()),
        };
        let blob = encode(&tar);
        descriptors.push(descriptor(&format!("{LAYER}{suffix}"), &blob));
        diff_ids.push(diff_id);
        files.push(blob);
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/true"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config), "layers": descriptors,
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["annotations"] = serde_json::json!({ "io.containerd.image.name": NAME });
    entry["platform"] = serde_json::json!({ "architecture": "amd64", "os": "linux" });
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry],
    });
    files.extend([config, manifest]);
    let blobs = files.iter().map(|file| digest(file)).collect();
    let path = dir.join("image.tar");
    let mut tar = Builder::new(fs::File::create(&path).expect("the archive"));
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    add(&mut tar, "index.json", index.to_string().as_bytes());
    for file in &files {
        let name = digest(file).replace(':', "/");
        add(&mut tar, &format!("blobs/{name}"), file);
    }
    tar.finish().expect("the archive");
    Image { archive: path, blobs, chain }
}

fn first() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for dir in ["bin/", "etc/", "hidden/", "opaque/"] {
        special(&mut tar, dir, EntryType::Directory, "", 0o755);
    }
    let busybox = fs::read("/bin/busybox").unwrap_or_else(|_| b"#!/bin/sh\n".to_vec());
    add(&mut tar, "bin/busybox", &busybox);
    add(&mut tar, "etc/name", b"first");
    add(&mut tar, "etc/gone", b"first");
    add(&mut tar, "hidden/file", b"first");
    add(&mut tar, "opaque/below", b"first");
    tar.into_inner().expect("a layer")
}

fn second() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, "etc/name", b"second");
    add(&mut tar, "etc/.wh.gone", b"");
    add(&mut tar, ".wh.hidden", b"");
    special(&mut tar, "opaque/", EntryType::Directory, "", 0o755);
    add(&mut tar, "opaque/.wh..wh..opq", b"");
    add(&mut tar, "opaque/above", b"second");
    tar.into_inner().expect("a layer")
}

fn third() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    special(&mut tar, "bin/sh", EntryType::Symlink, "busybox", 0o777);
    add(&mut tar, "etc/target", b"third");
    special(&mut tar, "etc/linked", EntryType::Link, "etc/target", 0o644);
    special(&mut tar, "out", EntryType::Symlink, "../../../../etc/passwd", 0o777);
    let mut header = header(5, EntryType::Regular, 0o4750);
    header.set_uid(1234);
    header.set_gid(4321);
    tar.append_data(&mut header, "etc/owned", &b"third"[..]).expect("an entry");
    tar.into_inner().expect("a layer")
}

fn add<W: Write>(tar: &mut Builder<W>, name: &str, data: &[u8]) {
    let mut header = header(data.len() as u64, EntryType::Regular, 0o755);
    tar.append_data(&mut header, name, data).expect("an entry");
}

fn special<W: Write>(tar: &mut Builder<W>, name: &str, kind: EntryType, link: &str, mode: u32) {
    let mut header = header(0, kind, mode);
    let added = match link {
        "" => tar.append_data(&mut header, name, &b""[..]),
        link => tar.append_link(&mut header, name, link),
    };
    added.expect("an entry");
}

fn header(size: u64, kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_700_000_000);
    header
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).expect("gzip");
    encoder.finish().expect("gzip")
}

fn zstandard(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).expect("zstd")
}

fn descriptor(media_type: &str, data: &[u8]) -> serde_json::Value {
    serde_json::json!({ "mediaType": media_type, "digest": digest(data), "size": data.len() })
}

/// `sha256:<hex>` of `data`.
pub fn digest(data: &[u8]) -> String {
    let hex: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
