//! Names of files in a dump, made of the names of tables.

/// A name that would be longer ends with a hash; 55 bytes below the limit of file systems, for whoever adds to it.
const NAME_BYTES: usize = 200;
const HASH_DIGITS: usize = 32;

/// Everything but letters, digits, `_` and `-` as `%` and two digits. A dot is escaped as well: it parts names.
pub(crate) fn escape(name: &[u8]) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => {
                escaped.push(char::from(*byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// A file's name for what is called `stem`: cut and told apart by a hash if it is too long.
pub(crate) fn file_name(stem: &str, suffix: &str) -> String {
    if stem.len() + suffix.len() <= NAME_BYTES {
        return format!("{stem}{suffix}");
    }
    let hash = blake3::hash(stem.as_bytes()).to_hex();
    let kept = NAME_BYTES - suffix.len() - HASH_DIGITS - 1;
    let kept: String = stem.chars().take(kept).collect();
    format!("{kept}~{}{suffix}", &hash[..HASH_DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_whatever_they_are() {
        assert_eq!(escape(b"public"), "public");
        assert_eq!(
            escape("..w\u{e9}ird/%".as_bytes()),
            "%2E%2Ew%C3%A9ird%2F%25"
        );
        assert_eq!(escape(b"\xff\n"), "%FF%0A");
        assert_eq!(file_name("public.t", ".dat"), "public.t.dat");
        let long = |last: char| file_name(&format!("{}{last}", "%D0%B6".repeat(60)), ".dat");
        assert_eq!(long('a').len(), 200);
        assert_ne!(long('a'), long('b'));
        assert!(long('a').ends_with(".dat"));
    }
}
