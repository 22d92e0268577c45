//! Pairing: a code that is shown on the spare and typed on the main binds the keys of both.
//!
//! The code holds a secret, which proves to the spare that the main was told it, and a fingerprint of the spare's key,
//! which proves to the main that nobody else answers. Both are exchanged within TLS, which has proved already that
//! each side has its key.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::tls::{Credentials, Expected, Purpose, Refusal, Welcome, secure};
use crate::error::ProtocolError;
use crate::key::{KeyError, PublicKey};
use crate::limits;
use crate::name::MainName;

/// Bytes of each half of a code.
const HALF_BYTES: usize = 16;
/// Letters and digits of a code, and how many are written together.
const CODE_LETTERS: usize = 52;
const GROUP_LETTERS: usize = 4;

/// The only form of a request that there is.
const FORM: u8 = 1;
const REQUEST_BYTES: usize = 1 + HALF_BYTES;
/// A verdict, the length of a name, and the name, filled up with zeros.
const ANSWER_BYTES: usize = 2 + limits::DATASET_NAME_BYTES;

/// How long the spare may take to answer: it writes to its disk before.
const ANSWER: Duration = Duration::from_secs(10);

/// What only those know who were told the code.
#[derive(Clone)]
pub struct CodeSecret(Zeroizing<[u8; HALF_BYTES]>);

/// What is written down of a secret, from which it cannot be found.
#[derive(Debug, Clone, Copy)]
pub struct CodeDigest([u8; 32]);

/// Which key a code is for.
#[derive(Debug, Clone, Copy)]
pub struct Fingerprint([u8; HALF_BYTES]);

/// A one-time code.
pub struct Code {
    secret: CodeSecret,
    spare: Fingerprint,
}

/// The text is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no pairing code, {0}")]
pub struct InvalidCode(String);

/// What a main knows when it is paired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paired {
    /// What the spare calls it, and whether it had another key before.
    pub welcome: Welcome,
    /// The spare's key.
    pub spare: PublicKey,
}

impl CodeSecret {
    /// What may be written down of it.
    pub fn digest(&self) -> CodeDigest {
        CodeDigest(blake3::derive_key(
            "understudy 2026 secret of a pairing code",
            &self.0[..],
        ))
    }
}

impl fmt::Debug for CodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeSecret")
    }
}

/// Takes the same time wherever two differ.
impl PartialEq for CodeDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for CodeDigest {}

impl fmt::Display for CodeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl FromStr for CodeDigest {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|_| KeyError::Text)?;
        Ok(Self(bytes.try_into().map_err(|_| KeyError::Text)?))
    }
}

impl Fingerprint {
    /// That of a key.
    pub fn of(key: &PublicKey) -> Self {
        let whole = blake3::derive_key("understudy 2026 key in a pairing code", key.as_bytes());
        let mut half = [0; HALF_BYTES];
        half.copy_from_slice(&whole[..HALF_BYTES]);
        Self(half)
    }

    /// Whether it is that of this key.
    pub fn is_of(&self, key: &PublicKey) -> bool {
        self.0.ct_eq(&Self::of(key).0).into()
    }
}

impl Code {
    /// A new code for the spare with this key.
    pub fn generate(spare: &PublicKey) -> Result<Self, KeyError> {
        let mut secret = Zeroizing::new([0; HALF_BYTES]);
        aws_lc_rs::rand::fill(&mut secret[..]).map_err(|_| KeyError::Random)?;
        Ok(Self {
            secret: CodeSecret(secret),
            spare: Fingerprint::of(spare),
        })
    }

    /// Its secret half.
    pub fn secret(&self) -> &CodeSecret {
        &self.secret
    }

    /// The code as it is typed: 52 letters and digits in groups of four.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new([&self.secret.0[..], &self.spare.0].concat());
        let letters = Zeroizing::new(BASE32_NOPAD.encode(&bytes).to_ascii_lowercase());
        let mut text = Zeroizing::new(String::with_capacity(2 * CODE_LETTERS));
        for (number, letter) in letters.chars().enumerate() {
            if number > 0 && number % GROUP_LETTERS == 0 {
                text.push('-');
            }
            text.push(letter);
        }
        text
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

impl FromStr for Code {
    type Err = InvalidCode;

