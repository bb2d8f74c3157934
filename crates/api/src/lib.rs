//! The wire interface as Rust types: containerd's packages, and Gantry's own records and services.
//!
//! Everything in `src/gen` is written by `cargo xtask codegen` from the .proto files below `proto/`
//! and never edited by hand; a test fails when the two differ. Modules follow the protobuf package:
//! `containerd.services.content.v1` is [`containerd::services::content::v1`].
//!
//! Plain messages by default. The features `client` and `server` add tonic's client and server side
//! (`images_client::ImagesClient`, `images_server::Images`).
//!
//! Must not hold logic, or conversions to domain types: those live beside the service or proxy that
//! needs them.

pub mod any;
pub mod timestamp;

#[path = "gen/mod.rs"]
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::needless_pass_by_value)]
mod generated;

pub use generated::*;

/// Encoded `google.protobuf.FileDescriptorSet` of every file below `proto/` and what they import:
/// what gRPC server reflection serves.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
