//! The wire: messages made from the proto files, their conversion from and to the domain, and why a call is refused.

pub mod convert;
pub mod reason;

/// The generated messages and services.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("rekeeper.v1");
}

/// Bytes of what an agent says, as it is sent.
#[must_use]
pub fn size(message: &v1::FromAgent) -> usize {
    prost::Message::encoded_len(message)
}

/// Largest message, in bytes, that either side takes: a manifest or a record of a million parts fits.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;
