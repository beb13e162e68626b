//! What went wrong with a handshake, for people: rustls' errors say what the protocol saw, these what to do about it.

use std::io;
use std::path::Path;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::certificate::Facts;

/// The error of rustls within one of a stream, if that is what it is; connectors wrap one more around it.
pub(super) fn tls_error(error: &io::Error) -> Option<&Error> {
    let inner = error.get_ref()?;
    let wrapped = || inner.downcast_ref().and_then(tls_error);
    inner.downcast_ref().or_else(wrapped)
}

/// Whether the other side did not speak TLS at all.
pub(super) fn speaks_no_tls(error: &Error) -> bool {
    matches!(error, Error::InvalidMessage(InvalidMessage::InvalidContentType))
}

/// The caller's view: the coordinator refused this side's certificate, or that it has none.
pub(super) fn refused_by_coordinator(alert: AlertDescription, own: Option<(&Path, &Facts)>) -> String {
    let Some((file, facts)) = own else {
        return match alert {
            AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure => {
                "the coordinator takes only callers with a certificate, and none was given: name yours and its key \
                 (--cert and --key, or REKEEPER_CERT and REKEEPER_KEY)"
                    .to_owned()
            }
            other => format!("the coordinator refused the TLS connection ({other:?}); its log says why"),
        };
    };
    let file = file.display();
    match alert {
        // The latter when the other CA has the same name, as one that was made a second time.
        AlertDescription::UnknownCA | AlertDescription::DecryptError => format!(
            "the coordinator refused the certificate {file}: it is not signed by the CA that the coordinator trusts \
             (tls.client_ca of its configuration); have it signed by that one"
        ),
        AlertDescription::CertificateExpired => format!(
            "the coordinator refused the certificate {file} because of its dates: it is {}; make a new one, or, when \
             the dates are right, set the clocks of both machines",
            facts.dates()
        ),
        AlertDescription::UnsupportedCertificate => format!(
            "the coordinator refused the certificate {file}: it is not made for clients, its extendedKeyUsage has to \
             contain clientAuth; make a new one as docs/tls.md shows"
        ),
        other => {
            format!("the coordinator refused the certificate {file} ({other:?}); its log says why")
        }
    }
}

/// The caller's view: this side does not accept the coordinator's certificate.
pub(super) fn coordinator_not_trusted(error: &CertificateError, host: &str, ca: &Path) -> String {
    match error {
        // The latter when the other CA has the same name, as one that was made a second time.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the coordinator's certificate is not signed by the CA in {}: this is the wrong CA file, or not your \
             coordinator",
            ca.display()
        ),
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!(
                "the coordinator's certificate is not for {host}, it is for {}: call the coordinator by such a name, \
                 or make it a certificate with this one among its subject alternative names",
                names(presented)
            )
        }
        other => {
            format!(
                "the coordinator's certificate is not acceptable: {}",
                unacceptable(other, "serverAuth")
            )
        }
    }
}

/// The coordinator's view: why a handshake with a caller failed. `presented` is the certificate that it showed.
pub(super) fn caller_refused(error: &Error, presented: Option<&Facts>) -> String {
    let whose = presented.map_or_else(
        || "the caller's certificate".to_owned(),
        |facts| format!("the caller's certificate ({}; {})", facts.subject, facts.dates()),
    );
    match error {
        Error::NoCertificatesPresented => "the caller showed no certificate".to_owned(),
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("{whose} is not signed by a CA of tls.client_ca")
        }
        Error::InvalidCertificate(error) => format!("{whose}: {}", unacceptable(error, "clientAuth")),
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            "the caller does not accept this coordinator's certificate: it trusts another CA (its ca file)".to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "the caller does not accept this coordinator's certificate because of its dates".to_owned()
        }
        Error::AlertReceived(AlertDescription::BadCertificate) => {
            "the caller does not accept this coordinator's certificate: it calls the coordinator by a name that is not \
             among the certificate's subject alternative names, or the certificate is broken"
                .to_owned()
        }
        Error::AlertReceived(alert) => format!("the caller broke off the TLS handshake ({alert:?})"),
        error if speaks_no_tls(error) => {
            "the caller does not speak TLS: it has to use https:// and certificates".to_owned()
        }
        error => format!("TLS handshake failed: {error}"),
    }
}

/// Why a server that is no coordinator was not taken for the right one, in words for people; none when TLS has nothing to
/// do with it. `ca` says where its CA is named.
#[must_use]
pub fn distrusted(error: &(dyn std::error::Error + 'static), ca: &str) -> Option<String> {
    let mut next = Some(error);
    let tls = loop {
        let error = next?;
        // An io::Error does not count the error that it wraps among its sources.
        let wrapped = error.downcast_ref().and_then(tls_error);
        if let Some(tls) = error.downcast_ref().or(wrapped) {
            break tls;
        }
        next = error.source();
    };
    Some(match tls {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("its certificate is not signed by a CA of {ca}")
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
            format!(
                "its certificate is for {}, and it is called by another name",
                names(presented)
            )
        }
        Error::InvalidCertificate(error) => {
            format!(
                "its certificate is not acceptable: {}",
                unacceptable(error, "serverAuth")
            )
        }
        Error::AlertReceived(alert) => {
            format!("it takes only clients with a certificate that it trusts ({alert:?})")
        }
        tls if speaks_no_tls(tls) => "it does not speak TLS at this port".to_owned(),
        tls => format!("the TLS handshake failed: {tls}"),
    })
}

fn unacceptable(error: &CertificateError, purpose: &str) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it expired; make a new one, or, when its dates are right, set the clock".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; when its dates are right, set the clock".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("its extendedKeyUsage does not contain {purpose}")
        }
        other => other.to_string(),
    }
}

/// The names in what rustls has of them, `DnsName("coordinator.example")`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').to_owned()
    };
    presented.iter().map(bare).collect::<Vec<_>>().join(", ")
}
