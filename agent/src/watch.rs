//! Stops merges again, after any start of the server, of the tables whose parts are not accounted for yet.
//!
//! ClickHouse starts merges with every server and every SYSTEM RESTART REPLICA, and tells nobody whether they are stopped.
//! A merge that runs tells that they are not: whoever has started them, they are stopped again, and it is cut off. The race
//! may be lost by some merges, short ones above all; those can be accounted for, more and more of them only with less
//! proof.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use rekeeper_shared::domain::ids::{MigrationName, TableName};
use tokio::time::{sleep, timeout};

use crate::clickhouse::{ClickHouse, Statement};
use crate::state::{Held, State};

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
    let mut stopped: HashSet<(MigrationName, String)> = HashSet::new();
    loop {
        sleep(POLL).await;
        let held = state.held_merges();
        if held.is_empty() {
            (server, stopped) = (None, HashSet::new());
            continue;
        }
        let (started, merging) = started(&clickhouse).await;
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
        let key = |held: &Held| (held.migration.clone(), held.stem.clone());
        let is_merged = |held: &&Held| held.table.as_ref().is_some_and(|table| merging.contains(&table.name));
        for held in held.iter().filter(is_merged) {
            if stopped.remove(&key(held)) {
                tracing::warn!(migration = %held.migration, table = held.stem, "somebody has started merges");
            }
        }
        let new = held.into_iter().filter(|held| !stopped.contains(&key(held)));
        // Together, so that they are looked for together.
        let stop = |held: Held| async {
            let is_stopped = stop(&clickhouse, &state, &held).await;
            is_stopped.then_some(held)
        };
        let now: Vec<_> = stream::iter(new).map(stop).buffer_unordered(AT_A_TIME).collect().await;
        stopped.extend(now.iter().flatten().map(key));
    }
}

/// When the server that answers was started, as far as that can be told, none when none answers; and the tables of which
/// it merges parts.
async fn started(clickhouse: &ClickHouse) -> (Option<Instant>, Vec<TableName>) {
    let Ok(Ok((uptime, merging))) = timeout(PATIENCE, clickhouse.uptime_and_merging()).await else {
        return (None, Vec::new());
    };
    (Instant::now().checked_sub(Duration::from_secs(uptime)), merging)
}

/// Whether they are stopped now, or need not be any more. A table that is not attached is looked at again.
async fn stop(clickhouse: &ClickHouse, state: &State, held: &Held) -> bool {
    // A look takes a while, and whoever finishes the table waits for the turn.
    let name = match &held.table {
        Some(table) => {
            let is_it = clickhouse.uuid_of(&table.name).await;
            let is_it = is_it.is_ok_and(|uuid| uuid.is_some_and(|uuid| uuid == table.uuid));
            is_it.then(|| table.name.clone())
        }
        None => clickhouse.name_of(&held.stem).await.ok().flatten(),
    };
    let turn = state.turn_of_held(held);
    let _turn = turn.lock().await;
    if !state.still_holds(held) {
        return true;
    }
    let Some(name) = name else {
        return false;
    };
    let migration = &held.migration;
    let outcome = clickhouse.execute(Statement::StopMerges(&name)).await;
    match &outcome {
        Ok(()) => tracing::info!(%migration, table = %name, "merges stopped: its parts are not accounted for yet"),
        Err(error) => tracing::warn!(table = %name, error = error.in_full(), "merges could not be stopped"),
    }
    outcome.is_ok()
}
