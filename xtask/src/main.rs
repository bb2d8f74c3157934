//! `cargo xtask COMMAND`: what a developer and the pipeline run. One file per command.

#[cfg(feature = "codegen")]
mod codegen;
#[cfg(not(feature = "codegen"))]
mod codegen_build;
#[cfg(not(feature = "codegen"))]
use codegen_build as codegen;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Gantry")]
enum Command {
    /// Build everything once, then run every gate and every test
    Test(xtask::suite::Test),
    /// Install the real clients that the tests drive, where they are absent
    Clients(xtask::clients::Clients),
    /// Start a daemon on its defaults and drive it with an unmodified ctr
    Demo(xtask::demo::Demo),
    /// Regenerate crates/api/src/gen from every .proto below proto/
    Codegen(codegen::Codegen),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Test(command) => command.execute(),
        Command::Clients(command) => command.execute(),
        Command::Demo(command) => command.execute(),
        Command::Codegen(command) => command.execute(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
