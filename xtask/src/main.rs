//! Developer commands: what a person runs by hand and CI runs as a check, in one place.
//! Each command is one module; none of it is linked into a shipped binary.

mod codegen;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Gantry")]
enum Command {
    /// Regenerate crates/api/src/gen from every .proto below proto/
    Codegen(codegen::Codegen),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Codegen(codegen) => codegen.execute(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
