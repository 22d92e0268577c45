//! Names, paths, and what is made of them for people.

use understudy_protocol::{DatasetName, MainName, Name, PublicKey, RelPath, escape, shown};

/// What is taken for a name leads nowhere, and what is shown of it does nothing to a terminal.
pub(crate) fn paths(data: &[u8]) {
    is_harmless(&escape(data));
    match Name::new(data) {
        Ok(name) => {
            is_a_name(name.as_bytes());
            assert_eq!(name.as_bytes(), data);
            is_harmless(&name.to_string());
        }
        Err(error) => is_harmless(&error.to_string()),
    }
    match RelPath::new(data) {
        Ok(path) => {
            assert_eq!(path.as_bytes(), data);
            is_harmless(&path.to_string());
            if !data.is_empty() {
                data.split(|&byte| byte == b'/').for_each(is_a_name);
            }
        }
        Err(error) => is_harmless(&error.to_string()),
    }
    is_chosen(DatasetName::fit(data).as_str());
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match DatasetName::new(text) {
        Ok(name) => is_chosen(name.as_str()),
        Err(error) => is_harmless(&error.to_string()),
    }
    match MainName::new(text) {
        Ok(name) => is_chosen(name.as_str()),
        Err(error) => is_harmless(&error.to_string()),
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    let _ = shown::parse_size(text);
}

fn is_a_name(bytes: &[u8]) {
    assert!((1..=255).contains(&bytes.len()));
    assert!(!bytes.contains(&b'/') && !bytes.contains(&0));
    assert!(bytes != b"." && bytes != b"..");
}

fn is_chosen(name: &str) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    assert!((1..=100).contains(&name.len()) && name.chars().all(allowed));
    assert!(!name.starts_with(['.', '_', '-']) && !name.starts_with("understudy."));
}

/// No control character, nothing that changes the direction of a line or breaks it, and nothing invisible.
fn is_harmless(text: &str) {
    for c in text.chars() {
        let is_of_format = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        assert!(!c.is_control() && !is_of_format, "{text:?}");
    }
}

pub(crate) fn paths_seeds() -> Vec<Vec<u8>> {
    let key = PublicKey::from_bytes([7; 32]).to_string();
    let texts = [
        "a",
        "a/b/c",
        "../a",
        "/a",
        "a//b",
        "a/.",
        "site-1.example",
        "understudy.store",
        "20MiB",
        "18446744073709551615GiB",
        "a\u{1b}[31m\r\n\u{202e}\u{2066}\u{200b}b\\",
        &key,
    ];
    let mut seeds: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.push(b"a\xff\xfe\x80/b".to_vec());
    seeds.push(b"d/".repeat(100));
    seeds.push(vec![b'x'; 256]);
    seeds
}
