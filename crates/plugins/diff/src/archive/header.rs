//! One header block: its checksum, its dialect, its fields.
//!
//! Source: POSIX.1-2001 pax(1) "ustar Interchange Format" and the GNU tar manual, "Basic Tar
//! Format"; where they leave room, Go's `archive/tar` decides.

use std::ops::Range;

use super::{BLOCK, EntryKind};

pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPE: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const MAJOR: Range<usize> = 329..337;
pub(super) const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;

/// Which program's idea of a header a block follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A block taken as a header.
pub(super) struct Header {
    pub(super) block: [u8; BLOCK],
    pub(super) dialect: Dialect,
}

impl Header {
    /// Takes `block` as a header if its checksum says so; the error says what is wrong with it.
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self, &'static str> {
        let stored = octal(&block[CHECKSUM]).ok_or("checksum is no number")?;
        if stored != unsigned_sum(&block) && stored != signed_sum(&block) {
            return Err("checksum mismatch");
        }
        let dialect = match &block[MAGIC] {
            b"ustar  \0" => Dialect::Gnu,
            [b'u', b's', b't', b'a', b'r', 0, ..] if &block[508..512] == b"tar\0" => Dialect::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Dialect::Ustar,
            _ => Dialect::V7,
        };
        Ok(Self { block, dialect })
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[TYPE]
    }

    /// What the type flag makes; `trailing_slash` tells an old directory from an old file.
    pub(super) fn kind(&self, trailing_slash: bool) -> EntryKind {
        match self.type_flag() {
            0 if trailing_slash => EntryKind::Directory,
            // GNU sparse files are told apart by their map, contiguous ones by nothing.
            0 | b'0' | b'7' | b'S' => EntryKind::Regular,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => EntryKind::Other(other),
        }
    }

    /// The name with the dialect's prefix in front.
    pub(super) fn name(&self) -> Vec<u8> {
        let prefix = match self.dialect {
            Dialect::Ustar => text(&self.block[PREFIX]),
            Dialect::Star => text(&self.block[STAR_PREFIX]),
            // GNU keeps times where ustar keeps the prefix.
            Dialect::Gnu | Dialect::V7 => &[],
        };
        let name = text(&self.block[NAME]);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.block[LINK]).to_vec()
    }

    pub(super) fn number(&self, field: Range<usize>) -> Option<i64> {
        number(&self.block[field])
    }

    /// Device numbers; version 7 headers have none.
    pub(super) fn device(&self) -> Option<(i64, i64)> {
        match self.dialect {
            Dialect::V7 => Some((0, 0)),
            _ => Some((self.number(MAJOR)?, self.number(MINOR)?)),
        }
    }
}

/// Bytes up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number in octal digits or, with the top bit set, in base 256 (GNU; may be negative).
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field).and_then(|n| i64::try_from(n).ok()),
    }
}

fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let inverse = if negative { 0xff } else { 0 };
    let mut value: u64 = 0;
    for (index, byte) in field.iter().enumerate() {
        let mut byte = byte ^ inverse;
        if index == 0 {
            byte &= 0x7f;
        }
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if negative { !value } else { value })
}

fn octal(field: &[u8]) -> Option<u64> {
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let Some(start) = field.iter().position(|b| !blank(b)) else { return Some(0) };
    let digits = field[start..].split(|b| *b == 0).next().unwrap_or_default().trim_ascii_end();
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// The block's sum with its checksum field taken as blanks.
pub(super) fn unsigned_sum(block: &[u8; BLOCK]) -> u64 {
    summed(block).map(u64::from).sum()
}

/// The same by writers that took bytes as signed.
fn signed_sum(block: &[u8; BLOCK]) -> u64 {
    summed(block).map(|b| i64::from(b.cast_signed())).sum::<i64>().cast_unsigned()
}

fn summed(block: &[u8; BLOCK]) -> impl Iterator<Item = u8> {
    block.iter().enumerate().map(|(i, b)| if CHECKSUM.contains(&i) { b' ' } else { *b })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000755\0"), Some(0o755));
        assert_eq!(number(b"  755 \0\0"), Some(0o755));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"12x4567\0"), None);
        assert_eq!(number(b"-1\0\0\0\0\0\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0x80, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None, "overflow");
    }
}
