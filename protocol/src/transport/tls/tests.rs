use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Mutex;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::*;
use crate::message::{Message, StreamBlock};
use crate::name::MainName;
use crate::transport::Channel;
use crate::transport::pairing::{Code, CodeDigest, CodeSecret, pair};
use crate::version;

const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// Mains by their keys, and one code.
#[derive(Debug, Default)]
struct Book {
    mains: Mutex<BTreeMap<PublicKey, MainName>>,
    code: Mutex<Option<CodeDigest>>,
}

impl Doorkeeper for Book {
    fn recognise(&self, key: &PublicKey) -> Option<MainName> {
        self.mains.lock().expect("lock").get(key).cloned()
    }

    fn redeem(&self, secret: &CodeSecret, key: &PublicKey) -> Result<Welcome, Refusal> {
        let mut code = self.code.lock().expect("lock");
        if *code != Some(secret.digest()) {
            return Err(Refusal::Unknown);
        }
        *code = None;
        self.mains.lock().expect("lock").insert(*key, main());
        Ok(Welcome {
            main: main(),
            replaced: false,
        })
    }
}

fn main() -> MainName {
    "web".parse().expect("name")
}

/// A spare that listens, and a main.
struct Pair {
    runtime: Runtime,
    book: Arc<Book>,
    listener: Listener,
    spare: PublicKey,
    main: SecretKey,
}

impl Pair {
    /// Two that do not know each other.
    fn new() -> Self {
        let runtime = Runtime::new().expect("runtime");
        let book = Arc::new(Book::default());
        let key = SecretKey::generate().expect("key");
        let credentials = Credentials::new(&key).expect("credentials");
        let keeper = Arc::clone(&book) as Arc<dyn Doorkeeper>;
        let listener = runtime
            .block_on(Listener::bind(&[ANY_PORT], credentials, keeper))
            .expect("bind");
        Self {
            runtime,
            book,
            listener,
            spare: key.public(),
            main: SecretKey::generate().expect("key"),
        }
    }

    /// Two that do.
    fn known() -> Self {
        let pair = Self::new();
        let mut mains = pair.book.mains.lock().expect("lock");
        mains.insert(pair.main.public(), main());
        drop(mains);
        pair
    }

    fn address(&self) -> String {
        self.listener.address().to_string()
    }

    fn connect_with(&self, credentials: &Credentials) -> Result<Channel, ProtocolError> {
        connect(
            self.runtime.handle(),
            &self.address(),
            credentials,
            self.spare,
        )
    }

    fn connect(&self) -> Result<Channel, ProtocolError> {
        self.connect_with(&Credentials::new(&self.main).expect("credentials"))
    }

    fn accept(&mut self) -> Arrival {
        let arrival = self.runtime.block_on(self.listener.accept());
        arrival.expect("a connection")
    }
}

/// What a refused main is told.
fn told(connected: Result<Channel, ProtocolError>) -> String {
    let error = match connected {
        Ok(mut channel) => channel.greet().expect_err("refused"),
        Err(error) => error,
    };
    assert!(
        matches!(error, ProtocolError::NotAuthenticated(_)),
        "{error:?}"
    );
    error.to_string()
}

#[test]
fn two_sides_that_know_each_other_greet() {
    let mut pair = Pair::known();
    let mut client = pair.connect().expect("connect");
    let mut arrival = pair.accept();
    assert_eq!(arrival.main, main());
    assert_eq!(arrival.key, pair.main.public());
    let other = std::thread::spawn(move || arrival.channel.greet());
    assert_eq!(client.greet().expect("greeting"), version::NEWEST);
    let greeted = other.join().expect("thread");
    assert_eq!(greeted.expect("greeting"), version::NEWEST);
}

