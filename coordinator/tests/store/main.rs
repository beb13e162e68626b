//! What every store must hold, and what the embedded one holds beside it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod conformance;
mod killed;
mod sqlite;
mod support;

conformance::suite!(sqlite_conforms, rekeeper_coordinator::store::SqliteStore);
