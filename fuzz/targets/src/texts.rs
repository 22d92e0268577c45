//! Texts that people write and files that they edit: configurations, codes for pairing, recovery kits, whom either side knows; and what
//! a main has signed.

use std::path::Path;

use understudy_agent::RecoveryKit;
use understudy_agent::config::Config;
use understudy_agent::identity::{Identity, KnownSpare};
use understudy_protocol::transport::pairing::Code;
use understudy_protocol::{
    ContentHash, Fingerprint, PublicKey, SecretKey, SignedStatement, Statement, is_harmful,
};
use understudy_receiver::trust::Trust;

use crate::choices::Choices;
use crate::{samples, scratch};

/// A configuration is taken or refused, and what is said of it is of use.
pub(crate) fn configurations(data: &[u8]) {
    let scratch = scratch::directory();
    let path = scratch.path().join("agent.toml");
    write(&path, data);
    match Config::load(&path) {
        Ok(config) => drop(config.sources()),
        Err(error) => assert!(error.to_string().contains("agent.toml"), "{error}"),
    }
}

/// A list of whom a side knows that cannot be read knows nobody.
pub(crate) fn trust(data: &[u8]) {
    let mut choices = Choices::new(data);
    let kind = choices.below(8);
    let text = choices.rest();
    match kind {
        0 => return code(text),
        6 => return statement(text),
        7 => return kit(text),
        _ => {}
    }
    let scratch = scratch::directory();
    let path = scratch.path();
    if kind < 4 {
        Trust::open_or_create(path).expect("it can be made");
        let file = ["mains.toml", "codes.toml", "key"][kind - 1];
        write(&path.join("understudy.trust").join(file), text);
        let Ok(Some(trust)) = Trust::open(path) else {
            return;
        };
        drop((trust.mains(), trust.open_codes(), trust.address()));
        return;
    }
    Identity::open_or_create(path).expect("it can be made");
    let file = ["spares.toml", "key"][kind - 4];
    write(&path.join("identity").join(file), text);
    if let Ok(Some(identity)) = Identity::open(path) {
        drop(identity.spares());
        drop(identity.spare("spare:7433"));
    }
}

/// A code that is taken is shown and taken again as the same, and belongs to one key.
fn code(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    match text.parse::<Code>() {
        Ok(code) => {
            let shown = code.to_text();
            assert!(!shown.contains(is_harmful));
            let again: Code = shown.parse().expect("it was shown");
            assert_eq!(*again.to_text(), *shown);
        }
        Err(error) => drop(error.to_string()),
    }
}

/// A statement that is taken is the one that was signed, to the last byte.
fn statement(bytes: &[u8]) {
    match SignedStatement::from_bytes(bytes) {
        Ok(signed) => assert_eq!(signed.bytes(), bytes),
        Err(error) => drop(error.to_string()),
    }
}

/// A recovery kit that is taken is printed and read again as the same.
fn kit(bytes: &[u8]) {
    match RecoveryKit::from_text(&String::from_utf8_lossy(bytes)) {
        Ok(kit) => {
            let text = kit.to_text();
            let again = RecoveryKit::from_text(&text).expect("it was printed");
            assert_eq!(*again.to_text(), *text);
        }
        Err(error) => drop(error.to_string()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "these files are for one input, on which nothing depends"
)]
fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("written");
}

pub(crate) fn configurations_seeds() -> Vec<Vec<u8>> {
    let whole = "spare = \"spare:7433\"\nssh = [\"ssh\", \"-4\"]\nstate = \"/s\"\ninterval = \"1h30m\"\n\
                 [limits]\nbandwidth = \"20MB\"\n\
                 [[dataset]]\npath = \"/srv/docs\"\nexclude = [\"*.tmp\"]\ncross_mounts = true\n\
                 [[dataset]]\nname = \"photos\"\npath = \"/srv/Fotos\"\ninterval = \"90s\"\n\
                 [[dataset]]\npath = \"/var/www/*\"\n";
    let mut seeds = vec![whole.as_bytes().to_vec()];
    for line in whole.lines() {
        seeds.push(line.as_bytes().to_vec());
    }
    seeds
}

pub(crate) fn trust_seeds() -> Vec<Vec<u8>> {
    let key = PublicKey::from_bytes([7; 32]);
    let code = Code::generate(&key).expect("random bytes");
    let main =
        format!("[[main]]\nname = \"web\"\nkey = \"{key}\"\nsince = \"2026-11-27T05:00:00Z\"\n");
    let spare = format!("[[spare]]\naddress = \"spare:7433\"\nkey = \"{key}\"\nmain = \"web\"\n");
    let codes = format!(
        "[[code]]\nname = \"web\"\ndigest = \"{}\"\nuntil = \"2036-11-27T05:00:00Z\"\n",
        code.secret().digest()
    );
    let secret = SecretKey::from_seed(&[3; 32]).expect("a key");
    let statement = Statement {
        dataset: samples::dataset(),
        counter: 3,
        previous: ContentHash::of(b"before"),
        epoch: 1,
        number: 3,
        fingerprint: Fingerprint([7; 32]),
        weight: 300,
        fuzzy: ContentHash::of(b"fuzzy"),
        owners: Some(ContentHash::of(b"owners")),
        signed_seconds: 1_790_000_000,
    };
    let signed = statement.sign(&secret).expect("signed");
    let kit = RecoveryKit {
        key: secret,
        spares: vec![KnownSpare {
            address: "spare:7433".to_owned(),
            key,
            main: "web".parse().expect("a name"),
        }],
    };
    let mut seeds = vec![[&[6], signed.bytes()].concat()];
    let texts = [
        (7, kit.to_text().to_string()),
        (0, code.to_text().to_string()),
        (1, main.clone()),
        (1, main.repeat(2)),
        (2, codes),
        (3, "a".repeat(52)),
        (4, spare.clone()),
        (4, spare.repeat(2)),
        (5, "a".repeat(52)),
    ];
    seeds.extend(texts.map(|(kind, text)| [&[kind], text.as_bytes()].concat()));
    seeds
}
