//! Why a connection that came is not let in, in words for the log.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::connect::cause;
use super::verify::Visitor;
use crate::error::ProtocolError;

/// Why there was not even a greeting of TLS.
pub(super) fn no_tls(error: &io::Error) -> String {
    match cause(error) {
        Some(Error::InvalidMessage(_)) => {
            "it does not speak TLS: it is no understudy, or one without encryption".to_owned()
        }
        Some(error) => older(error).unwrap_or_else(|| error.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "it has said nothing".to_owned(),
        None => error.to_string(),
    }
}

fn older(error: &Error) -> Option<String> {
    match error {
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => Some("it does not speak TLS 1.3, but only something older".to_owned()),
        _ => None,
    }
}

/// Why it is not known who is there.
pub(super) fn unproved(error: &io::Error, came: Option<&Visitor>) -> String {
    match (cause(error), came) {
        (
            Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
            Some(Visitor { key, .. }),
        ) => format!(
            "no main has the key {key}, which it has shown. If it is one of yours, pair it (again): understudy pair --new NAME"
        ),
        (Some(Error::NoCertificatesPresented), _) => "it has shown no key".to_owned(),
        (Some(Error::InvalidCertificate(_)), Some(Visitor { key, .. })) => {
            format!("it has not proved that it has the key {key}")
        }
        (Some(Error::AlertReceived(AlertDescription::AccessDenied)), _) => {
            "it has expected another key here: it was paired with another spare, or before this one was made anew".to_owned()
        }
        (Some(error), _) => older(error).unwrap_or_else(|| error.to_string()),
        (None, _) => error.to_string(),
    }
}

/// What it means that a read from a main failed.
pub(super) fn explain(error: io::Error) -> ProtocolError {
    if cause(&error).is_none() && error.kind() == io::ErrorKind::UnexpectedEof {
        ProtocolError::Cut
    } else {
        error.into()
    }
}
