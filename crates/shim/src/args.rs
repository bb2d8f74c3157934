//! The command line, in the syntax of Go's `flag` package: every daemon since containerd 1.3 calls
//! a shim so.
//!
//! `-name value`, `-name=value` and two dashes are the same; flags end at the first other word or
//! at `--`. An unknown flag is exit code 2, by which daemons recognise what a shim cannot do.

use std::path::PathBuf;

/// What the program is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Serve the task API on descriptor 3, or on the path of `-socket`.
    #[default]
    Serve,
    /// Bind the socket, start a server in the background, say where it listens.
    Start,
    /// Clean up after a task whose server is gone, say how it ended.
    Delete,
    /// Say what the runtime can do.
    Info,
    /// Say which version this is.
    Version,
}

/// The command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub action: Action,
    /// The namespace of the task.
    pub namespace: String,
    /// The id of the task.
    pub id: String,
    /// The daemon's gRPC socket, part of the name of ours.
    pub address: String,
    /// The daemon's executable; events go by ttrpc, so it is not used.
    pub publish_binary: String,
    /// The bundle, when it is not the working directory.
    pub bundle: Option<PathBuf>,
    /// Where to listen instead of descriptor 3.
    pub socket: Option<PathBuf>,
    /// Log more.
    pub debug: bool,
    /// Whether an exit is settled only by `gantry.shim.v1.Shim/AckExits`.
    pub ack_by_rpc: bool,
}

/// A command line that cannot be obeyed.
#[derive(Debug, PartialEq, Eq)]
pub struct Usage {
    /// What to print on standard error.
    pub message: String,
    /// The code to exit with.
    pub code: u8,
}

fn usage(message: impl Into<String>) -> Usage {
    Usage { message: message.into(), code: 2 }
}

impl Args {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// [`Usage`], with what Go's `flag` would say.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, Usage> {
        let mut args = Self::default();
        let (mut info, mut version) = (false, false);
        let mut words = words.into_iter();
        let mut verb = None;
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
                verb = Some(word);
                break;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            if flag.is_empty() {
                verb = words.next();
                break;
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" => args.debug = boolean(name, value.as_deref())?,
                "info" => info = boolean(name, value.as_deref())?,
                "v" | "version" => version = boolean(name, value.as_deref())?,
                "h" | "help" => return Err(Usage { message: HELP.to_owned(), code: 0 }),
                _ => {
                    let place = args.text(name).ok_or_else(|| {
                        usage(format!("flag provided but not defined: -{name}\n{HELP}"))
                    })?;
                    let value = value.or_else(|| words.next());
                    place(
                        &mut args,
                        value.ok_or_else(|| usage(format!("flag needs an argument: -{name}")))?,
                    )?;
                }
            }
        }
        args.action = match verb.as_deref() {
            _ if version => Action::Version,
            _ if info => Action::Info,
            None => Action::Serve,
            Some("start") => Action::Start,
            Some("delete") => Action::Delete,
            Some(other) => {
                return Err(usage(format!("unknown action {other:?}: use start or delete")));
            }
        };
        if args.namespace.is_empty() && !matches!(args.action, Action::Version | Action::Info) {
            return Err(Usage { message: "shim namespace cannot be empty".into(), code: 1 });
        }
        Ok(args)
    }

    #[allow(clippy::type_complexity)] // one table, read in one place
    fn text(&self, name: &str) -> Option<fn(&mut Self, String) -> Result<(), Usage>> {
        Some(match name {
            "namespace" => |a, v| set(&mut a.namespace, v),
            "id" => |a, v| set(&mut a.id, v),
            "address" => |a, v| set(&mut a.address, v),
            "publish-binary" => |a, v| set(&mut a.publish_binary, v),
            "bundle" => |a, v| set(&mut a.bundle, Some(v.into())),
            "socket" => {
                |a, v| set(&mut a.socket, Some(v).filter(|v| !v.is_empty()).map(Into::into))
            }
            // There is no debug listener: SIGUSR1 writes what there is to know to the log.
            "debug-socket" => |_, _| Ok(()),
            "ack" => |a, v| match v.as_str() {
                "rpc" => set(&mut a.ack_by_rpc, true),
                "forward" => set(&mut a.ack_by_rpc, false),
                _ => Err(usage(format!("invalid value {v:?} for flag -ack: use rpc or forward"))),
            },
            _ => return None,
        })
    }
}

#[allow(clippy::unnecessary_wraps)] // the shape of the table
fn set<T>(place: &mut T, value: T) -> Result<(), Usage> {
    *place = value;
    Ok(())
}

fn boolean(name: &str, value: Option<&str>) -> Result<bool, Usage> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => {
            Err(usage(format!("invalid boolean value {other:?} for -{name}: parse error")))
        }
    }
}

const HELP: &str = "Usage of containerd-shim-gantry-v2: [flags] [start|delete]
  -ack rpc|forward        when an exit is settled (default forward)
  -address string         grpc address back to the daemon
  -bundle string          path to the bundle if not workdir
  -debug                  enable debug output in logs
  -debug-socket string    accepted and not used
  -id string              id of the task
  -info                   read options from stdin, print runtime info, and exit
  -namespace string       namespace that owns the shim
  -publish-binary string  accepted and not used
  -socket string          socket path to serve
  -v, -version            show the shim version and exit
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, Usage> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_calls_of_daemons_are_understood() {
        let args = parse(
            "-namespace moby -address /run/c.sock -publish-binary /usr/bin/containerd -id x -debug start",
        )
        .unwrap();
        assert_eq!(args.action, Action::Start);
        assert_eq!((args.namespace.as_str(), args.id.as_str()), ("moby", "x"));
        assert!(args.debug);
        let args =
            parse("--namespace=n --id=y -address= -bundle /b --debug=false delete extra").unwrap();
        assert_eq!(args.action, Action::Delete);
        assert_eq!(args.bundle, Some("/b".into()));
        assert!(!args.debug);
        assert_eq!(parse("-namespace n").unwrap().action, Action::Serve);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("-namespace n -- start").unwrap().action, Action::Start);
        assert!(parse("-namespace n -ack rpc").unwrap().ack_by_rpc);
    }

    #[test]
    fn bad_lines_end_with_the_codes_that_daemons_know() {
        let unknown = parse("-namespace n -nope start").unwrap_err();
        assert_eq!(unknown.code, 2);
        assert!(unknown.message.starts_with("flag provided but not defined: -nope"));
        assert_eq!(parse("-namespace").unwrap_err().code, 2);
        assert_eq!(parse("-debug=maybe").unwrap_err().code, 2);
        assert_eq!(parse("-namespace n -ack never").unwrap_err().code, 2);
        assert_eq!(parse("-namespace n stop").unwrap_err().code, 2);
        assert_eq!(parse("-id x start").unwrap_err().code, 1);
        assert_eq!(parse("-help").unwrap_err().code, 0);
    }
}
