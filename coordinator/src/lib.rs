//! The coordinator: plan, persisted progress, and the agents' streams.

pub mod agents;
pub mod config;
pub mod progress;
pub mod store;
