//! From an intent to the command that the agent gets.

use rekeeper_shared::document::Packed;
use rekeeper_shared::place::ZkPath;
use rekeeper_shared::plan::{Plan, SetIx, TableIx};
use rekeeper_shared::problem::Code;
use rekeeper_shared::settle::Allowed;
use rekeeper_shared::step::{Command, Failure, Order, Role, SetRef, StepKind, TableRef, Target, Witness};

use crate::plan::Allowances;
use crate::progress::{Intent, Progress};
use crate::store::Store;

/// Builds the command of an intent that is on disk.
///
/// # Errors
/// A failure of the step when a document that it needs is lost or changed.
pub(super) async fn build(
    plan: &Plan,
    progress: &Progress,
    intent: Intent,
    store: &impl Store,
) -> Result<Command, Failure> {
    let document = match needed(plan, progress, intent) {
        Some((digest, what)) => document(store, digest, what).await?,
        None => nothing(),
    };
    with(plan, progress, intent, document)
}

/// The command of an intent without the documents that it would take along, for a question and not for an order.
///
/// # Errors
/// When the intent does not fit its target.
pub fn build_without_documents(plan: &Plan, progress: &Progress, intent: Intent) -> Result<Command, Failure> {
    with(plan, progress, intent, nothing())
}

fn nothing() -> Packed {
    Packed {
        digest: String::new(),
        bytes: Vec::new(),
    }
}

/// The document that the command of an intent takes along: its digest, and what it is.
fn needed<'a>(plan: &Plan, progress: &'a Progress, intent: Intent) -> Option<(Option<&'a str>, &'static str)> {
    let Target::Table(table) = intent.target else {
        return None;
    };
    let set = &progress.sets[plan.tables[table].set];
    match (intent.step, set.reference) {
        (StepKind::Attach, _) => Some((set.record.as_deref(), "part set of record")),
        (StepKind::Restore, Some(first)) if first != table => {
            Some((manifest_of(progress, first), "manifest of the reference"))
        }
        _ => None,
    }
}

fn manifest_of(progress: &Progress, table: TableIx) -> Option<&str> {
    progress.tables[table].manifest.as_ref().map(|m| m.digest.as_str())
}

fn with(plan: &Plan, progress: &Progress, intent: Intent, document: Packed) -> Result<Command, Failure> {
    let order = match intent.target {
        Target::Host(_) => Order::Restart,
        Target::Set(set) => set_order(plan, progress, intent.step, set)?,
        Target::Table(table) => table_order(plan, progress, intent.step, table, document)?,
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
    document: Packed,
) -> Result<Order, Failure> {
    let reference = table_ref(plan, table);
    let set = plan.tables[table].set;
    Ok(match step {
        StepKind::Sync => Order::Sync(reference),
        StepKind::Detach => Order::Detach(reference),
        StepKind::Reattach => Order::Reattach(reference),
        StepKind::Finish => Order::Finish(reference),
        StepKind::Attach => Order::Attach {
            table: reference,
            witness: witness(plan, set),
            record: document,
            manifest: manifest_of(progress, table).map(str::to_owned),
        },
        StepKind::Restore => {
            let role = match progress.sets[set].reference {
                Some(first) if first != table => Role::Follower { reference: document },
                _ => Role::Reference,
            };
            Order::Restore {
                table: reference,
                role,
                manifest: manifest_of(progress, table).unwrap_or_default().to_owned(),
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

/// Whether the parts of the table have to come in order: every engine but plain MergeTree may take the later part for
/// the newer one.
fn keep_order(plan: &Plan, table: TableIx) -> bool {
    let planned = &plan.tables[table];
    let allowances = Allowances::parse(&plan.request.allow).unwrap_or_default();
    planned.engine != "ReplicatedMergeTree"
        && !allowances.allows(Code::PartsOutOfOrder, Some(&planned.name.to_string()))
}

fn set_ref(plan: &Plan, progress: &Progress, set: SetIx) -> SetRef {
    let planned = &plan.sets[set];
    // What is allowed was checked when the plan was made.
    let allowances = Allowances::parse(&plan.request.allow).unwrap_or_default();
    let names = || planned.tables.iter().map(|&t| plan.tables[t].name.to_string());
    SetRef {
        place: planned.place.clone(),
        path: planned.path.clone(),
        replicas: plan.replica_names(set),
        allowed: Allowed {
            lost_parts: names().any(|name| allowances.allows(Code::LostParts, Some(&name))),
        },
        recorded: progress.sets[set].record.is_some(),
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
    }
}
