//! Documents that commands take along, read beside the loop: whoever reads the store slowly, or much of it, holds no order
//! up. The loop polls what is under way here, so that it ends with the driver.

use std::collections::{HashSet, VecDeque};
use std::future::pending;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use futures::stream::{FuturesUnordered, StreamExt as _};
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::step::Failure;

use super::command::{Documents, Wanted};
use crate::progress::Intent;
use crate::store::Store;

/// Commands whose documents are read at a time: one document may have a part set of a million parts.
const AT_A_TIME: usize = 4;

/// What was read for a command, or why it cannot be given.
pub(super) struct Loaded {
    pub(super) migration: MigrationName,
    pub(super) intent: Intent,
    pub(super) wanted: Wanted,
    pub(super) documents: Result<Documents, Failure>,
}

/// The reads that wait, and those under way.
#[derive(Default)]
pub(super) struct Loads {
    waiting: VecDeque<BoxFuture<'static, Loaded>>,
    reading: FuturesUnordered<BoxFuture<'static, Loaded>>,
    of: HashSet<(MigrationName, u64)>,
}

impl Loads {
    /// Reads what a command takes along, unless that is being done already.
    pub(super) fn add<S: Store>(&mut self, migration: &MigrationName, intent: Intent, wanted: Wanted, store: &Arc<S>) {
        if !self.of.insert((migration.clone(), intent.attempt)) {
            return;
        }
        let (migration, store) = (migration.clone(), Arc::clone(store));
        let load = async move {
            let documents = wanted.load(&*store).await;
            Loaded {
                migration,
                intent,
                wanted,
                documents,
            }
        };
        self.waiting.push_back(load.boxed());
    }

    /// A command that cannot be made.
    pub(super) fn failed(&mut self, migration: &MigrationName, intent: Intent, failure: Failure) {
        let loaded = Loaded {
            migration: migration.clone(),
            intent,
            wanted: Wanted::default(),
            documents: Err(failure),
        };
        self.waiting.push_back(ready(loaded).boxed());
    }

    /// The next one that was read; never, when nothing is to be read. May be dropped at any time.
    pub(super) async fn next(&mut self) -> Loaded {
        while self.reading.len() < AT_A_TIME
            && let Some(load) = self.waiting.pop_front()
        {
            self.reading.push(load);
        }
        match self.reading.next().await {
            Some(loaded) => {
                self.of.remove(&(loaded.migration.clone(), loaded.intent.attempt));
                loaded
            }
            None => pending().await,
        }
    }
}
