//! What the daemon wrote to standard error, and which of its lines a test must have announced.

/// Lines of `text` at WARN or ERROR, panics included, that contain none of `allowed`.
pub fn loud(text: &str, allowed: &[String]) -> Vec<String> {
    let unannounced =
        |line: &&str| is_loud(line) && !allowed.iter().any(|part| line.contains(part));
    text.lines().filter(unannounced).map(str::to_owned).collect()
}

/// The last `count` lines of `text`.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The level stands among the first words, alone or as `"level":"WARN"`: a message that quotes
/// the word further on is not meant.
fn is_loud(line: &str) -> bool {
    if line.starts_with("thread '") && line.contains("panicked at") {
        return true;
    }
    let head: String = line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let mut words = head.split(|c: char| !c.is_ascii_alphabetic());
    words.any(|word| word == "WARN" || word == "ERROR")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "2026-01-01T00:00:00Z  INFO gantryd: listening address=/x\n\
        2026-01-01T00:00:00Z  WARN gantryd: shim is silent\n\
        {\"timestamp\":\"x\",\"level\":\"ERROR\",\"message\":\"y\"}\n\
        2026-01-01T00:00:00Z  INFO gantryd: a client said ERROR loudly enough\n\
        thread 'store' panicked at crates/x.rs:1:1:\n";

    #[test]
    fn warnings_errors_and_panics_are_loud() {
        assert_eq!(loud(SAMPLE, &[]).len(), 3);
    }

    #[test]
    fn an_announced_line_is_not() {
        let rest = loud(SAMPLE, &["shim is silent".to_owned()]);
        assert_eq!(rest.len(), 2, "{rest:?}");
        assert!(rest.iter().all(|line| !line.contains("WARN")));
    }
}
