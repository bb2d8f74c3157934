//! Applying field masks to maps.

use gantry_core::Labels;

/// `labels.KEY` of a mask: the key takes the request's value, absent there means removed.
pub(super) fn set_label(target: &mut Labels, source: &Labels, key: &str) {
    target.set(key, source.get(key).unwrap_or_default());
}

/// Splits a mask path into a field and, behind its first dot, a key.
pub(super) fn whole(field: &str, key: Option<&str>) -> String {
    key.map_or_else(|| field.to_owned(), |key| format!("{field}.{key}"))
}
