//! Words of a command line, taken apart and put together as a shell does, without a shell.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What only a shell could do something with, and so is refused where it is not quoted.
const FOR_SHELLS: &[u8] = b"$`|&;<>()*?[]#\n";

/// Splits at spaces; quotes and backslashes work as in a shell, and nothing is expanded. An error says what is wrong.
pub(crate) fn split(line: &OsStr) -> Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.as_bytes().iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => words.extend(word.take().map(OsString::from_vec)),
            b'\'' => quoted(&mut bytes, word.get_or_insert_default())?,
            b'"' => quoted_twice(&mut bytes, word.get_or_insert_default())?,
            b'\\' => {
                let next = bytes.next().ok_or("it ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            byte if FOR_SHELLS.contains(&byte) => {
                return Err(format!(
                    "no shell reads it, so `{}` must be quoted to mean itself",
                    byte.escape_ascii()
                ));
            }
            byte => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word.map(OsString::from_vec));
    Ok(words)
}

/// Until the next `'`.
fn quoted(bytes: &mut impl Iterator<Item = u8>, word: &mut Vec<u8>) -> Result<(), String> {
    for byte in bytes {
        if byte == b'\'' {
            return Ok(());
        }
        word.push(byte);
    }
    Err("a `'` is not closed".to_owned())
}

/// Until the next `"`.
fn quoted_twice(bytes: &mut impl Iterator<Item = u8>, word: &mut Vec<u8>) -> Result<(), String> {
    let unclosed = "a `\"` is not closed";
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return Ok(()),
            b'\\' => match bytes.next().ok_or(unclosed)? {
                next @ (b'"' | b'\\' | b'$' | b'`') => word.push(next),
                next => word.extend([b'\\', next]),
            },
            b'$' | b'`' => {
                return Err(format!(
                    "no shell reads it, so `{}` must be quoted by a backslash or `'` to mean itself",
                    char::from(byte)
                ));
            }
            byte => word.push(byte),
        }
    }
    Err(unclosed.to_owned())
}

/// The word as a POSIX shell takes it for one.
pub(crate) fn quote(word: &OsStr) -> OsString {
    let bytes = word.as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,:=@%".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return word.to_owned();
    }
    let mut quoted = vec![b'\''];
    for &byte in bytes {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            byte => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

/// The words as one line for a shell.
pub(crate) fn join<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> OsString {
    let mut line = OsString::new();
    for word in words {
        if !line.is_empty() {
            line.push(" ");
        }
        line.push(quote(word));
    }
    line
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn words(line: &str) -> Result<Vec<String>, String> {
        let words = split(OsStr::new(line))?;
        Ok(words
            .into_iter()
            .map(|word| word.into_string().expect("text"))
            .collect())
    }

    #[test]
    fn words_are_those_of_a_shell() {
        for line in [
            "ssh",
            "  ssh  -i key ",
            "ssh -i '/a key' -o \"ProxyCommand=nc -X 5 %h %p\"",
            "a\\ b 'it'\\''s' \"say \\\"x\\\" \\n \\\\ \\$\" '' \"\"",
            "'a'\"b\"c\t-o=\"\"",
        ] {
            let output = Command::new("sh")
                .args(["-c", &format!("printf '%s\\0' {line}")])
                .output()
                .expect("sh");
            let expected = String::from_utf8(output.stdout).expect("text");
            let expected: Vec<&str> = expected
                .strip_suffix('\0')
                .expect("end")
                .split('\0')
                .collect();
            assert_eq!(words(line).expect(line), expected, "{line}");
        }
        assert!(words(" \t ").expect("nothing").is_empty());
    }

    #[test]
    fn what_takes_a_shell_is_refused() {
        for (line, word) in [
            ("ssh -i $HOME/key", "`$`"),
            ("ssh -i \"$HOME/key\"", "`$`"),
            ("ssh `id`", "quoted"),
            ("ssh; id", "`;`"),
            ("ssh | tee", "`|`"),
            ("ssh 'x", "not closed"),
            ("ssh \"x", "not closed"),
            ("ssh \"x\\", "not closed"),
            ("ssh \\", "backslash"),
            ("ssh\nid", "`\\n`"),
        ] {
            let error = words(line).expect_err(line);
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn a_quoted_word_is_one_word_of_a_shell_and_of_ours() {
        let all: Vec<u8> = (1..=255).collect();
        for word in [
            &b"/srv/spare"[..],
            b"",
            b"-n",
            b"it's; $(id) `id` \"x\" \\ *\n~",
            &all,
        ] {
            let word = OsStr::from_bytes(word);
            let quoted = quote(word);
            assert_eq!(split(&quoted).expect("words"), [word]);
            let mut script = OsString::from("printf '%s.' ");
            script.push(&quoted);
            let output = Command::new("sh")
                .arg("-c")
                .arg(script)
                .output()
                .expect("sh");
            assert_eq!(output.stdout, [word.as_bytes(), b"."].concat());
        }
        let line = join(["understudy", "--store", "/a b"].map(OsStr::new));
        assert_eq!(line, "understudy --store '/a b'");
    }
}
