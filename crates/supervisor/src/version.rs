//! Which version this is.
//!
//! Clients choose how to talk to the daemon by this text: nerdctl takes the transfer service from
//! semver 2.0.0 on. So it starts with the containerd version whose API is served, and our own
//! version follows as build metadata.

macro_rules! version {
    () => {
        concat!("v2.4.2+gantry.", env!("CARGO_PKG_VERSION"))
    };
}

/// The version told to clients.
pub const VERSION: &str = version!();

/// The git commit this was built from; `unknown` outside a checkout.
pub const REVISION: &str = env!("GANTRY_REVISION");

/// Version and revision in one line, for people.
pub const LONG: &str = concat!(version!(), " ", env!("GANTRY_REVISION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_semver_of_at_least_2() {
        let (core, build) = VERSION.strip_prefix('v').unwrap().split_once('+').unwrap();
        let numbers: Vec<u32> = core.split('.').map(|n| n.parse().unwrap()).collect();
        assert!(numbers.len() == 3 && numbers[0] >= 2, "{VERSION}");
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
        assert!(build.bytes().all(allowed), "{VERSION}");
    }
}
