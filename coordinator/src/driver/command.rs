//! From an intent to the command that the agent gets.

use rekeeper_shared::document::Packed;
use rekeeper_shared::place::ZkPath;
use rekeeper_shared::plan::{Plan, SetIx, TableIx};
use rekeeper_shared::problem::Code;
use rekeeper_shared::settle::Allowed;
use rekeeper_shared::step::{Command, Failure, Order, Role, SetRef, StepKind, TableRef, Target, Witness};

use crate::agents::Subject;
use crate::plan::{allowed, keep_order};
use crate::progress::{Intent, Progress};
use crate::store::Store;

/// The documents that the command of an intent takes along, by their digests: what is to be read before it can be sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    needed: Vec<(Option<String>, &'static str)>,
    /// The manifest that the table of the intent has, for an agent that has lost it.
    manifest: Option<String>,
}

/// The same, read.
#[derive(Debug, Default)]
pub(super) struct Documents {
    needed: Vec<Packed>,
    manifest: Option<Packed>,
}

impl Wanted {
    /// What the command takes along.
    pub(super) fn of(plan: &Plan, progress: &Progress, intent: Intent) -> Self {
        let manifest = match (intent.target, intent.step) {
            (Target::Table(table), StepKind::Attach | StepKind::Restore) => manifest_of(progress, table),
            _ => None,
        };
        let needed = needed(plan, progress, intent).into_iter();
        Self {
            needed: needed.map(|(digest, what)| (digest.map(str::to_owned), what)).collect(),
            manifest: manifest.map(str::to_owned),
        }
    }

    /// Whether nothing is to be read.
    pub(super) fn is_empty(&self) -> bool {
        self.needed.is_empty() && self.manifest.is_none()
    }

    /// Reads them.
    ///
    /// # Errors
    /// A failure of the step when a document that it needs is lost or changed. The table's own manifest goes without its
    /// bytes then: the agent should have it.
    pub(super) async fn load(&self, store: &impl Store) -> Result<Documents, Failure> {
        let mut documents = Documents::default();
        for (digest, what) in &self.needed {
            documents.needed.push(document(store, digest.as_deref(), what).await?);
        }
        if let Some(digest) = &self.manifest {
            let read = document(store, Some(digest), "manifest").await;
            documents.manifest = Some(read.unwrap_or_else(|lost| {
                tracing::error!(problem = %lost.problem, "only the agent has it now");
                only_digest(digest)
            }));
        }
        Ok(documents)
    }
}

/// Builds the command of an intent that is on disk.
///
/// # Errors
/// When the intent does not fit its target.
pub(super) fn build(
    plan: &Plan,
    progress: &Progress,
    intent: Intent,
    documents: Documents,
) -> Result<Command, Failure> {
    with(plan, progress, intent, documents.needed, documents.manifest)
}

/// The command of an intent without the documents that it would take along, for a question and not for an order.
///
/// # Errors
/// When the intent does not fit its target.
pub fn build_without_documents(plan: &Plan, progress: &Progress, intent: Intent) -> Result<Command, Failure> {
    with(plan, progress, intent, Vec::new(), None)
}

fn only_digest(digest: &str) -> Packed {
    Packed {
        digest: digest.to_owned(),
        bytes: Vec::new(),
    }
}

/// The documents that the command of an intent takes along, the record first: digests, and what they are.
fn needed<'a>(plan: &Plan, progress: &'a Progress, intent: Intent) -> Vec<(Option<&'a str>, &'static str)> {
    let Target::Table(table) = intent.target else {
        return Vec::new();
    };
    let set = &progress.sets[plan.tables[table].set];
    let mut needed = vec![(set.record.as_deref(), "part set of record")];
    let order = progress.restore_order(plan, plan.tables[table].set);
    match (intent.step, order.split_first()) {
        (StepKind::Attach | StepKind::Attest, _) => {}
        (StepKind::Restore, Some((&first, others))) if first != table => {
            needed.push((manifest_of(progress, first), "manifest of the reference"));
            // Only then may one of them have brought parts.
            let earlier = others.iter().take_while(|&&other| set.one_by_one && other != table);
            needed.extend(earlier.map(|&other| (manifest_of(progress, other), "manifest of a replica")));
        }
        _ => needed.clear(),
    }
    needed
}

fn manifest_of(progress: &Progress, table: TableIx) -> Option<&str> {
    progress.tables[table].manifest.as_ref().map(|m| m.digest.as_str())
}

fn with(
    plan: &Plan,
    progress: &Progress,
    intent: Intent,
    documents: Vec<Packed>,
    manifest: Option<Packed>,
) -> Result<Command, Failure> {
    let order = match intent.target {
        Target::Host(_) => Order::Restart,
        Target::Set(set) => set_order(plan, progress, intent.step, set)?,
        Target::Table(table) => table_order(plan, progress, intent.step, table, documents, manifest)?,
    };
    Ok(Command {
        migration: plan.name.clone(),
        attempt: intent.attempt,
        order,
    })
}

