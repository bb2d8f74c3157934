//! Tests of the whole path, from a blob in a store to files, and what they share: a store in
//! memory, archives built entry by entry, trees as text.

mod bounds;
mod diffs;
mod hostile;
mod layers;
mod measure;
mod oracles;
mod processors;
mod tricks;

mod store;
mod support;

use support::{Fixture, Layer, tree};
