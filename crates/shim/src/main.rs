//! `containerd-shim-gantry-v2`: one process, one thread, per task or pod.

use std::io::Write;
use std::process::ExitCode;

use gantry_core::Error;
use gantry_shim::args::{Action, Args};
use gantry_shim::{delete, info, serve, start};

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(usage) => {
            say(&usage.message);
            return ExitCode::from(usage.code);
        }
    };
    let result = match args.action {
        Action::Version => {
            version();
            Ok(())
        }
        Action::Info => info::info(),
        Action::Start => start::start(&args),
        Action::Delete => delete::delete(&args),
        Action::Serve => serve::serve(&args).map_err(|e| Error::io("serve", e)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{}: {}", info::NAME, error.message()));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // There is nobody to tell that nobody listens.
    let _ = write!(std::io::stderr(), "{text}");
}

fn version() {
    let _ = writeln!(
        std::io::stdout(),
        "containerd-shim-gantry-v2:\n  Version:  {}\n  Revision: {}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("GANTRY_REVISION").unwrap_or_default()
    );
}
