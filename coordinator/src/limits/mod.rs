//! How large and how many: what the coordinator takes of its callers, and where each limit is set. What exceeds one is
//! refused in words that name it. What is small and in memory anyway (texts of a message) has its limit where it is parsed.

mod budget;
mod frames;
mod measured;

use std::time::Duration;

use rekeeper_tls::Admission;
use serde::Deserialize;

pub use budget::{Budget, Held, Hold};
pub use measured::{Calls, Measured};

/// `limits:` of `coordinator.yaml`. docs/configuration.md says what each is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most bytes of an agent's hello, and of all else that an agent says and that has no document.
    pub hello_bytes: usize,
    /// Most bytes of what a person asks or orders.
    pub call_bytes: usize,
    /// Most bytes of an agent's message with its packed document.
    pub message_bytes: usize,
    /// Most bytes of an inventory once it is unpacked.
    pub inventory_bytes: u64,
    /// Most bytes of all messages of one caller that are not dealt with yet; further ones wait.
    pub caller_bytes: usize,
    /// The same of all callers.
    pub total_bytes: usize,
    /// Most calls that one caller has open.
    pub caller_calls: usize,
    /// Most connections of one certificate.
    pub caller_connections: usize,
    /// Most TLS handshakes that are under way.
    pub handshakes: usize,
    /// Most of them of one address.
    pub address_handshakes: usize,
    /// How long one may take.
    pub handshake_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let admission = Admission::default();
        Self {
            hello_bytes: 64 << 10,
            call_bytes: 1 << 20,
            message_bytes: 64 << 20,
            inventory_bytes: 128 << 20,
            caller_bytes: 64 << 20,
            total_bytes: 256 << 20,
            caller_calls: 64,
            caller_connections: admission.connections,
            handshakes: admission.handshakes,
            address_handshakes: admission.of_address,
            handshake_seconds: admission.within.as_secs(),
        }
    }
}

/// The least and the most of a field; above it the store or the agents refuse.
const LEAST_BYTES: usize = 1 << 10;
const MOST_MESSAGE: usize = rekeeper_proto::MAX_MESSAGE_BYTES;

impl Limits {
    /// Those of connections that have not said anything yet.
    #[must_use]
    pub fn admission(&self) -> Admission {
        Admission {
            handshakes: self.handshakes,
            of_address: self.address_handshakes,
            within: Duration::from_secs(self.handshake_seconds),
            connections: self.caller_connections,
        }
    }

    /// What cannot work, for people.
    pub fn check(&self, problems: &mut Vec<String>) {
        let mut wrong = |field: &str, what: String| problems.push(format!("limits.{field}: {what}"));
        for (field, bytes) in [("hello_bytes", self.hello_bytes), ("call_bytes", self.call_bytes)] {
            if !(LEAST_BYTES..=MOST_MESSAGE).contains(&bytes) {
                wrong(field, format!("{bytes} is not from {LEAST_BYTES} to {MOST_MESSAGE}"));
            }
        }
        if !(self.hello_bytes..=MOST_MESSAGE).contains(&self.message_bytes) {
            let (bytes, least) = (self.message_bytes, self.hello_bytes);
            wrong(
                "message_bytes",
                format!("{bytes} is not from hello_bytes ({least}) to {MOST_MESSAGE}"),
            );
        }
        if self.caller_bytes < self.message_bytes || self.caller_bytes < self.call_bytes {
            wrong(
                "caller_bytes",
                "one message has to fit: message_bytes or more, and call_bytes or more".to_owned(),
            );
        }
        if self.total_bytes < self.caller_bytes || self.total_bytes > 64 << 30 {
            wrong(
                "total_bytes",
                "it is caller_bytes or more, and 64 GiB at most".to_owned(),
            );
        }
        if self.inventory_bytes < 1 << 20 {
            wrong("inventory_bytes", "it is 1048576 or more".to_owned());
        }
        for (field, number) in [
            ("caller_calls", self.caller_calls),
            ("caller_connections", self.caller_connections),
            ("address_handshakes", self.address_handshakes),
        ] {
            if number == 0 {
                wrong(field, "it is 1 or more".to_owned());
            }
        }
        if self.handshakes < self.address_handshakes {
            let least = self.address_handshakes;
            wrong("handshakes", format!("it is address_handshakes ({least}) or more"));
        }
        if !(1..=60).contains(&self.handshake_seconds) {
            wrong("handshake_seconds", "it is from 1 to 60".to_owned());
        }
    }
}
