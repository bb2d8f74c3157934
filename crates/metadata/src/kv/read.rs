//! What a reader can ask of one state of the store.

use super::StoreError;

/// A table, by name. Names are lower-case words; a store knows the ones it was opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub &'static str);

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Entries per page where a scan without a limit pages inside.
pub(crate) const PAGE: usize = 256;

/// One state of the store.
pub trait Read {
    /// The value of `key`, if there is one.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The entries with `start <= key < end` (`None`: to the end of the table), in ascending byte
    /// order, at most `limit` of them. An `end` at or below `start` is an empty range.
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError>;

    /// Calls `visit` for every entry of the range until it returns false; pages inside, so that
    /// a large table is never held in memory at once.
    fn for_each(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut dyn FnMut(Vec<u8>, Vec<u8>) -> bool,
    ) -> Result<(), StoreError> {
        let mut from = start.to_vec();
        loop {
            let page = self.scan(table, &from, end, PAGE)?;
            let full = page.len() == PAGE;
            if let Some((last, _)) = page.last() {
                from.clone_from(last);
                from.push(0);
            }
            for (key, value) in page {
                if !visit(key, value) {
                    return Ok(());
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// All entries whose key begins with `prefix`.
    fn scan_prefix(&self, table: Table, prefix: &[u8]) -> Result<Vec<Pair>, StoreError> {
        let end = prefix_end(prefix);
        let mut all = Vec::new();
        self.for_each(table, prefix, end.as_deref(), &mut |key, value| {
            all.push((key, value));
            true
        })?;
        Ok(all)
    }
}

/// The first key above everything that begins with `prefix`; `None`: there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_sibling() {
        assert_eq!(prefix_end(b"a"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
