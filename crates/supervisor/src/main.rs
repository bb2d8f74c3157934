//! `gantryd`, the daemon.

use std::process::ExitCode;

use clap::Parser;
use gantryd::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
