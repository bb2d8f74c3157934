//! Decides what survives one collection: marking over a graph of records, nothing else.
//!
//! In: a [`View`] of the metadata, told record by record and table by table in any order, and the
//! time. Out: a [`Plan`]. Whoever stores the records carries the plan out and checks, in the same
//! transaction, that the view was not overtaken.
//!
//! ```text
//! roots    live leases, containers, images that have not expired, ingests whose stamp has not run
//!          out, content and snapshots labelled gc.root, what a sandbox's labels name, streams
//!          without a lease, mounts with neither a lease nor a back reference
//! edges    lease -> resource        image -> target       snapshot -> parent
//!          container -> snapshot    ingest -> shared blob record -> what its labels name
//! ```
//!
//! | label, after `containerd.io/` | on | value | meaning |
//! |---|---|---|---|
//! | `gc.root..` | content, snapshot | any | a root |
//! | `gc.ref.content`, `gc.ref.image`, `gc.ref.stream`, `gc.ref.mount` + `[./]anything` | content, snapshot, image, container, sandbox | digest or name | record -> it |
//! | `gc.ref.snapshot.SNAPSHOTTER` + `/anything` | the same | key | record -> it |
//! | `gc.bref.container`, `gc.bref.content`, `gc.bref.image` + `[./]anything` | content, snapshot, image, container, mount | id, digest or name | it -> record |
//! | `gc.bref.snapshot.SNAPSHOTTER` + `/anything` | the same | key | it -> record |
//! | `gc.cond.snapshot.SNAPSHOTTER` + `/anything` | content, image | `usedat<72h\|KEY`; `<` or `>`, several joined by `,` are OR | record -> snapshot while the test holds |
//! | `gc.cond.value-usedat..` | snapshot | RFC 3339 | when it was last used |
//! | `gc.expire` | lease, image | RFC 3339 | no root once this has passed; unreadable: ignored |
//! | `gc.flat` | lease | any | labels of what it holds are not followed; image targets and snapshot parents are |
//!
//! An empty value is no label. A record reached flatly and otherwise counts as reached otherwise.
//! Edges never leave a namespace. What is only named, without a record, is passed through like
//! anything else: a back reference to it holds while something live names it. A lease without a
//! record holds nothing.
//!
//! Invariants: whatever a live lease reaches is never in [`Plan::remove`]; containers never are;
//! the same records give the same plan, in whatever order they arrive.
//! Must not: read the clock, touch the disk, know protobuf.

mod condition;
mod label;
mod mark;
mod node;
mod view;

pub use mark::Plan;
pub use node::{Node, Object};
pub use view::View;

#[cfg(test)]
mod model;
