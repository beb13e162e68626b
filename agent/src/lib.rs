//! The agent: does the work of a migration on one ClickHouse host.

pub mod app;
pub mod clickhouse;
pub mod clock;
pub mod config;
mod definition;
pub mod doing;
pub mod executor;
pub mod export;
pub mod inspect;
pub mod known;
pub mod outbox;
pub mod rules;
pub mod state;
pub mod steps;
pub mod stream;
pub mod watch;
mod words;
pub mod znodes;
pub mod zookeeper;
