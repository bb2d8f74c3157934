//! Archives that are cut, broken, or ask for more than there is.

use gantry_core::Kind;

use super::support::{gzip, names};
use super::tricks::{kind, play, play_with, says};
use super::{Fixture, Layer};
use crate::{EXTENSION_BYTES_MAX, LAYER_GZIP, LAYER_ZSTD, Limits};

#[tokio::test]
async fn paths_are_bound_and_deep_trees_come_and_go() {
    let layer = Layer::new().file(&"n/".repeat(2048), "1");
    assert_eq!(kind(play(layer).await.1), Kind::InvalidArgument);
    let layer = Layer::new().symlink("l", &"t/".repeat(2048));
    assert_eq!(kind(play(layer).await.1), Kind::InvalidArgument);
    let layer = Layer::new().file(&"n".repeat(256), "1");
    says(play(layer).await.1, "File name too long");
    let deep = format!("{}leaf", "n/".repeat(2045));
    let (f, result) = play(Layer::new().file(&deep, "1")).await;
    result.unwrap();
    f.apply(Layer::new().hide(".wh.n").bytes()).await.unwrap();
    assert_eq!(f.root(), "");
}

#[tokio::test]
async fn extension_headers_are_bound() {
    let big = "x".repeat(EXTENSION_BYTES_MAX as usize);
    let layer = Layer::new().pax(&[("comment", &big)]).file("a", "1");
    says(play(layer).await.1, "extension header of");
    let claimed = |flag| Layer::new().raw(flag, "x", (8 << 30) - 1, b"", |_| {});
    for flag in [b'x', b'g', b'L', b'K'] {
        says(play(claimed(flag)).await.1, "extension header of");
    }
    let many = (0..100).fold(Layer::new(), |layer, _| layer.pax(&[("comment", "x")]));
    says(play(many.file("a", "1")).await.1, "too many extension headers");
    let global = Layer::new().raw(b'g', "pax_global_header", 14, b"14 path=evil\n\n", |_| {});
    let (f, result) = play(global.file("a", "1")).await;
    result.unwrap();
    assert_eq!(names(&f.path("root")), ["a"], "global headers change nothing");
}

#[tokio::test]
async fn limits_of_the_configuration_hold() {
    let limits = Limits { entries_max: 2, ..Limits::default() };
    let three = |_: &str| Layer::new().file("a", "").file("b", "").file("c", "");
    says(play_with(three, limits).await.1, "more than 2 entries");
    let limits = Limits { bytes_max: Some(1000), ..Limits::default() };
    let fat = |_: &str| Layer::new().file("a", &"x".repeat(600)).file("b", &"x".repeat(600));
    says(play_with(fat, limits).await.1, "more than 1000 bytes");
}

#[tokio::test]
async fn sparse_files_have_holes_or_are_refused() {
    let v1 = |map: &str, real: &str, data: &[u8]| {
        let mut body = map.as_bytes().to_vec();
        body.resize(512, 0);
        body.extend_from_slice(data);
        Layer::new()
            .pax(&[
                ("GNU.sparse.major", "1"),
                ("GNU.sparse.minor", "0"),
                ("GNU.sparse.name", "sparse"),
                ("GNU.sparse.realsize", real),
            ])
            .raw(b'0', "GNUSparseFile.0/sparse", body.len() as u64, &body, |_| {})
    };
    let (f, result) = play(v1("2\n4\n3\n1000000\n2\n", "1000010", b"abcde").file("z", "")).await;
    result.unwrap();
    let data = std::fs::read(f.path("root/sparse")).unwrap();
    assert_eq!(data.len(), 1_000_010);
    assert_eq!((&data[4..7], &data[1_000_000..1_000_002]), (&b"abc"[..], &b"de"[..]));
    assert_eq!(data.iter().filter(|b| **b != 0).count(), 5);

    let v0 = |map: &str| {
        Layer::new()
            .pax(&[
                ("GNU.sparse.map", map),
                ("GNU.sparse.numblocks", "1"),
                ("GNU.sparse.size", "9"),
            ])
            .raw(b'0', "sparse", 2, b"ab", |_| {})
    };
    let (f, result) = play(v0("3,2")).await;
    result.unwrap();
    assert_eq!(std::fs::read(f.path("root/sparse")).unwrap(), b"\0\0\0ab\0\0\0\0");
    for (layer, text) in [
        (v0("3,3"), "differ in size"),
        (v0("8,2"), "exceeds the file"),
        (v0("3,-2"), "malformed"),
        (v0("3"), "malformed"),
        (v1("2\n4\n3\n5\n2\n", "100", b"abcde"), "out of order"),
        (v1("99999999999\n", "100", b"abcde"), "too many segments"),
        (v1("x\n", "100", b"abcde"), "malformed"),
        (v1("1\n0\n5\n", "9223372036854775807", b"abcde"), "larger than"),
        (
            Layer::new().pax(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")]).raw(
                b'0',
                "sparse",
                0,
                b"",
                |_| {},
            ),
            "unknown version",
        ),
    ] {
        says(play(layer).await.1, text);
    }
}

#[tokio::test]
async fn what_is_no_archive_is_refused() {
    let types = Layer::new().raw(b'Z', "odd", 0, b"", |_| {});
    says(play(types).await.1, "unsupported type flag 0x5a");
    let f = Fixture::new();
    for (blob, text) in [
        (vec![b'x'; 512], "checksum"),
        (vec![b'x'; 100], "ends within a header"),
        ([&[0; 512][..], &Layer::new().file("a", "").bytes()].concat(), "single zero block"),
    ] {
        says(f.apply(blob).await, text);
    }
    let nul = Layer::new().pax(&[("path", "a\0b")]).raw(b'0', "x", 0, b"", |_| {});
    says(play(nul).await.1, "malformed PAX record");
}

#[tokio::test]
async fn cut_archives_are_errors_or_ends() {
    let whole = Layer::new().file("a", &"x".repeat(700)).pax(&[("comment", "c")]).file("b", "y");
    let whole = whole.bytes();
    for cut in (0..whole.len()).step_by(97) {
        let f = Fixture::new();
        let before = f.outside();
        let result = f.apply(whole[..cut].to_vec()).await;
        // Between entries an archive may end without its marker; padding may lack too.
        let ends = cut == 0 || (512 + 700..=1536).contains(&cut) || (3073..=3584).contains(&cut);
        assert_eq!(result.is_ok(), ends, "cut at {cut}: {result:?}");
        assert_eq!(f.outside(), before);
    }
}

#[tokio::test]
async fn garbage_in_compression_is_refused() {
    let f = Fixture::new();
    let tar = Layer::new().file("a", &"x".repeat(10_000)).bytes();
    let mut garbage = gzip(&tar);
    garbage[40] ^= 0x55;
    let mut trailing = gzip(&tar);
    trailing.extend_from_slice(b"garbage");
    let cut = gzip(&tar)[..60].to_vec();
    let window = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00];
    for (name, media_type, blob) in [
        ("garbage", LAYER_GZIP, garbage),
        ("trailing", LAYER_GZIP, trailing),
        ("cut", LAYER_GZIP, cut),
        ("window", LAYER_ZSTD, window),
    ] {
        let result = f.apply_to(&[f.bind("root")], media_type, blob).await.map(|_| ());
        assert!(result.is_err(), "{name}");
    }
}