fn set_order(plan: &Plan, progress: &Progress, step: StepKind, set: SetIx) -> Result<Order, Failure> {
    let reference = set_ref(plan, progress, set);
    Ok(match step {
        StepKind::Freeze => Order::Freeze(reference),
        StepKind::Settle => Order::Settle(reference),
        StepKind::Record => Order::Record(reference),
        StepKind::Clean => Order::Clean(reference),
        StepKind::Release => Order::Release(reference),
        StepKind::Witness => Order::Witness(witness(plan, set)),
        other => return Err(mismatch(other)),
    })
}

fn table_order(
    plan: &Plan,
    progress: &Progress,
    step: StepKind,
    table: TableIx,
    documents: Vec<Packed>,
    manifest: Option<Packed>,
) -> Result<Order, Failure> {
    let mut documents = documents.into_iter();
    let reference = table_ref(plan, table);
    let set = plan.tables[table].set;
    Ok(match step {
        StepKind::Sync => Order::Sync(reference),
        StepKind::Detach => Order::Detach(reference),
        StepKind::Reattach => Order::Reattach(reference),
        StepKind::Clear => Order::Clear(reference),
        StepKind::Finish => Order::Finish(reference),
        StepKind::Attest => Order::Attest {
            table: reference,
            set: set_ref(plan, progress, set),
            record: documents.next().unwrap_or_else(|| only_digest("")),
        },
        StepKind::Attach => Order::Attach {
            table: reference,
            witness: witness(plan, set),
            record: documents.next().unwrap_or_else(|| only_digest("")),
            manifest,
        },
        StepKind::Restore => {
            let role = match progress.restore_order(plan, set).first() {
                Some(&first) if first != table => Role::Follower {
                    record: documents.next().unwrap_or_else(|| only_digest("")),
                    before: documents.collect(),
                },
                _ => Role::Reference,
            };
            Order::Restore {
                table: reference,
                role,
                manifest: manifest.unwrap_or_else(|| only_digest("")),
                witness: witness(plan, set),
                merges_keep_rows: plan.tables[table].merges_keep_rows(),
                keep_order: keep_order(plan, table),
                replicas: plan.replica_names(set),
            }
        }
        other => return Err(mismatch(other)),
    })
}

fn mismatch(step: StepKind) -> Failure {
    Failure::lasting(
        Code::CommandRefused,
        format!("{step} does not fit what it was ordered for"),
    )
    .with_fix("this is a fault of Rekeeper: report it with the output of rekeeper events")
}

async fn document(store: &impl Store, digest: Option<&str>, what: &str) -> Result<Packed, Failure> {
    let lost = |why: String| Failure::lasting(Code::StoredDocumentLost, format!("the {what} {why}"));
    let digest = digest.ok_or_else(|| lost("was never written down".to_owned()))?;
    match store.document(digest).await {
        Ok(Some(document)) => Ok(document),
        Ok(None) => Err(lost(format!("({digest}) is not in the store"))),
        Err(e) => Err(lost(format!("({digest}) cannot be read: {e}"))),
    }
}

fn table_ref(plan: &Plan, table: TableIx) -> TableRef {
    let planned = &plan.tables[table];
    TableRef {
        name: planned.name.clone(),
        uuid: planned.uuid.clone(),
        path: plan.sets[planned.set].path.clone(),
        replica_name: planned.replica_name.clone(),
    }
}

fn set_ref(plan: &Plan, progress: &Progress, set: SetIx) -> SetRef {
    let planned = &plan.sets[set];
    SetRef {
        place: planned.place.clone(),
        path: planned.path.clone(),
        replicas: plan.replica_names(set),
        allowed: Allowed {
            // Only when nothing else helps.
            diverged: progress.sets[set].diverged,
            ..allowed(plan, set)
        },
        recorded: progress.sets[set].record.is_some(),
    }
}

/// What an attempt is about: its event has to be proved by a document of the same.
pub(super) fn subject(plan: &Plan, progress: &Progress, target: Target) -> Subject {
    match target {
        Target::Host(_) => Subject::Other,
        Target::Set(set) => Subject::Set {
            place: plan.sets[set].place.clone(),
            path: plan.sets[set].path.clone(),
            replicas: plan.replica_names(set),
        },
        Target::Table(table) => {
            let planned = &plan.tables[table];
            let manifest = progress.tables[table].manifest.as_ref();
            Subject::Table {
                name: planned.name.clone(),
                uuid: planned.uuid.clone(),
                replica_name: planned.replica_name.clone(),
                manifest: manifest.map(|facts| (facts.digest.clone(), facts.parts)),
            }
        }
    }
}

/// The witness of a set: the same for every attempt, so that a command may be sent any number of times.
fn witness(plan: &Plan, set: SetIx) -> Witness {
    let planned = &plan.sets[set];
    let path: ZkPath = planned.path.clone();
    Witness {
        ensemble: planned.place.ensemble.clone(),
        node: format!("rekeeper-witness-{}-{set}", plan.name),
        content: format!("{} {} {path}", plan.name, plan.created),
        path,
        replicas: (planned.tables.iter())
            .map(|&table| (plan.tables[table].replica_name.clone(), plan.tables[table].uuid.clone()))
            .collect(),
    }
}
