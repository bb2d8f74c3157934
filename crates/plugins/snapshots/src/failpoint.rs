//! The steps that tests can fail or stop.
//!
//! With the feature `failpoints`, a step takes the terms of the crate `fail`: `panic` stands for a
//! crash at that step, `return` makes it fail, `return(enospc)` fails it as a full disk does.

/// All names, in the order in which a snapshot meets them.
pub const FAILPOINTS: &[&str] = &[
    "snapshot.prepare/before-folder",
    "snapshot.prepare/before-record",
    "snapshot.prepare/after-record",
    "snapshot.make-folder/before-make",
    "snapshot.make-folder/before-rename",
    "snapshot.make-folder/after-rename",
    "snapshot.commit/before-sync",
    "snapshot.commit/sync",
    "snapshot.commit/before-record",
    "snapshot.commit/after-record",
    "snapshot.remove/before-record",
    "snapshot.remove/after-record",
    "snapshot.remove-folder/before-rename",
    "snapshot.remove-folder/after-rename",
    "snapshot.proxy-prepare/before-backend",
    "snapshot.proxy-prepare/before-record",
    "snapshot.proxy-commit/before-backend",
    "snapshot.proxy-commit/before-record",
    "snapshot.proxy-settle/before-backend",
    "snapshot.proxy-settle/before-record",
];

/// Names a step of a function that returns [`gantry_core::Result`].
macro_rules! try_fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |how| Err($crate::failpoint::injected($name, how.as_deref())))
    };
}

#[allow(dead_code)] // Another crate of the same build may turn failpoints on.
pub(crate) fn injected(name: &str, how: Option<&str>) -> gantry_core::Error {
    /// `ENOSPC`, errno(3).
    const FULL: i32 = 28;
    match how {
        Some("enospc") => gantry_core::Error::io(name, std::io::Error::from_raw_os_error(FULL)),
        _ => gantry_core::Error::unknown(format!("failpoint {name}")),
    }
}
