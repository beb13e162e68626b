//! Stops merges again, after any start of the server, of the tables whose parts are not accounted for yet.
//!
//! ClickHouse starts merges with every server, and tells nobody whether they are stopped. The race may be lost by some
//! merges; those can be accounted for, more and more of them only with less proof.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use rekeeper_shared::ids::MigrationName;
use rekeeper_shared::step::TableRef;
use tokio::time::{sleep, timeout};

use crate::clickhouse::{ClickHouse, Statement};
use crate::state::State;
use crate::words::in_full;

/// How often the server is looked at while merges of a table are held.
const POLL: Duration = Duration::from_millis(300);
/// Of so many tables at a time merges are stopped.
const AT_A_TIME: usize = 64;
/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// `uptime()` counts whole seconds, and its answer is on its way for a while.
const RESOLUTION: Duration = Duration::from_secs(2);

/// Watches for ever.
pub async fn watch(clickhouse: ClickHouse, state: State) {
    let mut server: Option<Instant> = None;
    // By migration and table: stopped since that server was started.
    let mut stopped: HashSet<String> = HashSet::new();
    loop {
        sleep(POLL).await;
        let held = match held(&state).await {
            Ok(held) if held.is_empty() => {
                (server, stopped) = (None, HashSet::new());
                continue;
            }
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(error, "cannot see of which tables merges are held");
                continue;
            }
        };
        let started = started(&clickhouse).await;
        let is_same = match (server, started) {
            (Some(before), Some(now)) => now.saturating_duration_since(before) < RESOLUTION,
            _ => false,
        };
        if !is_same {
            (server, stopped) = (started, HashSet::new());
        }
        if started.is_none() {
            continue;
        }
        let key = |(migration, table): &(MigrationName, TableRef)| format!("{migration} {}", table.uuid);
        let new = held.into_iter().filter(|held| !stopped.contains(&key(held)));
        // Together, so that they are looked for together.
        let stop = |held: (MigrationName, TableRef)| async {
            let is_stopped = stop(&clickhouse, &state, &held.0, &held.1).await;
            is_stopped.then_some(held)
        };
        let now: Vec<_> = stream::iter(new).map(stop).buffer_unordered(AT_A_TIME).collect().await;
        stopped.extend(now.iter().flatten().map(key));
    }
}

async fn held(state: &State) -> Result<Vec<(MigrationName, TableRef)>, String> {
    let state = state.clone();
    let held = tokio::task::spawn_blocking(move || state.held_merges()).await;
    held.map_err(|e| e.to_string())?.map_err(|e| in_full(&e))
}

/// When the server that answers was started, as far as that can be told; none when none answers.
async fn started(clickhouse: &ClickHouse) -> Option<Instant> {
    let uptime = timeout(PATIENCE, clickhouse.uptime()).await.ok()?.ok()?;
    Instant::now().checked_sub(Duration::from_secs(uptime))
}

/// Whether they are stopped now, or need not be any more. A table that is not attached is looked at again.
async fn stop(clickhouse: &ClickHouse, state: &State, migration: &MigrationName, table: &TableRef) -> bool {
    // A look takes a while, and whoever finishes the table waits for the turn.
    let is_it = clickhouse.uuid_of(&table.name).await;
    let turn = state.merges_turn(table);
    let _turn = turn.lock().await;
    if !state.holds_merges(migration, table) {
        return true;
    }
    if !is_it.is_ok_and(|uuid| uuid.is_some_and(|uuid| uuid == table.uuid)) {
        return false;
    }
    let outcome = clickhouse.execute(Statement::StopMerges(&table.name)).await;
    match &outcome {
        Ok(()) => {
            tracing::info!(%migration, table = %table.name, "merges stopped: its parts are not accounted for yet")
        }
        Err(error) => tracing::warn!(table = %table.name, error = error.in_full(), "merges could not be stopped"),
    }
    outcome.is_ok()
}
