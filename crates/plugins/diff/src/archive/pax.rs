//! PAX extended headers: records of the form `<length> <key>=<value>\n`.
//!
//! Values are bytes, newlines and NULs included; the length alone says where a record ends. A
//! later record overrides an earlier one of the same key, an empty value means "as the header
//! says".

use std::collections::BTreeMap;

use super::Time;

/// The records of one extended header, by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

/// Keys that GNU's sparse format 0.0 repeats, one pair per segment.
const SPARSE_OFFSET: &[u8] = b"GNU.sparse.offset";
const SPARSE_BYTES: &[u8] = b"GNU.sparse.numbytes";
pub(super) const SPARSE_MAP: &[u8] = b"GNU.sparse.map";

impl Records {
    /// Parses the data of an extended header; the error says what is wrong with it.
    pub(super) fn parse(mut data: &[u8]) -> Result<Self, &'static str> {
        let mut records = BTreeMap::new();
        let mut sparse: Vec<&[u8]> = Vec::new();
        while !data.is_empty() {
            let (key, value, rest) = record(data).ok_or("malformed PAX record")?;
            data = rest;
            match key {
                SPARSE_OFFSET | SPARSE_BYTES => {
                    let expected =
                        if sparse.len().is_multiple_of(2) { SPARSE_OFFSET } else { SPARSE_BYTES };
                    if key != expected || value.contains(&b',') {
                        return Err("malformed PAX sparse map");
                    }
                    sparse.push(value);
                }
                _ => {
                    records.insert(key.to_vec(), value.to_vec());
                }
            }
        }
        if !sparse.is_empty() {
            records.insert(SPARSE_MAP.to_vec(), sparse.join(&b','));
        }
        Ok(Self(records))
    }

    /// The value of `key`, if it has one that is not empty.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// The value of `key` as a decimal number; `Err` when it is none.
    pub(super) fn number(&self, key: &[u8]) -> Result<Option<i64>, &'static str> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => decimal(value).map(Some).ok_or("PAX number is none"),
        }
    }

    /// The value of `key` as a time; `Err` when it is none.
    pub(super) fn time(&self, key: &[u8]) -> Result<Option<Time>, &'static str> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => time(value).map(Some).ok_or("PAX time is none"),
        }
    }

    /// Records whose key begins with `prefix`, the prefix cut off; empty values included.
    pub(super) fn below<'a>(
        &'a self,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.0.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, &value[..])))
    }
}

/// Splits the first record off: key, value, rest.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    if length > data.len() || length < space + 2 {
        return None;
    }
    let (this, rest) = data.split_at(length);
    let body = this[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    let names = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    let bad = key.is_empty() || key.contains(&0) || (names && value.contains(&0));
    (!bad).then_some((key, value, rest))
}

/// Decimal digits with an optional sign, as Go's `strconv.ParseInt` takes them.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `seconds[.fraction]`, digits beyond nanoseconds cut off.
fn time(text: &[u8]) -> Option<Time> {
    let mut parts = text.splitn(2, |b| *b == b'.');
    let whole = parts.next()?;
    let secs = decimal(whole)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0_u32, |nanos, place| {
        nanos * 10 + fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'))
    });
    if whole.first() == Some(&b'-') && nanos > 0 {
        return Some(Time { secs: secs.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Time { secs, nanos })
}

/// A time as a record's value.
pub(super) fn format_time(time: Time) -> String {
    let (sign, secs, nanos) = if time.secs < 0 && time.nanos > 0 {
        ("-", (time.secs + 1).unsigned_abs(), 1_000_000_000 - time.nanos)
    } else {
        (if time.secs < 0 { "-" } else { "" }, time.secs.unsigned_abs(), time.nanos)
    };
    let text = format!("{sign}{secs}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Appends the record `key=value`.
pub(super) fn write_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits, so it may take a second try.
    let body = key.len() + value.len() + 3;
    let mut length = body + digits(body);
    if body + digits(length) > length {
        length = body + digits(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_may_hold_newlines_and_nuls() {
        let mut data = Vec::new();
        write_record(&mut data, b"SCHILY.xattr.security.capability", b"\x01\0\n\0=\n");
        write_record(&mut data, b"path", b"x");
        let records = Records::parse(&data).unwrap();
        let value = records.get(b"SCHILY.xattr.security.capability").unwrap();
        assert_eq!(value, b"\x01\0\n\0=\n");
        assert_eq!(records.get(b"path"), Some(&b"x"[..]));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"6 =b\n",
            b"99 a=b\n",
            b"-6 a=b\n",
            b"6 ab c\n",
            b"9 path=\0\n",
            b"3 =",
            b"0 ",
            b"x a=b\n",
        ] {
            assert!(Records::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_go_below_the_second_and_below_zero() {
        assert_eq!(time(b"1.5"), Some(Time { secs: 1, nanos: 500_000_000 }));
        assert_eq!(time(b"-1.25"), Some(Time { secs: -2, nanos: 750_000_000 }));
        assert_eq!(time(b"-0.5"), Some(Time { secs: -1, nanos: 500_000_000 }));
        assert_eq!(time(b"7.1234567899"), Some(Time { secs: 7, nanos: 123_456_789 }));
        assert_eq!(time(b"1.-5"), None);
        assert_eq!(time(b"99999999999999999999"), None);
    }

    proptest! {
        #[test]
        fn records_survive_the_round_trip(
            pairs in proptest::collection::btree_map("[a-z.]{1,40}", proptest::collection::vec(any::<u8>(), 1..200), 0..8)
        ) {
            let pairs: Vec<_> = pairs
                .into_iter()
                .filter(|(key, value)| !(value.contains(&0) && ["path", "linkpath", "uname", "gname"].contains(&key.as_str())))
                .collect();
            let mut data = Vec::new();
            for (key, value) in &pairs {
                write_record(&mut data, key.as_bytes(), value);
            }
            let records = Records::parse(&data).unwrap();
            for (key, value) in &pairs {
                prop_assert_eq!(records.get(key.as_bytes()), Some(&value[..]));
            }
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Records::parse(&data);
        }
    }
}
