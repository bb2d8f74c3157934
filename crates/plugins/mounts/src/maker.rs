//! Making the mounts of a plan, one after the other.

use std::path::{Path, PathBuf};

use gantry_core::snapshot::Mount;
use gantry_core::{Clock, Cx, Error, Kind, Result};
use gantry_metadata::stores::ActiveMount;
use gantry_sys::mount;

use crate::folders::Folders;
use crate::mkfs::Programs;
use crate::plan::{Plan, Step, Transform};
use crate::roots::Roots;
use crate::{format, mkdir, mkfs};

/// What making needs besides a plan.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) programs: Programs,
}

impl Maker {
    /// Makes what is made here; what stands then, and what is left to the client. A failure leaves
    /// what was made before it.
    pub(crate) fn make(
        &self,
        cx: &Cx,
        clock: &dyn Clock,
        folders: &Folders,
        number: u64,
        plan: Plan,
    ) -> Result<(Vec<ActiveMount>, Vec<Mount>)> {
        let mut active = Vec::with_capacity(plan.made.len());
        if !plan.made.is_empty() {
            folders.make(number)?;
        }
        try_fail_point!("mounts.activate/after-folder");
        for (index, step) in plan.made.into_iter().enumerate() {
            cx.check()?;
            let mount = self.transformed(cx, step, &active)?;
            let point = folders.make_point(number, index)?;
            try_fail_point!("mounts.activate/before-mount");
            mounted(&mount, &point)?;
            try_fail_point!("mounts.activate/after-mount");
            active.push(ActiveMount {
                mount,
                mounted_at: clock.now(),
                mount_point: point.display().to_string(),
            });
        }
        let mut system = Vec::new();
        if let Some(step) = plan.prepared {
            system.push(self.transformed(cx, step, &active)?);
        }
        system.extend(plan.left);
        if let Some(last) = active.last().filter(|_| plan.temporary) {
            system.push(Mount {
                kind: "bind".to_owned(),
                source: last.mount_point.clone(),
                target: String::new(),
                options: vec!["rbind".to_owned()],
            });
        }
        Ok((active, system))
    }

    fn transformed(&self, cx: &Cx, step: Step, active: &[ActiveMount]) -> Result<Mount> {
        let roots = Roots { allowed: &self.roots, active };
        let mut mount = step.mount;
        for transform in step.transforms {
            mount = match transform {
                Transform::Format => format::apply(mount, active)?,
                Transform::Mkdir => mkdir::apply(mount, roots)?,
                Transform::Mkfs => mkfs::apply(cx, mount, roots, &self.programs)?,
            };
        }
        Ok(mount)
    }
}

fn mounted(mount: &Mount, point: &Path) -> Result<()> {
    let instruction = mount::Mount {
        kind: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    };
    mount::all(std::slice::from_ref(&instruction), point).map_err(|error| {
        let kind = match &error {
            mount::Error::Invalid(_) => Kind::InvalidArgument,
            mount::Error::Io { source, .. } => kind_of(source),
        };
        Error::caused(kind, "mount failed", error)
    })
}

/// Whose fault it is that a mount cannot be made (mount(2)).
fn kind_of(error: &std::io::Error) -> Kind {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::INVAL | Errno::LOOP | Errno::NAMETOOLONG | Errno::XDEV) => {
            Kind::InvalidArgument
        }
        Some(
            Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::NOTBLK | Errno::BUSY | Errno::NXIO,
        ) => Kind::FailedPrecondition,
        Some(Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE) => Kind::ResourceExhausted,
        Some(Errno::PERM | Errno::ACCESS) => Kind::PermissionDenied,
        _ => Kind::Unknown,
    }
}
