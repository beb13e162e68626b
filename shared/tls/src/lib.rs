//! Mutual TLS: the operator's own PKI files, how the coordinator takes connections and how it is dialed, and who is at
//! the other end. What a caller may do with its certificate is not decided here.
//!
//! TLS 1.3 only, one crypto provider (ring), no session resumption: a session that is resumed skips the check of the
//! certificates, and every connection is to be checked.

mod accept;
mod certificate;
mod connection;
mod crowd;
mod dial;
mod files;
mod refusals;
mod words;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use accept::{Security, Seldom, incoming};
pub use certificate::{Facts, Identity, Role, Unfit};
pub use connection::{Connection, Peer, Who};
pub use crowd::Admission;
pub use dial::{DialError, Dialer};
pub use files::{ClientFiles, Own, ServerFiles, authorities, client_config};
pub use refusals::{Refusal, Refusals};
pub use words::distrusted;

/// HTTP/2, and nothing else.
const PROTOCOL: &[u8] = b"h2";

/// The one crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
mod tests;
