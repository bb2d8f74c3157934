//! Measurements, not tests: `cargo test --release -p gantry-plugin-diff -- --ignored --nocapture
//! measure`. They print what `docs` and comments claim about speed.

use std::io::{self, BufRead, BufReader, Read};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Fixture;
use super::support::cx;
use crate::apply::{Layout, Options, apply};
use crate::inflate::Inflate;
use crate::pipe::unwrap_error;
use crate::{LAYER, LAYER_GZIP, LAYER_ZSTD, Limits, mounts};
use gantry_core::digest::{Algorithm, Digest, Hasher};
use gantry_core::{Cx, Result};

/// About 200 MB of this machine's own files, as an archive.
fn layer(f: &Fixture) -> Vec<u8> {
    let script = "cd /usr && find lib bin share -xdev -type f -size -8M | sort \
                  | tar --no-recursion -cf - -T - 2>/dev/null | head -c 210000000 >$0/cut.tar; \
                  mkdir $0/x && tar -C $0/x -xf $0/cut.tar 2>/dev/null; tar -C $0/x -cf $0/layer.tar .";
    Command::new("sh").args(["-c", script]).arg(f.temp.path()).status().unwrap();
    std::fs::read(f.path("layer.tar")).unwrap()
}

fn fresh(f: &Fixture, name: &str) {
    let _ = std::fs::remove_dir_all(f.path(name));
    std::fs::create_dir(f.path(name)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_apply() {
    let f = Fixture::new();
    let tar = layer(&f);
    let megabytes = tar.len() as f64 / 1e6;
    let entries = tar::Archive::new(&tar[..]).entries().unwrap().count();
    println!("{megabytes:.0} MB, {entries} entries");
    let show = |what: &str, times: &mut Vec<Duration>| {
        times.sort();
        let best = times[0].as_secs_f64();
        println!("{what}: best {best:.2} s ({:.0} MB/s), all {times:.2?}", megabytes / best);
    };
    let gzip = {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        std::io::Write::write_all(&mut out, &tar).unwrap();
        out.finish().unwrap()
    };
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    for (name, media_type, blob) in
        [("plain", LAYER, &tar), ("gzip", LAYER_GZIP, &gzip), ("zstd", LAYER_ZSTD, &zstd)]
    {
        let (mut piped, mut single) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            fresh(&f, "root");
            let start = Instant::now();
            f.apply_to(&[f.bind("root")], media_type, blob.clone()).await.unwrap();
            piped.push(start.elapsed());

            fresh(&f, "root");
            let root = mounts::open_dir(f.path("root").to_str().unwrap()).unwrap();
            let limits = Limits::default();
            let options = Options { layout: Layout::Merged, limits: &limits, devices: true };
            let start = Instant::now();
            let inflate = Inflate::detect(std::io::Cursor::new(blob.clone())).unwrap();
            let mut plain = Hashing::new(BufReader::with_capacity(1 << 18, inflate));
            apply(&cx(), &root, &mut plain, options).unwrap();
            plain.drain(&cx()).unwrap();
            single.push(start.elapsed());
        }
        show(&format!("{name}, pipeline"), &mut piped);
        show(&format!("{name}, one thread"), &mut single);
    }
    // Processor time of each stage alone; on a busy machine it tells more than the clock.
    let drain = |mut from: Box<dyn std::io::Read>| {
        std::io::copy(&mut from, &mut std::io::sink()).unwrap();
    };
    let cursor = |data: &Vec<u8>| std::io::Cursor::new(data.clone());
    let spent = |what: &str, work: &dyn Fn()| {
        let clock = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
        };
        let start = clock();
        work();
        let took = clock() - start;
        println!("processor, {what}: {took:.2} s, {:.0} MB/s", megabytes / took);
    };
    spent("inflate gzip", &|| drain(Box::new(Inflate::detect(cursor(&gzip)).unwrap())));
    spent("inflate zstd", &|| drain(Box::new(Inflate::detect(cursor(&zstd)).unwrap())));
    spent("hash", &|| drop(Hashing::new(cursor(&tar)).drain(&cx()).unwrap()));
    fresh(&f, "root");
    spent("unpack", &|| {
        let root = mounts::open_dir(f.path("root").to_str().unwrap()).unwrap();
        let limits = Limits::default();
        let options = Options { layout: Layout::Merged, limits: &limits, devices: true };
        apply(&cx(), &root, cursor(&tar), options).unwrap();
    });
    fresh(&f, "root");
    std::fs::write(f.path("layer.tgz"), &gzip).unwrap();
    let start = Instant::now();
    let args = ["-xpzf", "layer.tgz", "-C", "root"];
    Command::new("tar").args(args).current_dir(f.temp.path()).status().unwrap();
    println!("GNU tar: {:.2?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_diff() {
    use gantry_core::diff::{Comparer as _, DiffOpts};
    let f = Fixture::new();
    let megabytes = layer(&f).len() as f64 / 1e6;
    for media_type in [LAYER, LAYER_GZIP, LAYER_ZSTD] {
        let start = Instant::now();
        let opts = DiffOpts { media_type: media_type.into(), ..DiffOpts::default() };
        let made = f.walking.diff(&cx(), &[], &[f.bind("x")], opts).await.unwrap();
        let took = start.elapsed().as_secs_f64();
        println!("{media_type}: {took:.2} s, {:.0} MB/s, {} bytes", megabytes / took, made.size);
    }
    let overlay = f.overlay(&["x"], "upper");
    std::fs::write(f.path("upper/new"), "x").unwrap();
    for (what, lower) in [("hinted", f.bind("x")), ("walked", f.bind("x/."))] {
        let start = Instant::now();
        let upper = std::slice::from_ref(&overlay);
        f.walking.diff(&cx(), &[lower], upper, DiffOpts::default()).await.unwrap();
        println!("one file changed, {what}: {:.2?}", start.elapsed());
    }
}

/// Hashes on the thread that unpacks: what the pipeline is compared with.
struct Hashing<R> {
    stream: R,
    hasher: Hasher,
    size: u64,
}

impl<R: BufRead> Hashing<R> {
    fn new(stream: R) -> Self {
        Self { stream, hasher: Hasher::new(Algorithm::Sha256), size: 0 }
    }

    /// Reads what follows the archive: it belongs to the layer's digest. Returns that and the size.
    fn drain(mut self, cx: &Cx) -> Result<(Digest, u64)> {
        loop {
            cx.check()?;
            let count = self.fill_buf().map_err(unwrap_error)?.len();
            if count == 0 {
                return Ok((self.hasher.finish(), self.size));
            }
            self.consume(count);
        }
    }
}

impl<R: BufRead> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Hashing<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.stream.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // What is consumed was shown before, so this neither reads nor fails.
        if let Ok(ready) = self.stream.fill_buf() {
            self.hasher.update(&ready[..count]);
        }
        self.size += count as u64;
        self.stream.consume(count);
    }
}
