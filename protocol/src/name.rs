//! Names that cannot be dangerous: parsed once, decoded only through their constructor.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::bytes::BytesVisitor;
use crate::limits;

/// One component of a path: 1 to 255 bytes, no slash, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks and takes the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, InvalidName> {
        let bytes = bytes.into();
        let reason = match bytes.as_slice() {
            [] => "it is empty",
            b"." | b".." => "it leads elsewhere",
            name if name.len() > limits::NAME_BYTES => "it is longer than 255 bytes",
            name if name.contains(&b'/') => "it holds a slash",
            name if name.contains(&0) => "it holds a NUL",
            _ => return Ok(Self(bytes.into_boxed_slice())),
        };
        Err(InvalidName {
            name: escape(&bytes[..bytes.len().min(300)]),
            reason,
        })
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as the operating system takes it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_bytes(BytesVisitor)?;
        Self::new(bytes).map_err(de::Error::custom)
    }
}

/// The bytes are no file name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` cannot be a file name: {reason}")]
pub struct InvalidName {
    /// The refused bytes, escaped.
    pub name: String,
    reason: &'static str,
}

/// What the names of a store's own files begin with.
const RESERVED: &str = "understudy.";

/// Names that people choose for what they see again in paths, commands and logs.
macro_rules! chosen_names {
    ($(#[$about:meta])* $name:ident, $invalid:ident, $what:literal) => {
        $(#[$about])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks and takes the text.
            pub fn new(text: impl Into<String>) -> Result<Self, $invalid> {
                let text = text.into();
                if can_be_chosen(&text) {
                    Ok(Self(text))
                } else {
                    Err($invalid(escape(text.as_bytes())))
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = $invalid;

            fn from_str(text: &str) -> Result<Self, $invalid> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }

        /// The text is no such name.
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error(
            "`{0}` cannot name {what}: use 1 to 100 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit, \
             but not with `understudy.`",
            what = $what
        )]
        pub struct $invalid(String);
    };
}

fn is_letter_or_digit(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn can_be_chosen(text: &str) -> bool {
    text.len() <= limits::DATASET_NAME_BYTES
        && text.starts_with(is_letter_or_digit)
        && !text.starts_with(RESERVED)
        && text
            .chars()
            .all(|c| is_letter_or_digit(c) || matches!(c, '.' | '_' | '-'))
}

chosen_names! {
    /// The name of a dataset: `[a-z0-9][a-z0-9._-]*`, at most 100 bytes, not beginning with `understudy.`.
    DatasetName,
    InvalidDatasetName,
    "a dataset"
}

chosen_names! {
    /// The name that a spare knows a main by: as a [`DatasetName`].
    MainName,
    InvalidMainName,
    "a main"
}

impl DatasetName {
    /// Makes a directory's name fit: lower case, everything else becomes `-`. Falls back to `dataset`.
    pub fn fit(directory: &[u8]) -> Self {
        let text: String = String::from_utf8_lossy(directory)
            .to_lowercase()
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        let mut text = text
            .trim_matches(|c: char| !c.is_ascii_alphanumeric())
            .to_owned();
        text.truncate(limits::DATASET_NAME_BYTES);
        Self::new(text).unwrap_or_else(|_| Self("dataset".to_owned()))
    }
}

/// Bytes made safe for logs and terminals: control characters, and those that steer how a line is shown or are not
/// seen at all, as `\u{N}`, bytes that are not UTF-8 as `\xNN`, a backslash doubled.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if is_harmful(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A text of which parts may be escaped already, made safe for one line of a log or terminal. What [`escape`] gave stays as it is.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Whether a terminal does something else with a character than show it: it is a control character, it breaks the line or turns its
/// direction, or it cannot be seen.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", &[b'x'; 256]] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
            let encoded = postcard::to_stdvec(&crate::Bytes::from(bad)).expect("encode");
            assert!(
                postcard::from_bytes::<Name>(&encoded).is_err(),
                "decoded {bad:?}"
            );
        }
        for good in [&b"a"[..], b"...", b"\xff\n", &[b'x'; 255]] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn dataset_names_fit_or_are_refused() {
        for bad in [
            "",
            "A",
            "-a",
            ".a",
            "a/b",
            "a b",
            "é",
            "understudy.store",
            &"a".repeat(101),
        ] {
            assert!(DatasetName::new(bad).is_err(), "{bad}");
        }
        assert_eq!(
            DatasetName::fit(b"My Photos (2026)").as_str(),
            "my-photos--2026"
        );
        assert_eq!(DatasetName::fit(b"///").as_str(), "dataset");
        assert_eq!(DatasetName::fit(&[b'A'; 300]).as_str().len(), 100);
    }

    #[test]
    fn escaped_names_hold_no_control_characters() {
        assert_eq!(escape(b"a\n\x1b[31m\xff\\"), "a\\u{a}\\u{1b}[31m\\xff\\\\");
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        let turned = "a\u{202e}txt.exe\u{2066}\u{200b}\u{85}\u{9b}\u{feff}\u{2028}";
        let escaped = escape(turned.as_bytes());
        assert!(!escaped.contains(is_harmful), "{escaped}");
        assert!(
            escaped.starts_with("a\\u{202e}txt.exe\\u{2066}"),
            "{escaped}"
        );
        assert_eq!(harmless(turned), escaped);
        // Once is enough.
        let all = escape(b"\\ \xff \n \xe2\x80\xae");
        assert_eq!(harmless(&all), all);
        assert_eq!(harmless("caf\u{e9} \u{1f600} \\"), "caf\u{e9} \u{1f600} \\");
    }
}
