//! The command line of `gantryd`.
//!
//! Flags are containerd's, and a flag wins over the file, which wins over the default.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::load::{self, ConfigError};
use crate::config::value::LogLevel;
use crate::config::{Config, DEFAULT_FILE, render};
use crate::meta::MetaCommand;
use crate::{chain, daemon};

/// Run containers: the daemon.
#[derive(Debug, Parser)]
#[command(name = "gantryd", version = crate::version::LONG)]
pub struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags that replace what a file says.
#[derive(Debug, Default, Args)]
pub struct Flags {
    /// Configuration file [default: /etc/gantry/config.toml if there is one]
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for what must survive a power cut
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Folder for what belongs to this boot
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Socket for clients
    #[arg(short, long, global = true, value_name = "PATH")]
    address: Option<PathBuf>,
    /// error, warn, info, debug or trace
    #[arg(short, long, global = true, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check, export or import the metadata of a daemon that does not run
    #[command(subcommand)]
    Meta(MetaCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print a configuration file with every key, its default and its meaning
    Default,
    /// Say what is wrong with a configuration file, without starting anything
    Check,
    /// Print what would be in force: defaults, file and flags together
    Dump,
}

impl Flags {
    /// The configuration in force.
    ///
    /// # Errors
    /// When the file cannot be read or has faults, or what the flags make of it has.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => load::read(path)?,
            None => load::read_default()?,
        };
        let Self { config: _, root, state, address, log_level } = self;
        if let Some(root) = root {
            config.root.clone_from(root);
        }
        if let Some(state) = state {
            config.state.clone_from(state);
        }
        if let Some(address) = address {
            config.address.clone_from(address);
        }
        if let Some(level) = log_level {
            config.log.level = *level;
        }
        match config.faults() {
            faults if faults.is_empty() => Ok(config),
            faults => Err(ConfigError::Faults { origin: self.origin(), faults }),
        }
    }

    /// The level that is in force after the file was read again.
    ///
    /// # Errors
    /// As [`Flags::resolve`].
    pub fn log_level(&self) -> Result<LogLevel, ConfigError> {
        self.resolve().map(|config| config.log.level)
    }

    fn origin(&self) -> String {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).display().to_string()
    }
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> ExitCode {
        let Self { flags, command } = self;
        let outcome = match command {
            None => daemon::run(flags).map_err(|error| chain(&error)),
            Some(Command::Config(command)) => command.run(&flags).and_then(|text| print(&text)),
            Some(Command::Meta(command)) => command.run(&flags).and_then(|text| print(&text)),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(text) => {
                // Standard error may be gone; there is nobody left to tell.
                let _ = writeln!(io::stderr(), "gantryd: {text}");
                ExitCode::FAILURE
            }
        }
    }
}

impl ConfigCommand {
    fn run(self, flags: &Flags) -> Result<String, String> {
        Ok(match self {
            Self::Default => {
                render::commented(&Config::default()).map_err(|error| chain(&error))?
            }
            Self::Check => {
                flags.resolve().map_err(|error| chain(&error))?;
                format!("{}: ok\n", flags.origin())
            }
            Self::Dump => {
                let mut config = flags.resolve().map_err(|error| chain(&error))?;
                config.ttrpc_address = config.ttrpc_socket();
                config.address = config.grpc_socket();
                render::commented(&config).map_err(|error| chain(&error))?
            }
        })
    }
}

fn print(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough, such as head(1).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| format!("cannot write: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn flags(args: &[&str]) -> Flags {
        Cli::try_parse_from(std::iter::once(&"gantryd").chain(args)).unwrap().flags
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "root = '/file'\nstate = '/file-state'\n[log]\nlevel = 'warn'")
            .unwrap();
        let file = path.to_str().unwrap();
        let config = flags(&["-c", file, "--root", "/flag", "-a", "/flag.sock"]).resolve().unwrap();
        assert_eq!(config.root, Path::new("/flag"));
        assert_eq!(config.state, Path::new("/file-state"));
        assert_eq!(config.grpc_socket(), Path::new("/flag.sock"));
        assert_eq!(config.log.level, LogLevel::Warn);
        assert_eq!(flags(&["-c", file, "-l", "trace"]).log_level().unwrap(), LogLevel::Trace);
        assert_eq!(config.socket, Config::default().socket);
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = flags(&["-c", "/nonexistent/c.toml"]).resolve().unwrap_err();
        assert!(error.to_string().contains("/nonexistent/c.toml"), "{error}");
    }

    #[test]
    fn what_flags_make_of_the_file_is_checked() {
        let long = format!("/{}", "x".repeat(120));
        let error = flags(&["-a", &long]).resolve().unwrap_err().to_string();
        assert!(error.contains("address: the path of a unix socket has at most 106"), "{error}");
    }
}
