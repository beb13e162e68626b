//! What a report is made of: every table replica, and the digests of the documents that say where its parts are.

use std::collections::BTreeMap;

use rekeeper_shared::domain::plan::{Plan, TableIx};
use rekeeper_shared::people::report::{ReplicaRole, TableReport};

use super::Progress;

/// A table replica of a report, without its parts, and the documents that have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// What is known without any document.
    pub table: TableReport,
    /// Digest of its manifest, once that is written.
    pub manifest: Option<String>,
    /// Digest of its account, once it is restored.
    pub account: Option<String>,
}

impl Progress {
    /// Every table replica of the plan.
    #[must_use]
    pub fn reported(&self, plan: &Plan) -> Vec<Reported> {
        (0..plan.tables.len())
            .map(|table| self.reported_table(plan, table))
            .collect()
    }

    fn reported_table(&self, plan: &Plan, ix: TableIx) -> Reported {
        let (planned, progress) = (&plan.tables[ix], &self.tables[ix]);
        let role = self.restore_order(plan, planned.set).first().map(|&reference| {
            if reference == ix {
                ReplicaRole::Reference
            } else {
                ReplicaRole::Follower
            }
        });
        Reported {
            table: TableReport {
                host: plan.hosts[planned.host].name.clone(),
                database: planned.name.database.clone(),
                table: planned.name.table.clone(),
                zookeeper_path: plan.sets[planned.set].path.to_string(),
                replica_name: planned.replica_name.clone(),
                status: self.status_of(plan, ix),
                role,
                fates: BTreeMap::new(),
                parts: None,
                detached: None,
                problem: self.shown_problem(plan, ix).cloned(),
            },
            manifest: progress.manifest.as_ref().map(|manifest| manifest.digest.clone()),
            account: progress.account.clone(),
        }
    }
}
