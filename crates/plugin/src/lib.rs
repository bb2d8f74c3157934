//! How a plugin is named, ordered, started and stopped.
//!
//! A [`Graph`] is filled by code that reads from top to bottom: [`Graph::start`] names a plugin,
//! says what it stands on, starts it and returns a typed [`Handle`]. A plugin can only stand on
//! handles that exist already, so what is started first is what is needed first, and a cycle
//! cannot be written down.
//!
//! Invariants:
//! - a plugin whose start failed stays listed, with the error; what stands on it is listed as
//!   failed too and its start is not tried;
//! - plugins are stopped in the reverse order of their start;
//! - the order of [`Graph::take_records`] is the order of the starts.
//!
//! Must not: find anything by name at run time; names are for people and for the plugin list.

mod graph;
mod kind;
mod plugin;

pub use graph::{Graph, Record};
pub use kind::PluginType;
pub use plugin::{Handle, Platform, Plugin, PluginId};
