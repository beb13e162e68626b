//! The agent: does the work of a migration on one ClickHouse host.

pub mod app;
pub mod clickhouse;
pub mod config;
pub mod doing;
pub mod executor;
pub mod known;
pub mod outbox;
pub mod state;
pub mod steps;
pub mod stream;
pub mod zookeeper;

/// An error and its sources in one line.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
