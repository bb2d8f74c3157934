//! What has to be done to a list of mounts: which prefixes each carries, how many are made here.

use gantry_core::snapshot::Mount;
use gantry_core::{Error, Result};

/// Most mounts in one list. Overlays take fewer layers than this (500 in the kernel's limit).
const MOUNTS_MAX: usize = 1024;

/// What a prefix of a type asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    Format,
    Mkdir,
    Mkfs,
}

/// One mount with its prefixes taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) mount: Mount,
    /// In the order in which they are carried out.
    pub(crate) transforms: Vec<Transform>,
}

/// The work on one list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// These are made here.
    pub(crate) made: Vec<Step>,
    /// This one's prefixes are carried out and it is left to the client.
    pub(crate) prepared: Option<Step>,
    /// These are left as they are.
    pub(crate) left: Vec<Mount>,
    /// Whether the client gets a bind of the last mount instead of mounts of its own.
    pub(crate) temporary: bool,
}

impl Plan {
    /// The work on `mounts`. `allowed` names what the client does by itself: types, and prefixes
    /// as `format/*`. `temporary` asks for everything to be mounted here.
    ///
    /// # Errors
    /// `NotImplemented` when nothing has to be done.
    pub(crate) fn of(mounts: Vec<Mount>, allowed: &[String], temporary: bool) -> Result<Self> {
        if mounts.len() > MOUNTS_MAX {
            return Err(Error::invalid_argument(format!(
                "{} mounts in one list, at most {MOUNTS_MAX} work",
                mounts.len()
            )));
        }
        let is_allowed = |text: &str| allowed.iter().any(|a| a == text);
        // The first one that the client mounts; all before must stand by then.
        let mut first_left = None;
        for (index, mount) in mounts.iter().enumerate() {
            let asked = prefixes(&mount.kind).0;
            if asked.iter().any(|(p, _)| !is_allowed(&format!("{p}/*")) && !is_allowed(&mount.kind))
            {
                first_left = Some(index);
            }
        }
        if temporary && !mounts.is_empty() {
            first_left = Some(mounts.len());
        }
        let first_left = first_left.ok_or_else(|| Error::not_implemented(""))?;
        let mut mounts = mounts.into_iter();
        let made = mounts.by_ref().take(first_left).map(Step::of).collect();
        let prepared = mounts.next().map(Step::of);
        Ok(Self { made, prepared, left: mounts.collect(), temporary })
    }
}

impl Step {
    fn of(mut mount: Mount) -> Self {
        let (asked, rest) = prefixes(&mount.kind);
        let transforms = asked.into_iter().map(|(_, transform)| transform).collect();
        mount.kind = rest.to_owned();
        Self { mount, transforms }
    }
}

/// The known prefixes of a type and what follows them. A slash after anything else belongs to the
/// type.
fn prefixes(kind: &str) -> (Vec<(&str, Transform)>, &str) {
    let (mut found, mut rest) = (Vec::new(), kind);
    while let Some((prefix, after)) = rest.split_once('/') {
        let transform = match prefix {
            "format" => Transform::Format,
            "mkdir" => Transform::Mkdir,
            "mkfs" => Transform::Mkfs,
            _ => break,
        };
        found.push((prefix, transform));
        rest = after;
    }
    (found, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::Kind;

    fn plan(kinds: &[&str], allowed: &[&str], temporary: bool) -> Result<Plan> {
        let mount = |kind: &&str| Mount { kind: (*kind).to_owned(), ..Mount::default() };
        let allowed: Vec<String> = allowed.iter().map(|a| (*a).to_owned()).collect();
        Plan::of(kinds.iter().map(mount).collect(), &allowed, temporary)
    }

    /// How many are made here, prepared and left.
    fn counts(kinds: &[&str], allowed: &[&str], temporary: bool) -> (usize, usize, usize) {
        let plan = plan(kinds, allowed, temporary).unwrap();
        (plan.made.len(), usize::from(plan.prepared.is_some()), plan.left.len())
    }

    #[test]
    fn a_list_without_prefixes_is_left_to_the_client() {
        for kinds in [&[][..], &["overlay"], &["erofs", "erofs", "overlay"], &["fuse/x"]] {
            assert_eq!(plan(kinds, &[], false).unwrap_err().kind(), Kind::NotImplemented);
        }
        assert_eq!(plan(&[], &[], true).unwrap_err().message(), "not implemented");
    }

    #[test]
    fn everything_before_the_last_prefix_is_made_here() {
        assert_eq!(counts(&["mkdir/bind"], &[], false), (0, 1, 0));
        assert_eq!(counts(&["erofs", "erofs", "format/overlay"], &[], false), (2, 1, 0));
        assert_eq!(counts(&["mkfs/ext4", "format/mkdir/overlay", "bind"], &[], false), (1, 1, 1));
        assert_eq!(counts(&["erofs", "overlay"], &[], true), (2, 0, 0));
        assert_eq!(counts(&["erofs", "format/overlay"], &[], true), (2, 0, 0));
    }

    #[test]
    fn what_the_client_can_do_itself_counts_only_before_what_it_cannot() {
        let format = ["format/*"];
        assert!(plan(&["erofs", "format/overlay"], &format, false).is_err());
        assert!(plan(&["erofs", "format/overlay"], &["format/overlay"], false).is_err());
        assert_eq!(counts(&["format/bind", "mkdir/bind"], &format, false), (1, 1, 0));
        let plan = plan(&["mkdir/bind", "format/overlay"], &format, false).unwrap();
        assert_eq!(plan.left[0].kind, "format/overlay", "left as it was sent");
    }

    #[test]
    fn prefixes_are_taken_off_in_their_order() {
        let plan = plan(&["format/mkdir/fuse/x"], &[], false).unwrap();
        let step = plan.prepared.unwrap();
        assert_eq!(step.transforms, [Transform::Format, Transform::Mkdir]);
        assert_eq!(step.mount.kind, "fuse/x");
    }
}
