//! What encryption costs: frames over a connection of loopback, as they are and over TLS.

use std::sync::Arc;
use std::time::Duration;

use understudy_protocol::encode::{Compression, Encoder};
use understudy_protocol::message::StreamBlock;
use understudy_protocol::transport::Channel;
use understudy_protocol::transport::pairing::CodeSecret;
use understudy_protocol::transport::stream;
use understudy_protocol::transport::tls::{self, Credentials, Doorkeeper, Refusal, Welcome};
use understudy_protocol::{Frame, MainName, Message, PublicKey, SecretKey};

/// Of frames, in each run.
const BYTES: usize = 1 << 30;
/// What is sent: blocks of large files, and batches of small ones.
const SIZES: [(&str, usize); 2] = [
    ("blocks of 512 KiB", 512 * 1024),
    ("frames of 16 KiB", 16 * 1024),
];

/// Lets one key in.
#[derive(Debug)]
struct Only(PublicKey);

impl Doorkeeper for Only {
    fn recognise(&self, key: &PublicKey) -> Option<MainName> {
        (*key == self.0).then(|| "bench".parse().expect("name"))
    }

    fn redeem(&self, _secret: &CodeSecret, _key: &PublicKey) -> Result<Welcome, Refusal> {
        Err(Refusal::Unknown)
    }
}

/// Times both.
pub(crate) fn run() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    for (label, size) in SIZES {
        let plain = time(size, || plain(&runtime));
        let encrypted = time(size, || encrypted(&runtime));
        let rate = |time: Duration| BYTES as f64 / 1e6 / time.as_secs_f64();
        println!(
            "wire, {label}: {:.0} MB/s as they are, {:.0} MB/s over TLS 1.3 ({:.2})",
            rate(plain),
            rate(encrypted),
            rate(encrypted) / rate(plain)
        );
    }
}

fn plain(runtime: &tokio::runtime::Runtime) -> (Channel, Channel) {
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bind");
        let address = listener.local_addr().expect("address");
        let client = tokio::net::TcpStream::connect(address)
            .await
            .expect("connect");
        let (server, _) = listener.accept().await.expect("accept");
        let [client, server] = [client, server].map(|end| {
            end.set_nodelay(true).expect("option");
            let (reading, writing) = end.into_split();
            stream::channel(reading, writing, stream::SPARE_STALL)
        });
        (client, server)
    })
}

fn encrypted(runtime: &tokio::runtime::Runtime) -> (Channel, Channel) {
    let [spare, main] = [(); 2].map(|()| SecretKey::generate().expect("key"));
    let keeper = Arc::new(Only(main.public()));
    let credentials = Credentials::new(&spare).expect("credentials");
    let any_port = [(std::net::Ipv4Addr::LOCALHOST, 0).into()];
    let listener = tls::Listener::bind(&any_port, credentials, keeper);
    let mut listener = runtime.block_on(listener).expect("bind");
    let address = listener.address().to_string();
    let credentials = Credentials::new(&main).expect("credentials");
    let client = tls::connect(runtime.handle(), &address, &credentials, spare.public());
    let server = runtime.block_on(listener.accept()).expect("a connection");
    (client.expect("connect"), server.channel)
}

fn time(size: usize, connect: impl Fn() -> (Channel, Channel)) -> Duration {
    let mut spent = Vec::new();
    for _ in 0..5 {
        let (mut client, mut server) = connect();
        let greeted = std::thread::spawn(move || {
            server.greet().expect("greeting");
            server
        });
        client.greet().expect("greeting");
        let mut server = greeted.join().expect("thread");
        let mut encoder = Encoder::new(Compression::Off);
        let block = Message::StreamBlock(StreamBlock {
            stream: 1,
            offset: 0,
            data: vec![7; size].into(),
        });
        let frames: Vec<Frame> = (0..BYTES / size)
            .map(|_| encoder.encode(&block).expect("encode"))
            .collect();
        let began = std::time::Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for frame in frames {
                    client.outgoing.send(frame).expect("send");
                }
            });
            for _ in 0..BYTES / size {
                std::hint::black_box(server.incoming.receive().expect("frame"));
            }
        });
        spent.push(began.elapsed());
    }
    spent.sort_unstable();
    spent[2]
}
