//! The coordinator: plan, persisted progress, and the agents' streams.

pub mod agents;
pub mod app;
pub mod config;
pub mod driver;
pub mod grpc;
pub mod limits;
pub mod operations;
pub mod plan;
pub mod progress;
pub mod store;
