//! Waiting for a condition, often and long, with the last state seen in the failure.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long a test waits for anything that must happen soon: generous, since a loaded machine is
/// slow and a passing test never waits it out.
pub const SOON: Duration = Duration::from_secs(20);

/// How long one try may take when a test knocks until it is heard.
pub const KNOCK: Duration = Duration::from_millis(100);

const PAUSE: Duration = Duration::from_millis(5);

/// Asks `condition` until it gives a value, at most for `limit`; `Err` is the state seen, and the
/// last one stands in the panic.
#[track_caller]
pub fn poll_until<T, S: Display>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T, S>,
) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(state) if start.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; last seen: {state}");
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// As [`poll_until`], for a condition that must await.
pub async fn poll_async<T, S: Display>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let start = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(state) if start.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; last seen: {state}");
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Whether `condition` holds within `limit`; for ends that are reported and not asserted.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

/// The value of `future`, which must come within [`SOON`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: no end within {SOON:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_arrives_when_the_condition_holds() {
        let mut asked = 0;
        let value = poll_until("the third answer", SOON, || {
            asked += 1;
            if asked == 3 { Ok(asked) } else { Err(asked) }
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "the impossible: not within 10ms; last seen: still 4")]
    fn the_last_state_stands_in_the_failure() {
        poll_until("the impossible", Duration::from_millis(10), || Err::<(), _>("still 4"));
    }
}