#[test]
fn what_is_sent_arrives_whole_and_in_order_both_ways() {
    let mut pair = Pair::known();
    let client = pair.connect().expect("connect");
    let server = pair.accept().channel;
    let block = |stream: u64| {
        let length = 1 + (stream as usize * 7919) % crate::limits::BLOCK_BYTES;
        let data: Vec<u8> = (0..length)
            .map(|at| (at as u64 * 31 + stream) as u8)
            .collect();
        Message::StreamBlock(StreamBlock {
            stream,
            offset: 0,
            data: data.into(),
        })
    };
    let both = [client, server].map(|channel| {
        let Channel {
            outgoing,
            mut incoming,
        } = channel;
        std::thread::spawn(move || {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for stream in 0..200 {
                        outgoing.send_message(&block(stream)).expect("send");
                    }
                });
                for stream in 0..200 {
                    let message = incoming.receive_message().expect("message");
                    assert!(message == block(stream), "{stream}");
                }
            });
            (outgoing, incoming)
        })
    });
    for side in both {
        side.join().expect("side");
    }
}

#[test]
fn a_main_that_the_spare_does_not_know_is_told_so() {
    let mut pair = Pair::new();
    let told = told(pair.connect());
    assert!(told.contains("does not know this host"), "{told}");
    assert!(told.contains(&pair.main.public().to_string()), "{told}");
    // Nobody is heard of it.
    let waited = pair.runtime.block_on(async {
        tokio::time::timeout(Duration::from_millis(50), pair.listener.accept()).await
    });
    assert!(waited.is_err());
}

#[test]
fn a_spare_with_another_key_is_not_talked_to() {
    let mut pair = Pair::known();
    let expected = SecretKey::generate().expect("key").public();
    let came = std::mem::replace(&mut pair.spare, expected);
    let told = told(pair.connect());
    for part in [expected.to_string(), came.to_string(), pair.address()] {
        assert!(told.contains(&part), "{told}");
    }
}

#[test]
fn showing_a_key_that_is_known_is_not_having_it() {
    let mut pair = Pair::known();
    let (known, thief) = (
        Credentials::new(&pair.main).expect("credentials"),
        SecretKey::generate().expect("key"),
    );
    let pkcs8 = thief.to_pkcs8().expect("key");
    let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
    let signing = aws_lc_rs::sign::any_eddsa_type(&pkcs8).expect("key");
    let certificates = rcgen_certificate(&pair.main);
    let stolen = Credentials {
        certified: Arc::new(CertifiedKey::new(vec![certificates], signing).into()),
        ..known
    };
    let refused = pair
        .connect_with(&stolen)
        .and_then(|mut channel| channel.greet());
    refused.expect_err("refused");
    let waited = pair.runtime.block_on(async {
        tokio::time::timeout(Duration::from_millis(50), pair.listener.accept()).await
    });
    assert!(waited.is_err());
}

/// A certificate for a key.
fn rcgen_certificate(key: &SecretKey) -> rustls::pki_types::CertificateDer<'static> {
    let pkcs8 = key.to_pkcs8().expect("key");
    let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
    let signing = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519);
    let parameters = rcgen::CertificateParams::default();
    let signed = parameters.self_signed(&signing.expect("key"));
    signed.expect("certificate").der().clone()
}

#[test]
fn a_code_binds_both_keys_and_only_once() {
    let mut pair_ = Pair::new();
    let code = Code::generate(&pair_.spare).expect("code");
    *pair_.book.code.lock().expect("lock") = Some(code.secret().digest());
    let ask = |pair_: &Pair, key: &SecretKey, code: &Code| {
        let credentials = Credentials::new(key).expect("credentials");
        pair(pair_.runtime.handle(), &pair_.address(), &credentials, code)
    };
    // The half that is secret is right, but it is the code of another spare.
    let elsewhere = SecretKey::generate().expect("key").public();
    let other = Code::generate(&elsewhere).expect("code");
    let refused = ask(&pair_, &pair_.main, &other)
        .expect_err("refused")
        .to_string();
    assert!(
        refused.contains("the code is not of the spare at"),
        "{refused}"
    );
    let unknown = Code::generate(&pair_.spare).expect("code");
    let refused = ask(&pair_, &pair_.main, &unknown)
        .expect_err("refused")
        .to_string();
    assert!(refused.contains("no such code"), "{refused}");

    let paired = ask(&pair_, &pair_.main, &code).expect("paired");
    assert_eq!(paired.spare, pair_.spare);
    assert_eq!(paired.welcome.main, main());
    let second = SecretKey::generate().expect("key");
    ask(&pair_, &second, &code).expect_err("refused");
    let mut client = pair_.connect().expect("connect");
    let mut arrival = pair_.accept();
    let other = std::thread::spawn(move || arrival.channel.greet());
    client.greet().expect("greeting");
    other.join().expect("thread").expect("greeting");
}

