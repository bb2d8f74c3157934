//! Failpoints armed from outside, in builds that have them: `FAILPOINTS="name=action;..."`.
//!
//! Actions are those of the crate `fail`, and one more that tests of durability need: `kill` ends
//! the process with SIGKILL at the failpoint, `3*kill` when it is passed for the third time. A
//! build without failpoints refuses to start with the variable set, so that no test passes because
//! nothing happened.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The environment variable that is read.
pub(crate) const VARIABLE: &str = "FAILPOINTS";

/// Arms what the environment says.
///
/// # Errors
/// A text for the operator: no failpoints in this build, or an action that does not parse.
pub(crate) fn arm() -> Result<(), String> {
    let Some(wanted) = std::env::var_os(VARIABLE) else { return Ok(()) };
    if !fail::has_failpoints() {
        return Err(format!("{VARIABLE} is set, and this build has no failpoints"));
    }
    let wanted = wanted.into_string().map_err(|_| format!("{VARIABLE} is not UTF-8"))?;
    for one in wanted.split(';').filter(|one| !one.is_empty()) {
        let (name, action) =
            one.split_once('=').ok_or_else(|| format!("{VARIABLE}: {one:?} has no action"))?;
        match passes(action) {
            Some(passes) => fail::cfg_callback(name, killer(passes)),
            None => fail::cfg(name, action),
        }
        .map_err(|error| format!("{VARIABLE}: {one:?}: {error}"))?;
    }
    Ok(())
}

/// At which pass a `kill` action kills; `None` for any other action.
fn passes(action: &str) -> Option<u32> {
    match action.split_once('*') {
        Some((passes, "kill")) => passes.parse().ok(),
        None if action == "kill" => Some(1),
        _ => None,
    }
}

fn killer(passes: u32) -> impl Fn() + Send + Sync {
    let left = AtomicU32::new(passes);
    move || {
        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Nobody is left to see a failure, which there cannot be: the process is our own.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kill_counts_passes_and_leaves_other_actions_alone() {
        assert_eq!(passes("kill"), Some(1));
        assert_eq!(passes("7*kill"), Some(7));
        assert_eq!(passes("1*panic"), None);
        assert_eq!(passes("1*off->kill"), None);
    }
}
