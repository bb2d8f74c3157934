//! What a call leaves in its lease.

use gantry_core::{Kind, Labels, LeaseId};

use super::{World, key, labels, refused};

/// The world with its calls under the lease `l`; `None` where the subject has no leases.
async fn under_lease(mut world: World) -> Option<World> {
    let leases = world.leases.clone()?;
    let id = LeaseId::new("l").unwrap();
    leases.create(&world.cx, &id).await.unwrap();
    world.cx = world.cx.with_lease(Some(id));
    Some(world)
}

impl World {
    async fn held(&self) -> Vec<String> {
        let lease = LeaseId::new("l").unwrap();
        self.leases.as_ref().unwrap().held(&self.cx, &lease).await.unwrap()
    }
}

/// Prepare and View add their key.
pub async fn what_a_call_makes_is_leased(world: World) {
    let Some(world) = under_lease(world).await else { return };
    world.prepare("a", None).await;
    world.view("v", None).await;
    assert_eq!(world.held().await, ["a", "v"]);
}

/// Commit adds the name and drops the key.
pub async fn a_commit_swaps_key_for_name(world: World) {
    let Some(world) = under_lease(world).await else { return };
    world.prepare("a", None).await;
    world.commit("c", "a").await;
    assert_eq!(world.held().await, ["c"]);
}

/// A call that fails because something exists leases what exists.
pub async fn what_is_in_the_way_is_leased(world: World) {
    world.prepare("key", None).await;
    world.layer("name", None).await;
    world.layer("target", None).await;
    let Some(world) = under_lease(world).await else { return };
    let (s, cx) = (&world.snapshotter, &world.cx);

    let taken = s.prepare(cx, &key("key"), None, Labels::default()).await;
    refused(taken, Kind::AlreadyExists);
    assert_eq!(world.held().await, ["key"]);

    let target = labels([("containerd.io/snapshot.ref", "target")]);
    refused(s.prepare(cx, &key("free"), None, target).await, Kind::AlreadyExists);
    assert_eq!(world.held().await, ["key", "target"]);
    assert!(world.gone("free").await);

    refused(world.try_commit("name", "key").await, Kind::AlreadyExists);
    assert_eq!(world.held().await, ["key", "name", "target"]);
}

/// Removing a snapshot drops it from the lease of the call.
pub async fn a_removal_drops_the_entry(world: World) {
    let Some(world) = under_lease(world).await else { return };
    world.prepare("a", None).await;
    world.prepare("b", None).await;
    world.remove("a").await;
    assert_eq!(world.held().await, ["b"]);
}

/// A lease that does not exist makes every changing call fail with nothing done.
pub async fn an_absent_lease_refuses_and_leaves_nothing(mut world: World) {
    if world.leases.is_none() {
        return;
    }
    world.prepare("a", None).await;
    world.cx = world.cx.with_lease(Some(LeaseId::new("absent").unwrap()));
    let made = world.snapshotter.prepare(&world.cx, &key("b"), None, Labels::default()).await;
    refused(made, Kind::NotFound);
    assert!(world.gone("b").await);
    refused(world.try_commit("c", "a").await, Kind::NotFound);
    assert!(world.gone("c").await && !world.gone("a").await);
}
