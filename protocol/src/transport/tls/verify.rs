//! Whether the key in a certificate is the one that belongs there.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    SignatureScheme,
};

use super::Doorkeeper;
use crate::key::PublicKey;
use crate::name::MainName;
use crate::transport::pairing::Fingerprint;

/// Which key a server must have.
#[derive(Debug, Clone, Copy)]
pub(in crate::transport) enum Expected {
    /// The one that it had when the two were paired.
    Key(PublicKey),
    /// The one that a pairing code was made for.
    Of(Fingerprint),
}

impl Expected {
    fn is(&self, key: &PublicKey) -> bool {
        match self {
            Self::Key(expected) => expected == key,
            Self::Of(fingerprint) => fingerprint.is_of(key),
        }
    }
}

/// The server at the other end.
#[derive(Debug)]
pub(super) struct Server {
    expected: Expected,
    came: OnceLock<PublicKey>,
}

impl Server {
    pub(super) fn new(expected: Expected) -> Self {
        Self {
            expected,
            came: OnceLock::new(),
        }
    }

    /// The key that it has shown, which is proved once the handshake is done.
    pub(super) fn came(&self) -> Option<PublicKey> {
        self.came.get().copied()
    }
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = key_in(certificate, intermediates)?;
        if *self.came.get_or_init(|| key) == key && self.expected.is(&key) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(unadvertised())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_ed25519(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The client at the other end.
pub(super) struct Client {
    /// Who says which keys are known; nobody where any may come.
    doorkeeper: Option<Arc<dyn Doorkeeper>>,
    came: OnceLock<Visitor>,
}

/// A client by its key.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    pub(super) key: PublicKey,
    /// The main whose key it is.
    pub(super) main: Option<MainName>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("came", &self.came)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// One whose key the doorkeeper must know.
    pub(super) fn known_to(doorkeeper: Arc<dyn Doorkeeper>) -> Self {
        Self {
            doorkeeper: Some(doorkeeper),
            came: OnceLock::new(),
        }
    }

    /// One with any key, as long as it has it.
    pub(super) fn any() -> Self {
        Self {
            doorkeeper: None,
            came: OnceLock::new(),
        }
    }

    /// What it has shown, which is proved once the handshake is done.
    pub(super) fn came(&self) -> Option<&Visitor> {
        self.came.get()
    }
}

impl ClientCertVerifier for Client {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let key = key_in(certificate, intermediates)?;
        let main = self
            .doorkeeper
            .as_ref()
            .and_then(|doorkeeper| doorkeeper.recognise(&key));
        let may_enter = self.doorkeeper.is_none() || main.is_some();
        let first = self.came.set(Visitor { key, main }).is_ok();
        if first && may_enter {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(unadvertised())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_ed25519(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The key in a certificate that stands alone.
fn key_in(
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<PublicKey, Error> {
    if !intermediates.is_empty() {
        return Err(CertificateError::UnknownIssuer.into());
    }
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    PublicKey::from_spki(&spki).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn verify_ed25519(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    if signature.scheme != SignatureScheme::ED25519 {
        return Err(unadvertised());
    }
    let known = aws_lc_rs::default_provider().signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signature, &known)
}

fn unadvertised() -> Error {
    PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()
}
