//! The records of activated mounts.
//!
//! A record is made before the first mount of its activation and says *activating* until the last
//! one stands: it is the intent of its own side effect. Folders with mounts are numbered, numbers
//! never come again, and a folder whose number no record has is garbage. So every end is the same:
//! the record goes, then the folder, now or whenever somebody looks.

use gantry_core::snapshot::Mount;
use gantry_core::{Cx, Error, Labels, LeaseId, MountName, Namespace, Result, Timestamp};

use super::{leases, namespaces};
use crate::schema::{Key, LEASE, MOUNT, Parts};
use crate::{Tx, View};

const NEXT: &[u8] = b"next-mount";

/// How far an activation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationState {
    /// Its mounts are being made, or were when the daemon died.
    Activating,
    /// All of its mounts stand.
    Active,
}

/// A mount that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveMount {
    /// What was mounted.
    pub mount: Mount,
    /// When.
    pub mounted_at: Timestamp,
    /// Absolute path of where.
    pub mount_point: String,
}

/// A list of mounts that was activated under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The name.
    pub name: MountName,
    /// Of the folder with its mount points.
    pub number: u64,
    /// How far it is.
    pub state: ActivationState,
    /// The boot that its mounts belong to.
    pub boot_id: [u8; 16],
    /// The lease that keeps it.
    pub lease: Option<LeaseId>,
    /// Labels.
    pub labels: Labels,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// What is mounted, in its order.
    pub active: Vec<ActiveMount>,
    /// What is left for the client to mount.
    pub system: Vec<Mount>,
}

fn key(namespace: &Namespace, name: &MountName) -> Vec<u8> {
    Key::of(namespace).last(name.as_str())
}

impl View<'_> {
    /// The activation called `name`, however far it is.
    ///
    /// # Errors
    /// `DataLoss` when its record is damaged.
    pub fn activation(
        &self,
        namespace: &Namespace,
        name: &MountName,
    ) -> Result<Option<Activation>> {
        self.get::<Activation>(MOUNT, &key(namespace, name), name.clone())
    }

    /// The activations of one namespace, or of all, in byte order of namespaces and names.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged.
    pub fn activations(&self, of: Option<&Namespace>) -> Result<Vec<(Namespace, Activation)>> {
        let below = of.map_or_else(Vec::new, |namespace| Key::of(namespace).prefix());
        let mut found = Vec::new();
        self.each_below(MOUNT, &below, |key, value| {
            let mut parts = Parts::of(key);
            let (namespace, name) = match (parts.identifier(), parts.last()) {
                (Some(namespace), Some(name)) => {
                    (Namespace::new(namespace)?, MountName::new(name)?)
                }
                _ => return Err(Error::data_loss("key of a stored mount")),
            };
            found.push((namespace, crate::codec::decode::<Activation>(MOUNT, name, &value)?));
            Ok(())
        })?;
        Ok(found)
    }
}

/// What [`Tx::begin_activation`] has recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BegunActivation {
    /// Number of the folder to make.
    pub number: u64,
    /// Number of a folder that an attempt of the same name has left.
    pub abandoned: Option<u64>,
}

impl Tx<'_, '_> {
    /// Records that mounts are about to be made under `name`, for the namespace and the lease of
    /// `cx`. The caller makes sure that no other attempt of that name is under way: one that is
    /// recorded has been abandoned and is replaced.
    ///
    /// # Errors
    /// `AlreadyExists` for a name in use; `NotFound` when there is no such lease.
    pub fn begin_activation(
        &mut self,
        cx: &Cx,
        name: &MountName,
        labels: Labels,
        boot_id: [u8; 16],
    ) -> Result<BegunActivation> {
        let namespace = cx.namespace();
        let before = self.view().activation(namespace, name)?;
        if before.as_ref().is_some_and(|found| found.state == ActivationState::Active) {
            return Err(Error::already_exists(format!("mount {name:?}")));
        }
        lease_lives(self.view(), namespace, cx.lease())?;
        namespaces::ensure(self, namespace)?;
        let begun = BegunActivation {
            number: self.count(NEXT)?,
            abandoned: before.map(|found| found.number),
        };
        let activation = Activation {
            name: name.clone(),
            number: begun.number,
            state: ActivationState::Activating,
            boot_id,
            lease: cx.lease().cloned(),
            labels,
            created_at: self.now(),
            updated_at: self.now(),
            active: Vec::new(),
            system: Vec::new(),
        };
        self.put(MOUNT, &key(namespace, name), &activation)?;
        Ok(begun)
    }

    /// Records that all mounts of the activation `number` stand.
    ///
    /// # Errors
    /// `Aborted` when it is no longer under way; `NotFound` when its lease has ended meanwhile.
    pub fn finish_activation(
        &mut self,
        namespace: &Namespace,
        name: &MountName,
        number: u64,
        active: Vec<ActiveMount>,
        system: Vec<Mount>,
    ) -> Result<Activation> {
        let found = self.view().activation(namespace, name)?;
        let begun = |a: &Activation| a.number == number && a.state == ActivationState::Activating;
        let Some(mut activation) = found.filter(begun) else {
            return Err(Error::aborted(format!("mount {name:?} was ended meanwhile")));
        };
        lease_lives(self.view(), namespace, activation.lease.as_ref())?;
        activation.state = ActivationState::Active;
        activation.updated_at = self.now();
        activation.active = active;
        activation.system = system;
        self.put(MOUNT, &key(namespace, name), &activation)?;
        Ok(activation)
    }

    /// Removes the record of `name`, with `number` only if it is that activation's. What it was;
    /// its folder is garbage from now on. Commits on a full disk too.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn end_activation(
        &mut self,
        namespace: &Namespace,
        name: &MountName,
        number: Option<u64>,
    ) -> Result<Option<Activation>> {
        self.raw().draw_on_reserve();
        let found = self.view().activation(namespace, name)?;
        let Some(found) = found.filter(|a| number.is_none_or(|number| number == a.number)) else {
            return Ok(None);
        };
        self.delete(MOUNT, &key(namespace, name))?;
        Ok(Some(found))
    }
}

fn lease_lives(view: View<'_>, namespace: &Namespace, lease: Option<&LeaseId>) -> Result<()> {
    match lease {
        Some(lease) if !view.contains(LEASE, &leases::key(namespace, lease))? => {
            Err(Error::not_found("lease does not exist"))
        }
        _ => Ok(()),
    }
}