#[test]
fn who_is_paired_no_more_is_cut_off() {
    let mut pair = Pair::known();
    let mut client = pair.connect().expect("connect");
    let mut arrival = pair.accept();
    let cutter = arrival.cutter.clone();
    let other = std::thread::spawn(move || {
        arrival.channel.greet().expect("greeting");
        arrival.channel.incoming.receive()
    });
    client.greet().expect("greeting");
    cutter.cut();
    assert!(matches!(client.incoming.receive(), Err(ProtocolError::Cut)));
    assert!(matches!(
        other.join().expect("thread"),
        Err(ProtocolError::Cut)
    ));
    // And told why when it comes again.
    pair.book.mains.lock().expect("lock").clear();
    assert!(told(pair.connect()).contains("any more"));
}

#[test]
fn what_does_not_speak_tls_is_named_as_such() {
    let pair = Pair::known();
    let runtime = &pair.runtime;
    // A client that speaks something else is answered with an alert, and the end.
    let answer = runtime.block_on(async {
        let mut stream = TcpStream::connect(pair.address()).await.expect("connect");
        stream
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("the end");
        answer
    });
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    // A server that does.
    let (listener, address) = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        (listener, address)
    });
    runtime.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        stream
            .write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n")
            .await
            .expect("sent");
        let _ = stream.read_u8().await;
    });
    let credentials = Credentials::new(&pair.main).expect("credentials");
    let error = connect(runtime.handle(), &address, &credentials, pair.spare).expect_err("refused");
    let told = error.to_string();
    assert!(
        told.contains("does not speak TLS") && told.contains(&address),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_says_nothing_is_hung_up_on() {
    let credentials = Credentials::new(&SecretKey::generate().expect("key")).expect("credentials");
    let listener = Listener::bind(&[ANY_PORT], credentials, Arc::new(Book::default()));
    let listener = listener.await.expect("bind");
    let mut stream = TcpStream::connect(listener.address())
        .await
        .expect("connect");
    let began = tokio::time::Instant::now();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the end");
    assert!(answer.is_empty());
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[test]
fn tls_1_3_is_all_that_is_spoken_and_nothing_is_resumed() {
    let credentials = Credentials::new(&SecretKey::generate().expect("key")).expect("credentials");
    let server = credentials
        .to_answer(Arc::new(Client::any()), Purpose::Speak)
        .expect("config");
    assert_eq!(server.send_tls13_tickets, 0);
    assert_eq!(server.max_early_data_size, 0);
    assert!(!server.session_storage.can_cache());
    let expected = Expected::Key(credentials.public());
    let client = credentials.to_connect(Arc::new(Server::new(expected)), Purpose::Speak);
    assert!(!client.expect("config").enable_early_data);
    // What a client of understudy offers holds no other version.
    let mut hello = Acceptor::default();
    let config = credentials.to_connect(Arc::new(Server::new(expected)), Purpose::Speak);
    let name = rustls::pki_types::ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let mut session = rustls::ClientConnection::new(config.expect("config"), name).expect("client");
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).expect("hello");
    hello.read_tls(&mut &bytes[..]).expect("hello");
    let accepted = hello.accept().expect("hello").expect("whole");
    let names: Vec<_> = accepted.client_hello().alpn().expect("protocols").collect();
    assert_eq!(names, [b"understudy"]);
    assert_eq!(accepted.client_hello().server_name(), None);
}
