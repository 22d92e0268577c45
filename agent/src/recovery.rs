//! The recovery kit: what a new machine needs to restore as the main that is gone, as a text to print on paper and to type in again.
//!
//! Every line that counts ends with a check of its own, so that a slip of the pen is found in its line.

use std::fmt::Write;

use data_encoding::BASE32_NOPAD;
use understudy_protocol::{MainName, PublicKey, SecretKey, escape};
use zeroize::Zeroizing;

use crate::identity::KnownSpare;

/// What the text begins with.
const FIRST: &str = "understudy recovery kit 1";
const PURPOSE: &str = "understudy 2026-11 recovery kit v1";
/// Letters of a check: 20 bits.
const CHECK: usize = 4;
/// Letters of a key in one line.
const LINE: usize = 26;
const GROUP: usize = 5;
/// Far more than any kit takes.
const LINES: usize = 10_000;

/// Everything in a recovery kit.
#[derive(Debug)]
pub struct RecoveryKit {
    /// The main's key.
    pub key: SecretKey,
    /// The spares that know it.
    pub spares: Vec<KnownSpare>,
}

/// Why a text is no recovery kit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// A line is not as it was printed.
    #[error("line {line} of the recovery kit is not as it was printed: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Lines are missing.
    #[error("the recovery kit is not complete: {0}")]
    Incomplete(String),
}

impl RecoveryKit {
    /// The text: a secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!("{FIRST}\n"));
        let mut add = |label: &str, value: &str| {
            let check = check(label, value);
            // Writing into memory does not fail.
            let _ = writeln!(text, "{label}: {value}  [{check}]");
        };
        add_key(&mut add, "secret", &self.key.to_text());
        for (number, spare) in self.spares.iter().enumerate() {
            let label = format!("spare-{}", number + 1);
            add(&format!("{label}-address"), &spare.address);
            add(&format!("{label}-main"), spare.main.as_str());
            add_key(&mut add, &format!("{label}-key"), &spare.key.to_string());
        }
        add("end", &format!("{} spares", self.spares.len()));
        text
    }

    /// Reads the text again. Empty lines and lines that begin with `#` may be left out; spaces and the case of letters do not matter, and
    /// digits that no key has are read as the letters they look like.
    pub fn from_text(text: &str) -> Result<Self, RecoveryError> {
        let mut lines = Lines::parse(text)?;
        let secret = lines.key("secret")?;
        let key =
            SecretKey::from_text(&secret).map_err(|_| incomplete("the secret key is none"))?;
        let mut spares = Vec::new();
        while lines.has(&format!("spare-{}-address", spares.len() + 1)) {
            let label = format!("spare-{}", spares.len() + 1);
            let address = lines.value(&format!("{label}-address"))?;
            let main: MainName = lines
                .value(&format!("{label}-main"))?
                .parse()
                .map_err(|_| incomplete("a name of the main is none"))?;
            let key: PublicKey = lines
                .key(&format!("{label}-key"))?
                .parse()
                .map_err(|_| incomplete("the key of a spare is none"))?;
            spares.push(KnownSpare { address, key, main });
        }
        let end = lines.value("end")?;
        if end != format!("{} spares", spares.len()) {
            return Err(incomplete(&format!(
                "it ends with `{}`",
                escape(end.as_bytes())
            )));
        }
        lines.end()?;
        Ok(Self { key, spares })
    }
}

/// A key takes two lines.
fn add_key(add: &mut impl FnMut(&str, &str), label: &str, key: &str) {
    for (number, part) in key.as_bytes().chunks(LINE).enumerate() {
        let groups = part.chunks(GROUP).map(String::from_utf8_lossy);
        let value = Zeroizing::new(groups.collect::<Vec<_>>().join(" "));
        add(&format!("{label}-{}", number + 1), &value);
    }
}