    fn from_str(text: &str) -> Result<Self, InvalidCode> {
        let mut letters = Zeroizing::new(String::with_capacity(CODE_LETTERS));
        for letter in text.chars() {
            match letter.to_ascii_uppercase() {
                '-' | ' ' => {}
                upper @ ('A'..='Z' | '2'..='7') => letters.push(upper),
                other => {
                    let other = other.escape_default();
                    return Err(InvalidCode(format!(
                        "for a code has letters from a to z, digits from 2 to 7 and dashes, but no `{other}`"
                    )));
                }
            }
        }
        if letters.len() != CODE_LETTERS {
            return Err(InvalidCode(format!(
                "for it has {} letters and digits instead of {CODE_LETTERS}",
                letters.len()
            )));
        }
        let bytes = BASE32_NOPAD
            .decode(letters.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| InvalidCode("for its last letter cannot be".to_owned()))?;
        let (mut secret, mut spare) = (Zeroizing::new([0; HALF_BYTES]), [0; HALF_BYTES]);
        secret.copy_from_slice(&bytes[..HALF_BYTES]);
        spare.copy_from_slice(&bytes[HALF_BYTES..]);
        Ok(Self {
            secret: CodeSecret(secret),
            spare: Fingerprint(spare),
        })
    }
}

/// Has the spare at `HOST:PORT` know the owner of `credentials` from now on; blocks.
pub fn pair(
    runtime: &Handle,
    address: &str,
    credentials: &Credentials,
    code: &Code,
) -> Result<Paired, ProtocolError> {
    runtime.block_on(async {
        let expected = Expected::Of(code.spare);
        let (mut stream, asked) = secure(address, credentials, expected, Purpose::Pair).await?;
        let spare = asked.came.ok_or(ProtocolError::NotUnderstudy)?;
        let exchanged = timeout(ANSWER, exchange(&mut stream, &code.secret)).await;
        let answer = exchanged
            .unwrap_or_else(|late| Err(late.into()))
            .map_err(|error| asked.explain(error))?;
        Ok(Paired {
            welcome: read_answer(&answer, address)?,
            spare,
        })
    })
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    secret: &CodeSecret,
) -> io::Result<[u8; ANSWER_BYTES]> {
    let mut request = Zeroizing::new([FORM; REQUEST_BYTES]);
    request[1..].copy_from_slice(&secret.0[..]);
    stream.write_all(&request[..]).await?;
    stream.flush().await?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The spare's side: what the main asks with.
pub(super) async fn hear(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<CodeSecret> {
    let mut request = Zeroizing::new([0; REQUEST_BYTES]);
    stream.read_exact(&mut request[..]).await?;
    if request[0] != FORM {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut secret = Zeroizing::new([0; HALF_BYTES]);
    secret.copy_from_slice(&request[1..]);
    Ok(CodeSecret(secret))
}

/// The spare's side: what the main is told.
pub(super) async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    redeemed: &Result<Welcome, Refusal>,
) -> io::Result<()> {
    let mut bytes = [0; ANSWER_BYTES];
    bytes[0] = match redeemed {
        Ok(Welcome {
            replaced: false, ..
        }) => 0,
        Ok(Welcome { replaced: true, .. }) => 1,
        Err(Refusal::Unknown) => 2,
        Err(Refusal::Expired) => 3,
        Err(Refusal::Used) => 4,
        Err(Refusal::Failed) => 5,
        Err(Refusal::KnownAs(_)) => 6,
    };
    if let Ok(Welcome { main, .. }) | Err(Refusal::KnownAs(main)) = redeemed {
        let name = main.as_str().as_bytes();
        bytes[1] = name.len().try_into().unwrap_or(u8::MAX);
        bytes[2..2 + name.len()].copy_from_slice(name);
    }
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// The main's side: what it was told.
fn read_answer(answer: &[u8; ANSWER_BYTES], address: &str) -> Result<Welcome, ProtocolError> {
    let refused = |why: &str| {
        let text = format!("the spare at {address} has refused the code: {why}");
        Err(ProtocolError::NotAuthenticated(text))
    };
    let name = || -> Result<MainName, ProtocolError> {
        answer[2..]
            .get(..usize::from(answer[1]))
            .and_then(|name| std::str::from_utf8(name).ok())
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| ProtocolError::malformed("answer", "it holds no name of a main"))
    };
    match answer[0] {
        verdict @ (0 | 1) => Ok(Welcome {
            main: name()?,
            replaced: verdict == 1,
        }),
        2 => refused(
            "it has made no such code, or another one after it; compare it with what was printed there",
        ),
        3 => refused("its time is over"),
        4 => refused("it has been used already, and each is good for one main"),
        5 => refused("it cannot write down whom it knows; its log says why"),
        6 => refused(&format!(
            "it knows this host as main {0} already; to give it another name, first type there: understudy pair --revoke {0}",
            name()?
        )),
        other => Err(ProtocolError::malformed(
            "answer",
            format!("{other} is no verdict"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SecretKey;

    fn key() -> PublicKey {
        SecretKey::generate().expect("key").public()
    }

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        let key = key();
        let code = Code::generate(&key).expect("code");
        let text = code.to_text();
        assert_eq!(text.len(), 52 + 12, "{}", text.as_str());
        for typed in [
            text.to_string(),
            text.to_uppercase(),
            text.replace('-', ""),
            format!(" {} ", text.replace('-', " ")),
        ] {
            let read: Code = typed.parse().expect("code");
            assert_eq!(read.secret.digest(), code.secret.digest());
            assert!(read.spare.is_of(&key));
        }
        let other = Code::generate(&key).expect("code");
        assert_ne!(other.secret.digest(), code.secret.digest());
        assert!(!code.spare.is_of(&self::key()));
    }

    #[test]
    fn what_is_no_code_says_why() {
        let text = Code::generate(&key()).expect("code").to_text();
        for (typed, word) in [
            (&text[1..], "51"),
            (&format!("{}a", text.as_str()), "53"),
            (&text.replace(&text[..1], "1"), "`1`"),
            ("", "0 letters"),
            (&format!("{}b", &text[..text.len() - 1]), "last letter"),
        ] {
            let error = typed.parse::<Code>().expect_err(typed).to_string();
            assert!(error.contains(word), "{typed}: {error}");
        }
    }

    #[tokio::test]
    async fn answers_are_read_as_they_were_given() {
        let main: MainName = "web-1".parse().expect("name");
        for replaced in [false, true] {
            let welcome = Welcome {
                main: main.clone(),
                replaced,
            };
            let mut bytes = Vec::new();
            answer(&mut bytes, &Ok(welcome.clone()))
                .await
                .expect("written");
            let bytes = bytes.try_into().expect("its length");
            assert_eq!(read_answer(&bytes, "spare:1").expect("welcome"), welcome);
        }
        for (refusal, word) in [
            (Refusal::Unknown, "no such code"),
            (Refusal::Expired, "over"),
            (Refusal::Used, "already"),
            (Refusal::Failed, "its log"),
            (Refusal::KnownAs(main.clone()), "web-1 already"),
        ] {
            let mut bytes = Vec::new();
            answer(&mut bytes, &Err(refusal)).await.expect("written");
            let bytes = bytes.try_into().expect("its length");
            let told = read_answer(&bytes, "spare:1")
                .expect_err("refused")
                .to_string();
            assert!(told.contains(word) && told.contains("spare:1"), "{told}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_is_refused() {
        for (verdict, length) in [(7, 0), (0, 0), (0, 255), (1, 101), (6, 0)] {
            let mut bytes = [b'a'; ANSWER_BYTES];
            (bytes[0], bytes[1]) = (verdict, length);
            assert!(
                read_answer(&bytes, "spare:1").is_err(),
                "{verdict}, {length}"
            );
        }
    }
}
