//! Cases that cannot run on this machine say so in one line, where the runner finds it.

use std::fs::OpenOptions;
use std::io::Write;

/// Reports that `case` does not run, and why. The test then returns; the runner counts the line
/// and, when told to be strict, fails on it.
pub fn skip(case: &str, why: &str) {
    eprintln!("skipped: {case}: {why}");
    let Some(path) = std::env::var_os("GANTRY_SKIPS") else { return };
    let mut file = OpenOptions::new().append(true).create(true).open(path).expect("GANTRY_SKIPS");
    writeln!(file, "{case}: {why}").expect("GANTRY_SKIPS");
}
