//! The types of values in the configuration that TOML does not have.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Implements serde as text by `FromStr` and `Display`.
macro_rules! as_text {
    ($($name:ident),*) => {
        $(impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        })*
    };
}
as_text!(Backend, FileMode, LogFormat, LogLevel, Period);

/// Defines an enumeration by its texts.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal $(| $alias:literal)*,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }
        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text $(| $alias)* => Ok(Self::$variant),)*
                    _ => Err(format!("{text:?} is none of {}", [$($text),*].join(", "))),
                }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }
    };
}

words! {
    /// How much is logged.
    LogLevel {
        /// What an operator must act on.
        Error = "error" | "fatal" | "panic",
        /// What is wrong but was dealt with.
        Warn = "warn" | "warning",
        /// What happened.
        Info = "info",
        /// How it happened.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

words! {
    /// The form of a line in the log.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// What the metadata lies in.
    Backend {
        /// sled 0.34.
        Sled = "sled",
        /// redb 4.
        Redb = "redb",
    }
}

/// Permissions of a file, in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl FromStr for FileMode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        match u32::from_str_radix(digits, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(format!("{text:?} is no file mode: octal digits up to \"0777\" are")),
        }
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A span of time: numbers with units, `1m30s`, `250ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

/// Units from the longest to the shortest, in nanoseconds.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Period {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
    /// So many milliseconds.
    pub const fn milliseconds(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }
}

impl FromStr for Period {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no period: numbers with units are, as \"1m30s\"");
        let mut nanos: u64 = 0;
        let mut rest = text;
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            let unit = &rest[digits..digits + letters];
            let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
            let part = number.checked_mul(*factor).ok_or_else(bad)?;
            nanos = nanos.checked_add(part).ok_or_else(bad)?;
            rest = &rest[digits + letters..];
        }
        match text.is_empty() {
            true => Err(bad()),
            false => Ok(Self(Duration::from_nanos(nanos))),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nanos = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (name, factor) in UNITS {
            if nanos >= factor {
                write!(f, "{}{name}", nanos / factor)?;
                nanos %= factor;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn periods_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Period>().map(|p| p.0);
        assert_eq!(read("10s").unwrap(), Duration::from_secs(10));
        assert_eq!(read("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(read("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(read("0").unwrap(), Duration::ZERO);
        for bad in ["", "10", "s", "10 s", "-1s", "1d", "99999999999999h", "1sé"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes_are_octal_and_nothing_else() {
        assert_eq!("0660".parse::<FileMode>().unwrap(), FileMode(0o660));
        assert_eq!("0o600".parse::<FileMode>().unwrap().to_string(), "0600");
        for bad in ["", "0888", "7777", "rw"] {
            assert!(bad.parse::<FileMode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn levels_take_containerds_words_too() {
        assert_eq!("fatal".parse::<LogLevel>().unwrap(), LogLevel::Error);
        let text = "loud".parse::<LogLevel>().unwrap_err();
        assert_eq!(text, "\"loud\" is none of error, warn, info, debug, trace");
    }

    proptest! {
        #[test]
        fn a_period_survives_being_written(nanos in any::<u64>()) {
            let period = Period(Duration::from_nanos(nanos));
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        }
    }
}