/// The check of a line: over its label, and its value without spaces, whatever the case.
fn check(label: &str, value: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(PURPOSE);
    for part in [label, &value.replace(' ', "")] {
        hasher.update(part.to_ascii_lowercase().as_bytes());
        hasher.update(&[0]);
    }
    let letters = BASE32_NOPAD.encode(&hasher.finalize().as_bytes()[..5]);
    letters[..CHECK].to_ascii_lowercase()
}

/// What a person takes for a letter of base32, and what it was.
fn likely(text: &str) -> String {
    let letter = |c: char| match c.to_ascii_lowercase() {
        '0' => 'o',
        '1' => 'l',
        '8' => 'b',
        other => other,
    };
    text.chars().map(letter).collect()
}

fn incomplete(reason: &str) -> RecoveryError {
    RecoveryError::Incomplete(reason.to_owned())
}

/// Labels and values that were right by their checks, in order.
struct Lines(std::collections::VecDeque<(usize, String, Zeroizing<String>)>);

impl Lines {
    fn parse(text: &str) -> Result<Self, RecoveryError> {
        let lines = text.lines().enumerate().take(LINES);
        let mut lines = lines
            .map(|(number, line)| (number + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        match lines.next() {
            Some((_, first)) if first.eq_ignore_ascii_case(FIRST) => {}
            Some((line, _)) => {
                let reason = format!("a recovery kit begins with `{FIRST}`");
                return Err(RecoveryError::Line { line, reason });
            }
            None => return Err(incomplete("there is nothing in it")),
        }
        let parsed: Result<_, _> = lines
            .map(|(number, line)| {
                let (label, value) = parse(line).map_err(|reason| RecoveryError::Line {
                    line: number,
                    reason: reason.to_owned(),
                })?;
                Ok((number, label, value))
            })
            .collect();
        parsed.map(Self)
    }

    fn has(&self, label: &str) -> bool {
        self.0.front().is_some_and(|(_, found, _)| found == label)
    }

    /// The value of the next line, which must have this label.
    fn value(&mut self, label: &str) -> Result<String, RecoveryError> {
        match self.0.pop_front() {
            // Nothing in it is told apart by case.
            Some((_, found, value)) if found == label => Ok(value.to_ascii_lowercase()),
            Some((line, _, _)) => {
                let reason = format!("`{label}` should be there");
                Err(RecoveryError::Line { line, reason })
            }
            None => Err(incomplete(&format!("`{label}` is missing"))),
        }
    }

    fn key(&mut self, label: &str) -> Result<Zeroizing<String>, RecoveryError> {
        let mut key = Zeroizing::new(String::new());
        for number in 1..=2 {
            let part = Zeroizing::new(self.value(&format!("{label}-{number}"))?);
            key.push_str(&part.replace(' ', ""));
        }
        Ok(key)
    }

    fn end(&self) -> Result<(), RecoveryError> {
        match self.0.front() {
            None => Ok(()),
            Some((line, _, _)) => Err(RecoveryError::Line {
                line: *line,
                reason: "the kit has ended before".to_owned(),
            }),
        }
    }
}

/// Label and value of a line, if its check is right.
fn parse(line: &str) -> Result<(String, Zeroizing<String>), &'static str> {
    let (label, rest) = line
        .split_once(':')
        .ok_or("it has no `:` after its first word")?;
    let (value, told) = rest
        .trim()
        .strip_suffix(']')
        .and_then(|rest| rest.rsplit_once('['))
        .ok_or("it has no check in `[ ]` at its end")?;
    let label = label.trim().to_ascii_lowercase();
    let told = likely(told.trim());
    let value = Zeroizing::new(value.trim().to_owned());
    if check(&label, &value) == told {
        return Ok((label, value));
    }
    // Digits that look like letters; an address or a name may have them.
    let value = Zeroizing::new(likely(&value));
    if check(&label, &value) == told {
        return Ok((label, value));
    }
    Err("its check is another: compare it letter by letter with the paper")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kit(spares: u8) -> RecoveryKit {
        RecoveryKit {
            key: SecretKey::from_seed(&[9; 32]).expect("key"),
            spares: (0..spares).map(spare).collect(),
        }
    }

    fn spare(seed: u8) -> KnownSpare {
        KnownSpare {
            address: format!("spare{seed}.example:7433"),
            key: SecretKey::from_seed(&[seed; 32]).expect("key").public(),
            main: "web1".parse().expect("name"),
        }
    }

    fn assert_same(read: &RecoveryKit, kit: &RecoveryKit) {
        assert_eq!(read.key.public(), kit.key.public());
        assert_eq!(read.spares, kit.spares);
    }

    #[test]
    fn a_kit_is_read_back_however_it_was_typed() {
        for spares in [0, 1, 3] {
            let kit = kit(spares);
            let text = kit.to_text();
            assert_same(&RecoveryKit::from_text(&text).expect("read"), &kit);
            let shouted = text
                .to_ascii_uppercase()
                .replace('\n', "\r\n\n# said somebody\n");
            assert_same(&RecoveryKit::from_text(&shouted).expect("read"), &kit);
            let dense: Vec<String> = text
                .lines()
                .map(|line| match line.starts_with("secret") {
                    true => line.replace(' ', "").replace('o', "0").replace('b', "8"),
                    false => line.to_owned(),
                })
                .collect();
            assert_same(
                &RecoveryKit::from_text(&dense.join("\n")).expect("read"),
                &kit,
            );
        }
    }

    #[test]
    fn each_slip_of_the_pen_is_found_in_its_line() {
        let text = kit(2).to_text();
        let mut found = 0;
        for (number, line) in text.lines().enumerate().skip(1) {
            for at in 0..line.len() {
                let mut wrong: Vec<u8> = line.bytes().collect();
                if wrong[at] == b' ' || wrong[at] == b'[' || wrong[at] == b']' {
                    continue;
                }
                wrong[at] = if wrong[at] == b'x' { b'y' } else { b'x' };
                let wrong = String::from_utf8(wrong).expect("text");
                let mut lines: Vec<&str> = text.lines().collect();
                lines[number] = &wrong;
                let error = RecoveryKit::from_text(&lines.join("\n")).expect_err("wrong");
                let RecoveryError::Line { line, .. } = error else {
                    unreachable!("{error}")
                };
                assert_eq!(line, number + 1);
                found += 1;
            }
        }
        assert!(found > 300, "{found}");
    }

    #[test]
    fn lines_that_are_missing_exchanged_or_too_many_are_told() {
        let text = kit(2).to_text();
        let lines: Vec<&str> = text.lines().collect();
        for number in 0..lines.len() {
            let mut less = lines.clone();
            less.remove(number);
            assert!(
                RecoveryKit::from_text(&less.join("\n")).is_err(),
                "{number}"
            );
            let mut more = lines.clone();
            more.insert(number, lines[number]);
            assert!(
                RecoveryKit::from_text(&more.join("\n")).is_err(),
                "{number}"
            );
            if number > 0 {
                let mut exchanged = lines.clone();
                exchanged.swap(number - 1, number);
                assert!(
                    RecoveryKit::from_text(&exchanged.join("\n")).is_err(),
                    "{number}"
                );
            }
        }
        assert!(RecoveryKit::from_text("").is_err());
    }

    #[test]
    fn a_kit_is_short_enough_to_be_typed() {
        let text = kit(1).to_text();
        assert!(text.lines().count() <= 8 && text.lines().all(|line| line.len() < 60));
    }

    #[test]
    fn its_secret_is_not_shown_by_accident() {
        let shown = format!("{:?}", kit(1));
        let text = kit(1).to_text();
        let secret = text
            .lines()
            .nth(1)
            .expect("secret")
            .split(' ')
            .nth(1)
            .expect("group");
        assert!(!shown.contains(secret), "{shown}");
    }
}
