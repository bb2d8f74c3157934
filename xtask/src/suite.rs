//! `cargo xtask test`: one build, then every gate and every test, each within a bound.
//!
//! The order is cheap before dear. Every test binary runs under its own time limit and in a
//! process group of its own; a hung one is killed, counted as failed, and the rest still run. The
//! daemon under test is the workspace's build with failpoints, the same artefacts that the unit
//! tests link: there is no second build.
//!
//! Cases that cannot run here (no client, no kernel feature) report themselves in the file named
//! by [`SKIPS`]; they are listed at the end, and with `--strict` one of them is a failure. What a test
//! itself marks as ignored (measurements) only counts.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::clients::Clients;
use crate::process::{self, run};
use crate::{Result, root, target};

/// Environment variable with the file to which skipped cases append a line each.
pub const SKIPS: &str = "GANTRY_SKIPS";

/// Failpoints in the daemon under test and everything below it; the generators in this program.
const FEATURES: &str = "gantryd/failpoints,xtask/codegen";
const BUILD: Duration = Duration::from_secs(1200);
const GATE: Duration = Duration::from_secs(600);
/// Bound on one test binary.
const BINARY: Duration = Duration::from_secs(300);

/// Arguments of `cargo xtask test`.
#[derive(clap::Args, Debug)]
pub struct Test {
    /// Do not install absent clients first
    #[arg(long)]
    no_clients: bool,
    /// Fail when a case skips
    #[arg(long)]
    strict: bool,
    /// Only the tests: no formatting, lints or generated code
    #[arg(long)]
    only_tests: bool,
    /// Only test binaries whose name contains this
    filter: Option<String>,
}

/// What the test binaries reported, summed up.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Cases that held.
    pub passed: u64,
    /// Cases that did not, each binary that died or hung among them.
    pub failed: u64,
    /// Cases that could not run, and those the test framework was told to ignore.
    pub skipped: u64,
}

impl Test {
    /// Runs it all; an error when anything failed.
    pub fn execute(self) -> Result<()> {
        let mut broken = Vec::new();
        if !self.no_clients {
            Clients::default().execute()?;
        }
        if !self.only_tests {
            gate(&mut broken, "cargo fmt --check", &["fmt", "--check"], GATE);
        }
        let binaries = build()?;
        if !self.only_tests {
            let clippy = ["clippy", "-q", "--workspace", "--all-targets", "--features", FEATURES];
            let clippy = [&clippy[..], &["--", "-D", "warnings"]].concat();
            gate(&mut broken, "cargo clippy", &clippy, BUILD);
            println!("== cargo xtask codegen --check");
            let mut codegen = Command::new(target().join("debug/xtask"));
            if let Err(error) = run("codegen", codegen.args(["codegen", "--check"]), GATE) {
                println!("{error}");
                broken.push("codegen --check".to_owned());
            }
        }
        let skips = target().join("skips");
        fs::write(&skips, "")?;
        let mut count = Count::default();
        let wanted = |name: &str| self.filter.as_deref().is_none_or(|part| name.contains(part));
        for binary in binaries.iter().filter(|binary| wanted(&binary.name)) {
            run_binary(binary, &skips, &mut count)?;
        }
        if self.filter.is_none() {
            run_doctests(&mut count)?;
        }
        let absent = fs::read_to_string(&skips)?;
        for line in absent.lines() {
            println!("skipped: {line}");
            count.skipped += 1;
        }
        for gate in &broken {
            println!("gate failed: {gate}");
        }
        println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
        if !broken.is_empty() || count.failed > 0 {
            return Err("tests or gates failed".into());
        }
        if count.passed == 0 {
            return Err("no test ran".into());
        }
        // Measurements are ignored on purpose; a case that could not run is not.
        if self.strict && !absent.is_empty() {
            return Err("a case skipped, and --strict forbids it".into());
        }
        Ok(())
    }
}

