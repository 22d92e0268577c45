//! What the engine writes the name of its database before, in statements that do not name it otherwise: sequences in defaults, and functions in
//! views. Loaded under another name they would be those of the former database.

/// Takes what follows as a sequence.
const SEQUENCES: [&str; 3] = ["nextval(", "lastval(", "setval("];

/// The same statements, in which sequences and functions of the database `from` are those of `to`. A text, a comment, and a column of a table
/// that is called as the database stay.
pub(super) fn renamed(statements: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (from, to) = (super::identifier(from), super::identifier(to));
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut renamed = Vec::with_capacity(statements.len());
    let mut rest = statements;
    while let Some(first) = rest.first() {
        let length = match first {
            b'\'' | b'"' => quoted(rest, true),
            b'`' => quoted(rest, false),
            b'-' if rest.starts_with(b"-- ") => line(rest),
            _ => 1,
        };
        let (token, after) = rest.split_at(length);
        let is_own = token == from && is_of_engine(&renamed, after);
        renamed.extend_from_slice(if is_own { to } else { token });
        rest = after;
    }
    renamed
}

/// Whether what is between, the name of a database, was written by the engine before a sequence or a function.
fn is_of_engine(before: &[u8], after: &[u8]) -> bool {
    let Some(name) = after.strip_prefix(b".") else {
        return false;
    };
    if name.first() != Some(&b'`') {
        return false;
    }
    let is_function = name[quoted(name, false)..].first() == Some(&b'(');
    let start = before.len().saturating_sub("nextval(".len());
    let before = String::from_utf8_lossy(&before[start..]).to_ascii_lowercase();
    is_function || SEQUENCES.iter().any(|word| before.ends_with(word))
}

/// The length of what is quoted, with its quotes; two of them within it are one that is meant.
fn quoted(text: &[u8], has_escapes: bool) -> usize {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        at += match byte {
            b'\\' if has_escapes => 2,
            _ if *byte != text[0] => 1,
            _ if text.get(at + 1) == Some(byte) => 2,
            _ => return at + 1,
        };
    }
    text.len()
}

fn line(text: &[u8]) -> usize {
    let end = text.iter().position(|byte| *byte == b'\n');
    end.map_or(text.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_engine_wrote_is_renamed() {
        for (before, after) in [
            ("DEFAULT nextval(`a`.`s`)", "DEFAULT nextval(`b``c`.`s`)"),
            (
                "select `a`.`f`(1) AS `x`,`a`.`y` from `a`",
                "select `b``c`.`f`(1) AS `x`,`a`.`y` from `a`",
            ),
            (
                "'nextval(`a`.`s`)' \"`a`.`f`(\" 'it\\'s `a`.`f`('",
                "'nextval(`a`.`s`)' \"`a`.`f`(\" 'it\\'s `a`.`f`('",
            ),
            (
                "-- it's `a`.`f`(\nNEXTVAL(`a`.`s`)",
                "-- it's `a`.`f`(\nNEXTVAL(`b``c`.`s`)",
            ),
            ("nextval(`aa`.`a`) `a", "nextval(`aa`.`a`) `a"),
            ("`x``a`.`f`() `a`.f()", "`x``a`.`f`() `a`.f()"),
        ] {
            let renamed = renamed(before.as_bytes(), "a", "b`c");
            assert_eq!(String::from_utf8_lossy(&renamed), after);
        }
    }
}
