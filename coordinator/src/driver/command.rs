//! From an intent to the command that the agent gets.

use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::plan::{Plan, SetIx, TableIx};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Command, Failure, Order, Role, SetRef, StepKind, TableRef, Target, Witness};
use rekeeper_shared::domain::unsettled::Allowed;

use crate::agents::Subject;
use crate::progress::{Intent, Progress};
use crate::store::{self, Store};

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
        let (needed, manifest) = needed(plan, progress, intent);
        Self {
            needed: (needed.into_iter())
                .map(|(digest, what)| (digest.map(str::to_owned), what))
                .collect(),
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

/// The documents that the command of an intent takes along, the record first: digests, and what they are; and the
/// manifest that its own table has.
fn needed<'a>(
    plan: &Plan,
    progress: &'a Progress,
    intent: Intent,
) -> (Vec<(Option<&'a str>, &'static str)>, Option<&'a str>) {
    let Target::Table(table) = intent.target else {
        return (Vec::new(), None);
    };
    let set = &progress.sets[plan.tables[table].set];
    let record = (set.record.as_deref(), "part set of record");
    match intent.step {
        StepKind::Attest => (vec![record], None),
        StepKind::Attach => (vec![record], manifest_of(progress, table)),
        StepKind::Restore => {
            let mut needed = Vec::new();
            let order = progress.restore_order(plan, plan.tables[table].set);
            if let Some((&first, others)) = order.split_first()
                && first != table
            {
                needed.extend([record, (manifest_of(progress, first), "manifest of the reference")]);
                // Only then may one of them have brought parts.
                let earlier = others.iter().take_while(|&&other| set.one_by_one && other != table);
                needed.extend(earlier.map(|&other| (manifest_of(progress, other), "manifest of a replica")));
            }
            (needed, manifest_of(progress, table))
        }
        StepKind::Sync
        | StepKind::Freeze
        | StepKind::Detach
        | StepKind::Reattach
        | StepKind::Settle
        | StepKind::Record
        | StepKind::Clean
        | StepKind::Release
        | StepKind::Restart
        | StepKind::Witness
        | StepKind::Clear
        | StepKind::Finish => (Vec::new(), None),
    }
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
    Ok(Command {
        migration: plan.name.clone(),
        attempt: intent.attempt,
        order: order(plan, progress, intent, documents, manifest).ok_or_else(|| mismatch(intent.step))?,
    })
}

/// None when the step does not fit its target.
fn order(
    plan: &Plan,
    progress: &Progress,
    intent: Intent,
    documents: Vec<Packed>,
    manifest: Option<Packed>,
) -> Option<Order> {
    let mut documents = documents.into_iter();
    let mut next = || documents.next().unwrap_or_else(|| only_digest(""));
    let (of_table, of_set) = match intent.target {
        Target::Table(table) => (Some(table), None),
        Target::Set(set) => (None, Some(set)),
        Target::Host(_) => (None, None),
    };
    let table = || Some(table_ref(plan, of_table?));
    let set = || Some(set_ref(plan, progress, of_set?));
    let set_of_table = || Some(plan.tables[of_table?].set);
    Some(match intent.step {
        StepKind::Sync => Order::Sync(table()?),
        StepKind::Freeze => Order::Freeze(set()?),
        StepKind::Detach => Order::Detach(table()?),
        StepKind::Reattach => Order::Reattach(table()?),
        StepKind::Settle => Order::Settle(set()?),
        StepKind::Record => Order::Record(set()?),
        StepKind::Attest => Order::Attest {
            table: table()?,
            set: set_ref(plan, progress, set_of_table()?),
            record: next(),
        },
        StepKind::Clean => Order::Clean(set()?),
        StepKind::Release => Order::Release(set()?),
        StepKind::Restart => Order::Restart,
        StepKind::Witness => Order::Witness(witness(plan, of_set?)),
        StepKind::Attach => Order::Attach {
            table: table()?,
            witness: witness(plan, set_of_table()?),
            record: next(),
            manifest,
        },
        StepKind::Restore => {
            let set = set_of_table()?;
            let role = match progress.restore_order(plan, set).first() {
                Some(&first) if of_table != Some(first) => Role::Follower {
                    record: next(),
                    before: documents.collect(),
                },
                Some(_) | None => Role::Reference,
            };
            Order::Restore {
                table: table()?,
                role,
                manifest: manifest.unwrap_or_else(|| only_digest("")),
                witness: witness(plan, set),
                merges_keep_rows: plan.tables[of_table?].merges_keep_rows(),
                keep_order: plan.keep_order(of_table?),
                replicas: plan.replica_names(set),
            }
        }
        StepKind::Clear => Order::Clear(table()?),
        StepKind::Finish => Order::Finish(table()?),
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
    let lost = |why| Failure::lasting(Code::StoredDocumentLost, why);
    let digest = digest.ok_or_else(|| lost(format!("the {what} was never written down")))?;
    store::document(store, digest, what).await.map_err(lost)
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
            diverged: progress.sets[set].is_diverged(),
            ..plan.allowed(set)
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
