#![expect(
    clippy::disallowed_methods,
    reason = "people edit the files by any means"
)]

use super::*;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn store() -> (tempfile::TempDir, Trust) {
    let scratch = tempfile::tempdir().expect("scratch");
    let trust = Trust::open_or_create(scratch.path()).expect("trust");
    (scratch, trust)
}

fn key() -> PublicKey {
    SecretKey::generate().expect("key").public()
}

fn name(text: &str) -> MainName {
    text.parse().expect("name")
}

fn welcome(main: &str, replaced: bool) -> Result<Welcome, Refusal> {
    Ok(Welcome {
        main: name(main),
        replaced,
    })
}

#[test]
fn a_code_binds_one_key_to_its_name_and_no_second_one() {
    let (scratch, trust) = store();
    let (first, second) = (key(), key());
    assert!(Trust::open(scratch.path()).expect("open").is_some());
    let made = trust.new_code(&name("web"), HOUR).expect("code");
    assert!(made.replaces.is_none());
    assert_eq!(trust.open_codes().expect("codes").len(), 1);
    let secret = made.code.secret();
    assert_eq!(trust.recognise(&first), None);
    assert_eq!(trust.redeem(secret, &first), welcome("web", false));
    assert_eq!(trust.recognise(&first), Some(name("web")));
    assert_eq!(trust.redeem(secret, &second), Err(Refusal::Used));
    assert_eq!(trust.recognise(&second), None);
    assert!(trust.open_codes().expect("codes").is_empty());
    // The answer may have been lost on its way.
    assert_eq!(trust.redeem(secret, &first), welcome("web", false));
}

#[test]
fn codes_that_are_wrong_old_or_dropped_bind_nobody() {
    let (scratch, trust) = store();
    let (_elsewhere, other) = store();
    let foreign = other.new_code(&name("web"), HOUR).expect("code");
    assert_eq!(
        trust.redeem(foreign.code.secret(), &key()),
        Err(Refusal::Unknown)
    );

    let replaced = trust.new_code(&name("web"), HOUR).expect("code");
    let old = trust.new_code(&name("web"), HOUR).expect("code");
    assert_eq!(
        trust.redeem(replaced.code.secret(), &key()),
        Err(Refusal::Unknown)
    );
    let codes = scratch.path().join("understudy.trust/codes.toml");
    let text = std::fs::read_to_string(&codes).expect("codes");
    let (until, past) = (old.until.to_string(), Timestamp::now() - HOUR);
    std::fs::write(&codes, text.replace(&until, &past.to_string())).expect("age");
    assert_eq!(
        trust.redeem(old.code.secret(), &key()),
        Err(Refusal::Expired)
    );
    assert!(trust.mains().expect("mains").is_empty());
    assert!(
        !text.contains(&*old.code.to_text())
            && !text.contains(&old.code.to_text().replace('-', ""))
    );
}

/// One that was made while the clock of the spare was ahead would be good for as long as it was.
#[test]
fn a_code_that_was_made_in_the_future_is_not_good() {
    let (scratch, trust) = store();
    let made = trust.new_code(&name("web"), HOUR).expect("code");
    let codes = scratch.path().join("understudy.trust/codes.toml");
    let text = std::fs::read_to_string(&codes).expect("codes");
    let line = |text: &str, name: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with(name));
        lines.next().expect("line").to_owned()
    };
    let ahead = |by: Duration| {
        let now = Timestamp::now() + by;
        let text = text.replace(&line(&text, "made"), &format!("made = \"{now}\""));
        text.replace(
            &line(&text, "until"),
            &format!("until = \"{}\"", now + HOUR),
        )
    };
    let without = text.replace(&line(&text, "made"), "");
    for text in [ahead(6 * HOUR), ahead(HOUR / 6), without] {
        std::fs::write(&codes, text).expect("edited");
        let redeemed = trust.redeem(made.code.secret(), &key());
        assert_eq!(redeemed, Err(Refusal::Expired));
        assert!(trust.open_codes().expect("codes").is_empty());
    }
    // A clock that is put right by little harms nobody.
    std::fs::write(&codes, ahead(HOUR / 30)).expect("edited");
    let redeemed = trust.redeem(made.code.secret(), &key());
    assert_eq!(redeemed, welcome("web", false));
    // None is left beside the next one of its name.
    trust.new_code(&name("db"), HOUR).expect("code");
    let text = std::fs::read_to_string(&codes).expect("codes");
    let former = line(&text, "digest");
    let made = text
        .lines()
        .rfind(|line| line.starts_with("made"))
        .expect("made");
    let text = text.replace(made, "made = \"2999-01-01T00:00:00Z\"");
    let until = text
        .lines()
        .rfind(|line| line.starts_with("until"))
        .expect("until");
    let text = text.replace(until, "until = \"2999-01-01T01:00:00Z\"");
    std::fs::write(&codes, &text).expect("edited");
    trust.new_code(&name("db"), HOUR).expect("code");
    let text = std::fs::read_to_string(&codes).expect("codes");
    assert!(!text.contains("2999") && text.contains(&former), "{text}");
}

