//! What every program needs and what knows nothing of migrations: configuration files, logs, files that survive a crash,
//! waiting after failures.

pub mod backoff;
pub mod config;
pub mod durable;
pub mod reserve;
pub mod telemetry;
pub mod unseen;
