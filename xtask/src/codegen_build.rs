//! `cargo xtask codegen` in a build without the generators: builds one with them and hands over.

use std::process::Command;
use std::time::Duration;

use xtask::process::run;

const LIMIT: Duration = Duration::from_secs(900);

#[derive(clap::Args)]
pub(crate) struct Codegen {
    /// Write nothing; fail when the committed files differ from what would be written
    #[arg(long)]
    check: bool,
}

impl Codegen {
    pub(crate) fn execute(&self) -> xtask::Result<()> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["run", "-q", "-p", "xtask", "--features", "codegen", "--", "codegen"]);
        cargo.args(self.check.then_some("--check")).current_dir(xtask::root());
        run("codegen", &mut cargo, LIMIT)
    }
}