#[test]
fn a_main_is_given_another_key() {
    let (_scratch, trust) = store();
    let (first, second) = (key(), key());
    let made = trust.new_code(&name("web"), HOUR).expect("code");
    trust.redeem(made.code.secret(), &first).expect("paired");
    let again = trust.new_code(&name("web"), HOUR).expect("code");
    assert_eq!(again.replaces.expect("main").key, first);
    assert_eq!(
        trust.recognise(&first),
        Some(name("web")),
        "until the code is used"
    );
    assert_eq!(
        trust.redeem(again.code.secret(), &second),
        welcome("web", true)
    );
    assert_eq!(trust.recognise(&first), None);
    let main = trust.main(&name("web")).expect("read").expect("main");
    assert_eq!(main.key, second);
}

#[test]
fn a_key_has_one_name() {
    let (_scratch, trust) = store();
    let first = key();
    for (main, expected) in [
        ("web", welcome("web", false)),
        ("db", Err(Refusal::KnownAs(name("web")))),
    ] {
        let made = trust.new_code(&name(main), HOUR).expect("code");
        assert_eq!(trust.redeem(made.code.secret(), &first), expected);
    }
    trust.revoke(&name("web")).expect("revoked");
    assert_eq!(trust.recognise(&first), None);
    let unknown = trust.revoke(&name("web")).expect_err("gone").to_string();
    assert!(unknown.contains("`web`"), "{unknown}");
}

#[test]
fn revoking_makes_open_codes_useless() {
    let (_scratch, trust) = store();
    let first = trust.new_code(&name("web"), HOUR).expect("code");
    trust.redeem(first.code.secret(), &key()).expect("paired");
    let second = trust.new_code(&name("web"), HOUR).expect("code");
    let gone = trust.revoke(&name("web")).expect("revoked");
    assert_eq!((gone.main.is_some(), gone.codes), (true, 1));
    assert_eq!(
        trust.redeem(second.code.secret(), &key()),
        Err(Refusal::Unknown)
    );
}

#[test]
fn a_code_is_revoked_of_which_no_main_came_or_can_be_read() {
    let (scratch, trust) = store();
    let made = trust.new_code(&name("web"), HOUR).expect("code");
    assert!(trust.revoke(&name("db")).is_err());
    let gone = trust.revoke(&name("web")).expect("revoked");
    assert_eq!(gone.main, None);
    assert_eq!(gone.codes, 1);
    let redeemed = trust.redeem(made.code.secret(), &key());
    assert_eq!(redeemed, Err(Refusal::Unknown));
    assert!(trust.revoke(&name("web")).is_err());

    trust.new_code(&name("web"), HOUR).expect("code");
    let mains = scratch.path().join("understudy.trust/mains.toml");
    std::fs::write(&mains, "nonsense").expect("edited");
    assert!(trust.revoke(&name("web")).is_err());
    assert!(trust.open_codes().expect("codes").is_empty());
}

#[test]
fn a_list_that_cannot_be_read_lets_nobody_in_until_it_can() {
    let (scratch, trust) = store();
    let first = key();
    let made = trust.new_code(&name("web"), HOUR).expect("code");
    trust.redeem(made.code.secret(), &first).expect("paired");
    let mains = scratch.path().join("understudy.trust/mains.toml");
    let text = std::fs::read_to_string(&mains).expect("mains");
    for (wrong, word) in [
        (format!("{text}coler = 1\n"), "coler"),
        // Limits are in the receiver's configuration; here nothing would keep them.
        (format!("{text}quota_bytes = 1000\n"), "quota_bytes"),
        (text.replace("web", "We b"), "We b"),
        (format!("{text}{text}"), "web"),
        (format!("{text}{}", text.replace("web", "db")), "same key"),
        ("[[main]]\nname = \"x\"\n".to_owned(), "key"),
    ] {
        std::fs::write(&mains, &wrong).expect("edited");
        assert_eq!(trust.recognise(&first), None, "{wrong}");
        let error = trust.mains().expect_err("unreadable").to_string();
        assert!(
            error.contains(word) && error.contains("mains.toml"),
            "{error}"
        );
        assert!(trust.new_code(&name("db"), HOUR).is_err());
    }
    std::fs::write(&mains, text).expect("mended");
    assert_eq!(trust.recognise(&first), Some(name("web")));
    std::fs::remove_file(&mains).expect("removed");
    assert_eq!(trust.recognise(&first), None);
}
