//! The agent: does the work of a migration on one ClickHouse host.

pub mod clickhouse;
pub mod state;
pub mod steps;
