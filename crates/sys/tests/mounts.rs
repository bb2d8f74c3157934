//! Mount instructions against the real kernel. Needs root; skips without.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are not in a #[test]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use gantry_sys::mount::{self, Mount};

/// A directory whose mounts are gone when it is.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return None;
        }
        Some(Self(tempfile::tempdir().unwrap()))
    }
    fn make(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
    fn mounts(&self) -> usize {
        let path = fs::canonicalize(self.0.path()).unwrap();
        mount::at_or_below(&mount::table().unwrap(), &path).len()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        mount::unmount_all(self.0.path()).unwrap();
    }
}

fn bind(source: &Path, target: &str, options: &[&str]) -> Mount {
    Mount {
        kind: "bind".into(),
        source: source.display().to_string(),
        target: target.into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
    }
}

#[test]
fn a_read_only_bind_is_read_only() {
    let Some(dir) = Dir::new() else { return };
    let (source, root) = (dir.make("source"), dir.make("root"));
    fs::write(source.join("file"), "x").unwrap();
    mount::all(&[bind(&source, "", &["rbind", "ro"])], &root).unwrap();
    assert_eq!(fs::read(root.join("file")).unwrap(), b"x");
    let error = fs::write(root.join("file"), "y").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    fs::write(source.join("file"), "z").unwrap();
    mount::unmount_all(&root).unwrap();
    assert!(!root.join("file").exists());
}

#[test]
fn a_failure_undoes_what_was_mounted_before() {
    let Some(dir) = Dir::new() else { return };
    let (source, root) = (dir.make("source"), dir.make("root"));
    fs::create_dir(source.join("inner")).unwrap();
    let good = [bind(&source, "", &["bind"]), bind(&source, "inner", &["bind"])];
    mount::all(&good, &root).unwrap();
    assert_eq!(dir.mounts(), 2);
    mount::unmount_all(&root).unwrap();
    assert_eq!(dir.mounts(), 0);
    let bad = [good[0].clone(), bind(Path::new("/no/such/source"), "inner", &["bind"])];
    let error = mount::all(&bad, &root).unwrap_err();
    assert!(error.to_string().contains("/no/such/source"), "{error}");
    assert_eq!(dir.mounts(), 0);
}

#[test]
fn a_link_in_the_root_does_not_lead_out() {
    let Some(dir) = Dir::new() else { return };
    let (source, root, outside) = (dir.make("source"), dir.make("root"), dir.make("root/etc"));
    fs::write(source.join("file"), "x").unwrap();
    symlink("/etc", root.join("link")).unwrap();
    mount::all(&[bind(&source, "/link", &["bind"])], &root).unwrap();
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"x");
    assert!(!Path::new("/etc/file").exists());
    let missing = mount::all(&[bind(&source, "../../nowhere", &["bind"])], &root).unwrap_err();
    assert!(missing.to_string().contains("open mount target"));
}

#[test]
fn an_overlay_of_a_hundred_layers_fits() {
    let Some(dir) = Dir::new() else { return };
    let mut lower = Vec::new();
    for n in 0..100 {
        let layer =
            dir.make(&format!("snapshots/with/a/rather/long/common/parent/directory/{n}/fs"));
        fs::write(layer.join(format!("file-{n}")), "x").unwrap();
        lower.push(layer.display().to_string());
    }
    let (upper, work, root) = (dir.make("upper"), dir.make("work"), dir.make("root"));
    let overlay = Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ],
    };
    assert!(overlay.options[0].len() > 4096);
    let cwd = std::env::current_dir().unwrap();
    mount::all(std::slice::from_ref(&overlay), &root).unwrap();
    assert_eq!(std::env::current_dir().unwrap(), cwd);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 100);
    mount::unmount_all(&root).unwrap();
    let mut apart = overlay;
    apart.options[0].push_str(":/nowhere/common");
    let error = mount::all(&[apart], &root).unwrap_err();
    assert!(error.to_string().contains("at most 4095 work"), "{error}");
}

#[test]
fn every_layer_comes_off_even_under_a_user() {
    let Some(dir) = Dir::new() else { return };
    let (source, root) = (dir.make("source"), dir.make("root"));
    for _ in 0..3 {
        mount::all(&[bind(&source, "", &["bind"])], &root).unwrap();
    }
    assert_eq!(dir.mounts(), 3);
    let _user = fs::File::open(&root).unwrap();
    mount::unmount_all(&root).unwrap();
    assert_eq!(dir.mounts(), 0);
    mount::unmount_all(&root).unwrap();
    mount::unmount_all(&root.join("no/such/path")).unwrap();
}

#[test]
fn a_file_is_mounted_through_a_loop_device() {
    let Some(dir) = Dir::new() else { return };
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: no loop devices here");
        return;
    }
    let (image, root) = (dir.0.path().join("image"), dir.make("root"));
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let made = std::process::Command::new("mkfs.ext4").arg("-q").arg(&image).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mkfs.ext4 here");
        return;
    }
    let mount = Mount {
        kind: "ext4".into(),
        source: image.display().to_string(),
        target: String::new(),
        options: vec!["loop".into(), "ro".into()],
    };
    mount::all(&[mount], &root).unwrap();
    assert!(root.join("lost+found").is_dir());
    mount::unmount_all(&root).unwrap();
}

#[test]
fn an_id_mapped_bind_shifts_its_owners() {
    let Some(dir) = Dir::new() else { return };
    let (source, root) = (dir.make("source"), dir.make("root"));
    fs::write(source.join("file"), "x").unwrap();
    let maps = ["bind", "uidmap=0:70000:1000", "gidmap=0:80000:1000"];
    match mount::all(&[bind(&source, "", &maps)], &root) {
        Ok(()) => {
            let meta = fs::metadata(root.join("file")).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (70000, 80000));
            assert_eq!(fs::metadata(source.join("file")).unwrap().uid(), 0);
            assert_eq!(dir.mounts(), 1);
        }
        Err(mount::Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
            eprintln!("skipped: the file system of {} cannot be id-mapped", root.display());
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

#[test]
fn an_id_mapped_overlay_shifts_its_lower_layers_and_leaves_no_helper_mount() {
    let Some(dir) = Dir::new() else { return };
    let lower = [dir.make("snapshots/1/fs"), dir.make("snapshots/2/fs")];
    let (upper, work, root) = (dir.make("upper"), dir.make("work"), dir.make("root"));
    fs::write(lower[0].join("file"), "x").unwrap();
    let overlay = Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            "uidmap=0:70000:1000".into(),
            "gidmap=0:70000:1000".into(),
            format!("lowerdir={}:{}", lower[0].display(), lower[1].display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ],
    };
    match mount::all(&[overlay], &root) {
        Ok(()) => {
            assert_eq!(fs::metadata(root.join("file")).unwrap().uid(), 70000);
            let left = mount::table().unwrap();
            assert!(!left.iter().any(|e| e.target.to_string_lossy().contains("ovl-idmapped")));
        }
        Err(mount::Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
            eprintln!("skipped: the file system of {} cannot be id-mapped", root.display());
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}
