//! The mount table of this process (`/proc/self/mountinfo`, proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is mounted.
    pub target: PathBuf,
    /// File system type.
    pub kind: String,
    /// What the file system says it mounts.
    pub source: String,
    /// Options of the file system.
    pub options: String,
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// Those of reading the file.
pub fn table() -> io::Result<Vec<Entry>> {
    let bytes = std::fs::read("/proc/self/mountinfo")?;
    Ok(bytes.split(|b| *b == b'\n').filter_map(entry).collect())
}

fn entry(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|b| *b == b' ');
    let target = unescape(fields.nth(4)?);
    // Optional fields end with a lone dash.
    fields.find(|field| field == b"-")?;
    let mut text = || fields.next().map(|f| String::from_utf8_lossy(&unescape(f)).into_owned());
    let (kind, source, options) = (text()?, text()?, text()?);
    Some(Entry { target: OsString::from_vec(target).into(), kind, source, options })
}

/// Space, tab, newline and backslash travel as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|d| first == b'\\' && d.iter().all(|d| (b'0'..=b'7').contains(d)));
        match code {
            Some(digits) => {
                plain
                    .push(digits.iter().fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')));
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

/// The targets at or below `path` in the order in which they come off: what was mounted last comes
/// off first, and one target occurs once per layer.
pub fn at_or_below(entries: &[Entry], path: &Path) -> Vec<PathBuf> {
    let mut targets: Vec<PathBuf> =
        entries.iter().map(|e| &e.target).filter(|t| t.starts_with(path)).cloned().collect();
    targets.reverse();
    // Stable: layers of one depth keep the order of the table reversed.
    targets.sort_by_key(|target| std::cmp::Reverse(target.components().count()));
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_optional_fields_are_read() {
        let line =
            br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let entry = entry(line).unwrap();
        assert_eq!(entry.target, Path::new("/mnt 2"));
        assert_eq!((entry.kind.as_str(), entry.source.as_str()), ("ext3", "/dev/root"));
        assert_eq!(entry.options, "rw,errors=continue");
        assert_eq!(unescape(br"a\134b\12"), br"a\b\12");
    }

    #[test]
    fn the_deepest_comes_off_first_and_every_layer_once() {
        let of = |targets: &[&str]| -> Vec<Entry> {
            let entry = |t: &&str| Entry {
                target: PathBuf::from(t),
                kind: String::new(),
                source: String::new(),
                options: String::new(),
            };
            targets.iter().map(entry).collect()
        };
        let entries = of(&["/", "/a", "/a/b/c", "/ab", "/a", "/a/b"]);
        let order = at_or_below(&entries, Path::new("/a"));
        assert_eq!(order, ["/a/b/c", "/a/b", "/a", "/a"].map(PathBuf::from));
    }
}
