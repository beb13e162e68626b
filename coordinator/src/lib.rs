//! The coordinator: plan, persisted progress, and the agents' streams.

pub mod plan;
pub mod progress;
