//! Frames over TLS 1.3, where each side knows the other by its public key.
//!
//! No certificate authority is asked and no name is compared: a certificate is only the form in which TLS carries a
//! key. Nothing is resumed, and nothing is sent before both sides have proved who they are.

mod connect;
mod listen;
mod refused;
#[cfg(test)]
mod tests;
mod verify;
mod waiting;
mod wire;

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use crate::error::ProtocolError;
use crate::key::{PublicKey, SecretKey};

pub use connect::connect;
pub(super) use connect::secure;
pub use listen::{Arrival, Doorkeeper, Listener, Refusal, Welcome};
pub(super) use verify::Expected;
use verify::{Client, Server};

/// What a connection is for, as it is told before it is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To speak the protocol; the two are paired.
    Speak,
    /// To pair them.
    Pair,
}

impl Purpose {
    /// The name of the protocol within TLS (RFC 7301).
    pub(super) fn protocol(self) -> &'static [u8] {
        match self {
            Self::Speak => b"understudy",
            Self::Pair => b"understudy-pair",
        }
    }
}

/// A side's key, in the form in which TLS proves that it has it.
pub struct Credentials {
    provider: Arc<CryptoProvider>,
    certified: Arc<SingleCertAndKey>,
    public: PublicKey,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials(of {})", self.public)
    }
}

impl Credentials {
    /// Those of the owner of `key`.
    pub fn new(key: &SecretKey) -> Result<Self, ProtocolError> {
        let pkcs8 = key.to_pkcs8().map_err(unusable)?;
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
        let signing = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519)
            .map_err(unusable)?;
        let mut parameters = rcgen::CertificateParams::default();
        let name = (rcgen::DnType::CommonName, "understudy");
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(name.0, name.1);
        let certificate = parameters.self_signed(&signing).map_err(unusable)?;
        let signing = aws_lc_rs::sign::any_eddsa_type(&pkcs8).map_err(unusable)?;
        let certified = CertifiedKey::new(vec![certificate.der().clone()], signing);
        Ok(Self {
            provider: Arc::new(provider()),
            certified: Arc::new(certified.into()),
            public: key.public(),
        })
    }

    /// Whose they are.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// How to connect to the side that `server` takes.
    fn to_connect(
        &self,
        server: Arc<Server>,
        purpose: Purpose,
    ) -> Result<Arc<ClientConfig>, ProtocolError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(server)
            .with_client_cert_resolver(Arc::clone(&self.certified) as _);
        config.alpn_protocols = vec![purpose.protocol().to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    /// How to answer a side that `client` takes.
    fn to_answer(
        &self,
        client: Arc<Client>,
        purpose: Purpose,
    ) -> Result<Arc<ServerConfig>, ProtocolError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(client)
            .with_cert_resolver(Arc::clone(&self.certified) as _);
        config.alpn_protocols = vec![purpose.protocol().to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }
}

/// The algorithms of TLS 1.3 that every build of understudy has, the fastest first.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        // What is recorded today must not be read once there are quantum computers.
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn unusable(error: impl fmt::Display) -> ProtocolError {
    ProtocolError::NotAuthenticated(format!("the key of this host cannot be used: {error}"))
}
