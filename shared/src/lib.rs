//! What coordinator, agent and command line share. No tonic, no prost, no network.
//!
//! [`domain`]: what a migration is made of. [`people`]: what people and their scripts see.
//! [`tools`]: the small things that every program needs. The domain knows nothing of what people see.

pub mod domain;
pub mod people;
pub mod tools;

/// Version of the protocol between agent and coordinator; both must speak the same.
pub const PROTOCOL_VERSION: u32 = 2;
