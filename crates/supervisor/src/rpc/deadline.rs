//! The deadline that a client sends with its call (gRPC over HTTP/2, "Timeout").

use std::time::Duration;

/// How much earlier than the client we stop waiting: tonic watches the same header and would
/// answer Cancelled at the very deadline, where clients expect DeadlineExceeded.
pub(super) const LEAD: Duration = Duration::from_millis(2);

/// Reads a `grpc-timeout`: at most eight digits and a unit; `None` when it is anything else,
/// which means no deadline.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = &text[..text.len() - unit.len_utf8()];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number * 3600)),
        'M' => Some(Duration::from_secs(number * 60)),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_eight_digits_at_most_and_a_unit() {
        assert_eq!(parse("10S"), Some(Duration::from_secs(10)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse("1500u"), Some(Duration::from_micros(1500)));
        for bad in ["", "S", "10", "10s", "-1S", "123456789S", "1é", "é", "+1S"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
