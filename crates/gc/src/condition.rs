//! Conditional references: `usedat<72h,usedat>1000h|KEY`.
//!
//! Only the tests `usedat<D` and `usedat>D` exist; what is not one of them is passed over, so an
//! unknown condition never keeps anything.

use gantry_core::Timestamp;

/// Compares how long ago a snapshot was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsedAt {
    /// Less than this many nanoseconds ago.
    Within(i64),
    /// More than this many nanoseconds ago.
    Before(i64),
}

impl UsedAt {
    /// Whether a use at `used` passes at the time `now`.
    pub(crate) fn holds(self, used: Timestamp, now: Timestamp) -> bool {
        let age = i128::from(now.seconds - used.seconds) * 1_000_000_000 + i128::from(now.nanos)
            - i128::from(used.nanos);
        match self {
            Self::Within(nanos) => age < i128::from(nanos),
            Self::Before(nanos) => age > i128::from(nanos),
        }
    }
}

/// The tests and the key of a conditional label's value; `None` without a key.
pub(crate) fn parse(value: &str) -> Option<(Vec<UsedAt>, &str)> {
    let (tests, key) = value.split_once('|')?;
    Some((tests.split(',').filter_map(test).collect(), key))
}

fn test(text: &str) -> Option<UsedAt> {
    let at = text.find(['!', '<', '>', '='])?;
    let (name, rest) = text.split_at(at);
    if name != "usedat" {
        return None;
    }
    // `<=` and `>=` do not exist for times: what follows is then no duration.
    match rest.split_at(1) {
        ("<", duration) => nanos(duration).map(UsedAt::Within),
        (">", duration) => nanos(duration).map(UsedAt::Before),
        _ => None,
    }
}

/// Nanoseconds of a duration as Go writes it: `1h30m`, `1.5s`, `-3ms`, `0`.
fn nanos(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, left) = tail.split_at(unit_end);
        total = total.checked_add(scaled(number, unit_nanos(unit)?)?)?;
        rest = left;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn unit_nanos(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` (digits, perhaps with a fraction) times `unit`, rounded down.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    // Digits finer than a nanosecond of the unit no longer count, but must be digits.
    for digit in fraction.chars() {
        place /= 10;
        nanos = nanos.checked_add(i128::from(digit.to_digit(10)?) * place)?;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [
            ("0", Some(0)),
            ("72h", Some(72 * 3_600_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5m", Some(30_000_000_000)),
            ("1.h", Some(3_600_000_000_000)),
            ("-3ms", Some(-3_000_000)),
            ("+2us", Some(2_000)),
            ("2µs", Some(2_000)),
            ("", None),
            ("-", None),
            ("5", None),
            (".s", None),
            ("5d", None),
            ("1.2.3s", None),
            ("=72h", None),
            ("9999999999999h", None),
        ] {
            assert_eq!(nanos(text), expected, "{text:?}");
        }
    }

    #[test]
    fn unknown_tests_are_passed_over() {
        let hour = 3_600_000_000_000;
        assert_eq!(
            parse("usedat<1h,size>3,usedat<=2h,usedat>1h,usedat,x|k|e,y"),
            Some((vec![UsedAt::Within(hour), UsedAt::Before(hour)], "k|e,y"))
        );
        assert_eq!(parse("usedat<1h"), None);
        assert_eq!(parse("|k"), Some((vec![], "k")));
    }

    #[test]
    fn age_is_measured_at_the_views_time() {
        let now = Timestamp { seconds: 100, nanos: 0 };
        let used = Timestamp { seconds: 90, nanos: 500_000_000 };
        assert!(UsedAt::Within(9_500_000_001).holds(used, now));
        assert!(!UsedAt::Within(9_500_000_000).holds(used, now));
        assert!(UsedAt::Before(9_499_999_999).holds(used, now));
        assert!(UsedAt::Within(0).holds(now, used), "used in the future");
    }
}