struct Binary {
    name: String,
    path: PathBuf,
    package: PathBuf,
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

fn gate(broken: &mut Vec<String>, name: &str, args: &[&str], limit: Duration) {
    println!("== {name}");
    if let Err(error) = run(name, cargo().args(args), limit) {
        println!("{error}");
        broken.push(name.to_owned());
    }
}

/// Builds programs and tests alike, and says where the test binaries are.
fn build() -> Result<Vec<Binary>> {
    println!("== cargo build");
    let programs = ["build", "-q", "--workspace", "--bins", "--features", FEATURES];
    run("cargo build", cargo().args(programs), BUILD)?;
    let listing = target().join("test-binaries.json");
    let tests = ["test", "-q", "--workspace", "--no-run", "--features", FEATURES];
    let mut command = cargo();
    command.args(tests).arg("--message-format=json-render-diagnostics");
    run("cargo test --no-run", command.stdout(fs::File::create(&listing)?), BUILD)?;
    Ok(binaries(&fs::read_to_string(&listing)?))
}

fn binaries(messages: &str) -> Vec<Binary> {
    let artefacts = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        if message["profile"]["test"].as_bool() != Some(true) {
            return None;
        }
        let package = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
        let short = package.file_name()?.to_string_lossy().into_owned();
        Some(Binary {
            name: format!("{short}/{}", message["target"]["name"].as_str()?),
            path: message["executable"].as_str()?.into(),
            package,
        })
    });
    let mut found: Vec<Binary> = artefacts.collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn run_binary(binary: &Binary, skips: &Path, count: &mut Count) -> Result<()> {
    println!("== {}", binary.name);
    let mut command = Command::new(&binary.path);
    command.current_dir(&binary.package).env("CARGO_MANIFEST_DIR", &binary.package);
    command.env(SKIPS, skips).env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    counted(&binary.name, &mut command, BINARY, count)
}

fn run_doctests(count: &mut Count) -> Result<()> {
    println!("== documentation");
    let args = ["test", "-q", "--doc", "--workspace", "--features", FEATURES];
    counted("documentation", cargo().args(args), GATE, count)
}

/// Runs `command` with its output shown, and adds what it reports to `count`.
fn counted(name: &str, command: &mut Command, limit: Duration, count: &mut Count) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    let shown = std::thread::spawn(move || {
        let mut seen = Count::default();
        for line in BufReader::new(reader).lines().map_while(std::io::Result::ok) {
            seen.add(&line);
            println!("{line}");
        }
        seen
    });
    let status = process::status(name, command.stdout(writer), limit);
    // The command holds the pipe's other end until it is gone, and the reader with it.
    command.stdout(Stdio::null());
    let mut seen = shown.join().map_err(|_| "the reader of the output panicked")?;
    match status {
        Ok(status) if status.success() || seen.failed > 0 => {}
        Ok(status) => {
            println!("{name}: {status} without a failed case");
            seen.failed += 1;
        }
        Err(error) => {
            println!("{error}");
            seen.failed += 1;
        }
    }
    count.passed += seen.passed;
    count.failed += seen.failed;
    count.skipped += seen.skipped;
    Ok(())
}

impl Count {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; others are nothing.
    pub fn add(&mut self, line: &str) {
        let Some((_, numbers)) = line.split_once("test result: ") else { return };
        let mut words = numbers.split([' ', ';', '.']).filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            let Ok(number) = word.parse::<u64>() else { continue };
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut count = Count::default();
        count.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out");
        count.add(
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; finished in 0.10s",
        );
        count.add("running 7 tests");
        assert_eq!(count, Count { passed: 7, failed: 2, skipped: 1 });
    }

    #[test]
    fn a_binary_that_dies_counts_as_failed() {
        let mut count = Count::default();
        let mut dies = Command::new("sh");
        dies.args(["-c", "echo test result: ok. 2 passed; exit 3"]);
        counted("dies", &mut dies, Duration::from_secs(20), &mut count).unwrap();
        assert_eq!(count, Count { passed: 2, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_binary_that_hangs_is_killed_with_its_children() {
        let mut count = Count::default();
        let mut hangs = Command::new("sh");
        hangs.args(["-c", "sleep 600 & sleep 600"]);
        counted("hangs", &mut hangs, Duration::from_millis(50), &mut count).unwrap();
        assert_eq!(count.failed, 1);
    }
}
