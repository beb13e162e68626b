//! The agent: does the work of a migration on one ClickHouse host.

pub mod clickhouse;
pub mod inspect;
pub mod state;
pub mod steps;
mod words;
pub mod zookeeper;
