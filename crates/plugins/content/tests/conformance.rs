//! The local store keeps the contract of content stores.

mod common;

use common::World;

gantry_conformance::content_store!(local, || async { World::new() });
