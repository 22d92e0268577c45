//! What documents say of tests is true: each test that is named exists.

use std::collections::HashSet;
use std::path::Path;

const DOCUMENTS: [&str; 2] = ["docs/security.md", "docs/safety.md"];

#[test]
fn tests_that_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = HashSet::new();
    collect(root, &mut known);
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let named = text.split('`').skip(1).step_by(2);
        for name in named.filter(|name| looks_like_a_test(name)) {
            let last = name.rsplit("::").next().unwrap();
            if !known.contains(last) {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "no such tests:\n{}", missing.join("\n"));
}

/// Whether the text is the name of a test: words with underscores between, perhaps after modules.
fn looks_like_a_test(text: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
    let last = text.rsplit("::").next().unwrap_or(text);
    text.chars().all(is_of_name) && last.matches('_').count() >= 3
}

/// The names of all functions in the sources below: tests are among them.
fn collect(directory: &Path, known: &mut HashSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                collect(&path, known);
            }
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim_start) {
                is_test |=
                    line.starts_with("#[") && line.contains("test") && !line.contains("cfg(");
                let name = line.trim_start_matches("async ").strip_prefix("fn ");
                if let Some(name) = name.filter(|_| is_test) {
                    known.insert(name.split('(').next().unwrap().to_owned());
                    is_test = false;
                }
            }
        }
    }
}
