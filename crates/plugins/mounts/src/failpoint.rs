//! The steps that tests can fail or stop.
//!
//! With the feature `failpoints`, a step takes the terms of the crate `fail`: `panic` stands for a
//! crash at that step, `return` makes it fail.

/// All names, in the order in which an activation meets them.
pub const FAILPOINTS: &[&str] = &[
    "mounts.start/after-records",
    "mounts.activate/before-record",
    "mounts.activate/after-record",
    "mounts.activate/after-folder",
    "mounts.mkdir/after-make",
    "mounts.mkfs/before-program",
    "mounts.mkfs/before-link",
    "mounts.mkfs/after-link",
    "mounts.activate/before-mount",
    "mounts.activate/after-mount",
    "mounts.activate/before-finish",
    "mounts.activate/after-finish",
    "mounts.deactivate/before-record",
    "mounts.deactivate/after-record",
    "mounts.folder/after-unmount",
];

/// Names a step of a function that returns [`gantry_core::Result`].
macro_rules! try_fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| Err(gantry_core::Error::unknown(concat!("failpoint ", $name))))
    };
}
