//! The domain of Rekeeper: what coordinator, agent and command line share. No tonic, no prost, no network.
//!
//! Names, plan, steps, documents (part set of record, manifest), the pure rules over them (settling, accounting),
//! the views that people see as JSON, and the small things that every program needs (configuration, telemetry).

pub mod accounting;
pub mod backoff;
pub mod causes;
pub mod config;
pub mod document;
pub mod durable;
pub mod forecast;
pub mod ids;
pub mod inventory;
pub mod mutation;
pub mod part;
pub mod place;
pub mod plan;
pub mod problem;
pub mod rehearsal;
pub mod remedy;
pub mod report;
pub mod reserve;
pub mod settle;
pub mod step;
pub mod telemetry;
pub mod union;
pub mod unseen;
pub mod versions;
pub mod view;

/// Version of the protocol between agent and coordinator; both must speak the same.
pub const PROTOCOL_VERSION: u32 = 2;
