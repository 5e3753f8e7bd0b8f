//! Enums that have one name each, in the database and in sentences.

/// A text that names no value of the enum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no {kind}")]
pub struct UnknownName {
    pub kind: &'static str,
    pub text: String,
}

/// Gives an enum `ALL`, `as_str`, `Display` and `FromStr`.
macro_rules! named {
    ($name:ident, $kind:literal, { $($variant:ident => $text:literal),+ $(,)? }) => {
        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The name in the database.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::core::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $name::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| {
                    $crate::core::UnknownName { kind: $kind, text: text.to_owned() }
                })
            }
        }
    };
}

pub(crate) use named;
