//! The one convention about `google.protobuf.Timestamp` that its definition does not state: how an
//! unset time travels. Go's clients read an absent timestamp as 1970 and only year 1 as "not yet".

use prost_types::Timestamp;

/// Go's zero `time.Time`, 0001-01-01T00:00:00Z: send it where there is no time, such as the exit
/// time of a live process.
pub const UNSET: Timestamp = Timestamp { seconds: -62_135_596_800, nanos: 0 };

/// The time, if there is one: neither absent nor [`UNSET`].
pub fn known(timestamp: Option<&Timestamp>) -> Option<&Timestamp> {
    timestamp.filter(|timestamp| **timestamp != UNSET)
}

/// What to send for a time that may not be known.
#[must_use]
pub fn or_unset(timestamp: Option<Timestamp>) -> Timestamp {
    timestamp.unwrap_or(UNSET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_is_the_first_moment_of_year_1() {
        assert_eq!(UNSET.to_string(), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn an_unset_time_is_as_unknown_as_an_absent_one() {
        assert_eq!(known(None), None);
        assert_eq!(known(Some(&UNSET)), None);
        // 1970 is a time that was sent.
        assert_eq!(known(Some(&Timestamp::default())), Some(&Timestamp::default()));
        assert_eq!(or_unset(None), UNSET);
    }
}
