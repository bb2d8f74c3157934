//! Time, injected: nothing below the daemon's `main` reads the clock but through [`Clock`].

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds and nanoseconds since 1970-01-01T00:00:00Z, as protobuf's `Timestamp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since the epoch; negative before it.
    pub seconds: i64,
    /// Nanoseconds within the second, 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// Go's zero `time.Time`: how an unset time travels, since an absent one reads as 1970.
    pub const UNSET: Self = Self { seconds: -62_135_596_800, nanos: 0 };

    /// Whether this is [`Timestamp::UNSET`].
    pub fn is_unset(self) -> bool {
        self == Self::UNSET
    }

    /// Parses RFC 3339; `None` when it is not.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Some(Self { seconds: parsed.unix_timestamp(), nanos: parsed.nanosecond() })
    }

    /// RFC 3339 in UTC; the raw numbers for a year that RFC 3339 cannot express.
    pub fn to_rfc3339(self) -> String {
        OffsetDateTime::from_unix_timestamp(self.seconds)
            .ok()
            .and_then(|t| t.replace_nanosecond(self.nanos).ok())
            .and_then(|t| t.format(&Rfc3339).ok())
            .unwrap_or_else(|| format!("{}.{:09}", self.seconds, self.nanos))
    }

    /// This time moved by `by` into the future, staying at the last representable one.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let nanos = self.nanos + by.subsec_nanos();
        let carry = i64::from(nanos / 1_000_000_000);
        let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
        Self {
            seconds: self.seconds.saturating_add(seconds).saturating_add(carry),
            nanos: nanos % 1_000_000_000,
        }
    }

    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = i128::from(self.seconds - earlier.seconds) * 1_000_000_000
            + i128::from(self.nanos)
            - i128::from(earlier.nanos);
        u64::try_from(nanos).map_or(Duration::ZERO, Duration::from_nanos)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self {
                seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanos: after.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                let whole = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Self { seconds: -whole, nanos: 0 },
                    n => Self { seconds: -whole - 1, nanos: 1_000_000_000 - n },
                }
            }
        }
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// A clock that stands until it is moved; for tests.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.plus(by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_goes_both_ways() {
        let text = "2026-01-02T03:04:05.000000006Z";
        let parsed = Timestamp::parse_rfc3339(text).unwrap();
        assert_eq!(parsed.nanos, 6);
        assert_eq!(parsed.to_rfc3339(), text);
        assert_eq!(
            Timestamp::parse_rfc3339("2026-01-02T04:04:05+01:00").unwrap().seconds,
            parsed.seconds
        );
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
        assert_eq!(Timestamp::UNSET.to_rfc3339(), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn plus_carries_and_since_never_goes_negative() {
        let early = Timestamp { seconds: 1, nanos: 900_000_000 };
        let late = early.plus(Duration::from_millis(200));
        assert_eq!(late, Timestamp { seconds: 2, nanos: 100_000_000 });
        assert_eq!(late.since(early), Duration::from_millis(200));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
