//! Labels: small texts on objects, some of which steer garbage collection.
//!
//! Invariant: an empty value means absent and is never held. The size limit is checked where
//! labels enter ([`Labels::checked`]); leases take labels unchecked, as containerd's do.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Most bytes of one key and its value together.
pub const LABEL_BYTES_MAX: usize = 4096;

/// A map of labels without empty values, in byte order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Takes `pairs`, leaving out those with an empty value.
    pub fn unchecked(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }

    /// Takes `pairs` after checking each against [`LABEL_BYTES_MAX`].
    ///
    /// # Errors
    /// `InvalidArgument` naming the key that is too long with its value.
    pub fn checked(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let mut labels = BTreeMap::new();
        for (key, value) in pairs {
            check_label(&key, &value)?;
            if !value.is_empty() {
                labels.insert(key, value);
            }
        }
        Ok(Self(labels))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
    /// Sets `key`; an empty value removes it.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        if value.is_empty() {
            self.0.remove(&key);
        } else {
            self.0.insert(key, value);
        }
    }
    /// All labels in byte order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl IntoIterator for Labels {
    type Item = (String, String);
    type IntoIter = std::collections::btree_map::IntoIter<String, String>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Checks one label against [`LABEL_BYTES_MAX`].
///
/// # Errors
/// `InvalidArgument` with the first bytes of the key.
pub fn check_label(key: &str, value: &str) -> Result<()> {
    let total = key.len() + value.len();
    if total <= LABEL_BYTES_MAX {
        return Ok(());
    }
    let shown: String = key.chars().take(64).collect();
    Err(Error::invalid_argument(format!(
        "label key and value length ({total} bytes) greater than maximum size \
         ({LABEL_BYTES_MAX} bytes), key: {shown}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_value_is_absent() {
        let mut labels =
            Labels::checked([("a".into(), "1".into()), ("b".into(), String::new())]).unwrap();
        assert_eq!(labels.len(), 1);
        labels.set("a", "");
        assert!(labels.is_empty());
    }

    #[test]
    fn the_limit_counts_key_and_value() {
        assert!(check_label("k", &"v".repeat(LABEL_BYTES_MAX - 1)).is_ok());
        assert!(check_label("k", &"v".repeat(LABEL_BYTES_MAX)).is_err());
    }
}
