//! How a table of settings is defined: names, defaults and comments in one place.
//!
//! The macro [`settings!`](settings) turns a struct with a default per field into the struct, its
//! `Default`, its serde and the list of its [`Key`]s. A field of a type that is itself such a
//! struct becomes a TOML table; every other type must be a [`Setting`] that is a value.

/// What stands behind a key.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A single value.
    Value,
    /// A table with these keys.
    Table(&'static [Key]),
}

/// One key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its doc comment, line by line, each with the space that follows `///`.
    pub doc: &'static [&'static str],
    /// What stands behind it.
    pub shape: Shape,
}

/// A type that can stand behind a key.
pub trait Setting {
    /// Value or table.
    const SHAPE: Shape;
}

macro_rules! values {
    ($($kind:ty),* $(,)?) => {
        $(impl Setting for $kind {
            const SHAPE: Shape = Shape::Value;
        })*
    };
}

values!(
    bool,
    f64,
    u32,
    u64,
    String,
    std::path::PathBuf,
    super::value::Backend,
    super::value::FileMode,
    super::value::LogFormat,
    super::value::LogLevel,
    super::value::Period,
);

/// Defines a table of settings; see the module.
macro_rules! settings {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                pub $field:ident: $kind:ty = $default:expr,
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                pub $field: $kind,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::settings::Setting for $name {
            const SHAPE: $crate::config::settings::Shape =
                $crate::config::settings::Shape::Table(&[
                    $($crate::config::settings::Key {
                        name: stringify!($field),
                        doc: &[$($doc),*],
                        shape: <$kind as $crate::config::settings::Setting>::SHAPE,
                    },)*
                ]);
        }
    };
}
pub(crate) use settings;
