//! Durations as Go prints them, in the one text where clients' logs are used to them.

use std::time::Duration;

/// `1h2m3.5s`, `1.5ms`, `0s`: what Go's `Duration.String` gives.
pub(crate) fn go_text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, scale) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => ("ns", 1),
        1_000..1_000_000 => ("µs", 1_000),
        1_000_000..1_000_000_000 => ("ms", 1_000_000),
        _ => ("s", 1_000_000_000),
    };
    let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
    let rest = if unit == "s" { nanos % 60_000_000_000 } else { nanos };
    let mut text = match (hours, minutes) {
        (0, 0) => String::new(),
        (0, m) => format!("{m}m"),
        (h, m) => format!("{h}h{m}m"),
    };
    text.push_str(&(rest / scale).to_string());
    let width = scale.ilog10() as usize;
    let fraction = format!("{:0width$}", rest % scale);
    let fraction = fraction.trim_end_matches('0');
    if width > 0 && !fraction.is_empty() {
        text.push('.');
        text.push_str(fraction);
    }
    text.push_str(unit);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_gos() {
        for (nanos, text) in [
            (0, "0s"),
            (7, "7ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_000_000_000, "3s"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_text(Duration::from_nanos(nanos)), text);
        }
    }
}
