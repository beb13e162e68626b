//! The report of a migration, one table replica at a time: together they may be larger than a message.

use std::sync::Arc;

use futures::StreamExt as _;
use rekeeper_shared::domain::account::RestoreAccount;
use rekeeper_shared::domain::document::{Manifest, unpack};
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::plan::Plan;
use rekeeper_shared::domain::problem::{Code, Problem};
use rekeeper_shared::people::report::{ExportReport, ReportView, TableReport, fates, parts_and_folders};
use serde::de::DeserializeOwned;

use super::{AskAgents, Error, Operations, Pieces};
use crate::progress::Progress;
use crate::progress::report::Reported;
use crate::store::{self, Store};

/// Documents that are read before they are asked for.
const AHEAD: usize = 4;

impl<S: Store, A: AskAgents> Operations<S, A> {
    /// The head without tables, then one view for each table; the reader puts them together.
    ///
    /// # Errors
    /// There is no such migration.
    pub async fn report(&self, name: &MigrationName) -> Result<Pieces<ReportView>, Error> {
        let (plan, progress) = self.driver.progress(name).await?;
        Ok(pieces(Arc::clone(&self.store), &plan, &progress))
    }
}

fn pieces<S: Store>(store: Arc<S>, plan: &Plan, progress: &Progress) -> Pieces<ReportView> {
    let (name, state, tables) = (plan.name.clone(), progress.state(plan), progress.reported(plan));
    let exports = plan.sets.iter().enumerate().filter_map(|(set, of)| {
        Some(ExportReport {
            zookeeper_path: of.path.to_string(),
            export: progress.export_status(plan, set)?,
        })
    });
    let exports: Vec<ExportReport> = exports.collect();
    let of = move |exports: Vec<ExportReport>, tables: Vec<TableReport>| {
        Ok(ReportView {
            name: name.clone(),
            state,
            exports,
            tables,
        })
    };
    let head = of(exports, Vec::new());
    let tables = futures::stream::iter(tables)
        .map(move |reported| filled(Arc::clone(&store), reported))
        .buffered(AHEAD)
        .map(move |table| of(Vec::new(), vec![table]));
    futures::stream::once(async { head }).chain(tables).boxed()
}

/// The table with its parts. A document that is lost is its problem, and no reason to be silent about the others.
async fn filled<S: Store>(store: Arc<S>, reported: Reported) -> TableReport {
    let Reported {
        mut table,
        manifest,
        account,
    } = reported;
    let read = async {
        let manifest: Option<Manifest> = document(&*store, manifest.as_deref(), "manifest").await?;
        let account: Option<RestoreAccount> = document(&*store, account.as_deref(), "account").await?;
        Ok::<_, String>((manifest, account))
    };
    match read.await {
        Ok((Some(manifest), account)) => {
            let (parts, folders) = parts_and_folders(&manifest, account.as_ref());
            table.fates = fates(&parts);
            (table.parts, table.detached) = (Some(parts), folders);
        }
        Ok((None, _)) => {}
        Err(lost) => table.problem = Some(Problem::new(Code::StoredDocumentLost, lost)),
    }
    table
}

async fn document<T: DeserializeOwned>(
    store: &impl Store,
    digest: Option<&str>,
    what: &str,
) -> Result<Option<T>, String> {
    let Some(digest) = digest else { return Ok(None) };
    let packed = store::document(store, digest, what).await?;
    unpack(&packed.bytes, None)
        .map(Some)
        .map_err(|e| format!("the {what} ({digest}) cannot be read: {e}"))
}
