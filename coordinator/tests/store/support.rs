//! Small plans, records and documents, and a store that is opened as soon as it can be.

use std::path::Path;
use std::time::{Duration, Instant};

use rekeeper_coordinator::progress::{Intent, Record};
use rekeeper_coordinator::store::{Append, Pending, Store, StoreError};
use rekeeper_shared::domain::document::{self, Packed};
use rekeeper_shared::domain::plan::{Plan, PlanRequest};
use rekeeper_shared::domain::step::{StepKind, Target};

/// Saves a small plan.
pub(crate) fn save(store: &impl Store, name: &str) -> Pending<()> {
    let plan = plan(name);
    store.save_plan(&plan, document::pack(&plan).unwrap())
}

pub(crate) fn plan(name: &str) -> Plan {
    Plan {
        name: name.parse().unwrap(),
        created: "2026-01-01T00:00:00.000Z".into(),
        created_by: "test".into(),
        request: PlanRequest::default(),
        hosts: vec![],
        tables: vec![],
        sets: vec![],
        waves: vec![],
        warnings: vec![],
        forecasts: vec![],
        attested: true,
    }
}

pub(crate) fn record(attempt: u64) -> Record {
    Record::Intent(Intent {
        attempt,
        host: 0,
        step: StepKind::Detach,
        target: Target::Table(0),
    })
}

pub(crate) fn append(migration: &str, attempt: u64) -> Append {
    Append {
        migration: migration.parse().unwrap(),
        record: record(attempt),
        document: None,
    }
}

pub(crate) fn some_document(content: u64) -> Packed {
    document::pack(&vec![content; 100]).unwrap()
}

/// Opens a store, for a while also one that is in use: a process that another test is about to start holds the lock of one
/// that was just closed.
pub(crate) fn open<S: Store>(folder: &Path) -> Result<S, StoreError> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match S::open(folder) {
            Err(StoreError::InUse(_)) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.map(|(store, _)| store),
        }
    }
}

pub(crate) fn open_error<S: Store>(folder: &Path) -> StoreError {
    open::<S>(folder).err().unwrap()
}
