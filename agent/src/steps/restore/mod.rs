//! Restore: new metadata from the parts on the disk, and an account of every one of them.
//!
//! `SYSTEM RESTORE REPLICA` moves all parts to `detached/`, makes the nodes, and on the first replica attaches the parts
//! again, under new names; a later replica clones the first. It may be cut at any point, so what to do next is always
//! decided by what is there.

mod account;
mod collided;
mod follow;
mod following;
mod kept;
pub(super) mod leftovers;
mod put_back;
mod since;
pub(super) mod strangers;
pub(super) mod unexpected;
mod writable;

use std::collections::HashSet;
use std::time::Duration;

use rekeeper_shared::accounting::{Account, Evidence, Fate, account, out_of_order};
use rekeeper_shared::document::{Manifest, Packed};
use rekeeper_shared::ids::quote_literal;
use rekeeper_shared::problem::Code;
use rekeeper_shared::step::{Done, Failure, Restored, Role, TableRef, Witness};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::clickhouse::{Cache, DetachedPart, Statement};
use crate::state::RestoreNote;
use crate::steps::clear::drop_caches;
use crate::steps::shared::manifest::on_record;
use crate::steps::shared::names::kept_name;
use crate::steps::shared::wait::{polls, until_alone, until_in_service};
use crate::steps::{Context, Finished, StepResult, failed, state_failed};
use crate::zookeeper::{RestoredReplica, RestoredState};
use following::Following;

/// What is ordered.
#[derive(Debug, Clone)]
pub struct Restore<'a> {
    /// The table.
    pub table: &'a TableRef,
    /// First and alone, or after the reference.
    pub role: &'a Role,
    /// The table's own manifest, as the coordinator has it; without bytes when it has lost it.
    pub manifest: &'a Packed,
    /// Where the server proved its place; taken away by the reference.
    pub witness: &'a Witness,
    /// Whether merges of the engine keep the number of rows.
    pub merges_keep_rows: bool,
    /// Whether the order of parts matters: the engine takes the later one for the newer.
    pub keep_order: bool,
    /// The names of all replicas of the set.
    pub replicas: &'a [String],
}

/// How long a table may take to come into service, and ZooKeeper to know of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server may take that has just started with the metadata that an earlier attempt made.
pub(super) const BY_ITSELF: Duration = Duration::from_secs(10);
/// What is told where nothing more special is known.
pub(super) const CODE: Code = Code::RestoreFailed;

/// Restores a table replica; done when every part of its manifest is accounted for. Merges stay stopped.
///
/// # Errors
/// RESTORE_FAILED, PATH_EXISTS, PLACE_DIFFERS, RECORD_DISPUTED, RECORDED_PARTS_MISSING, PARTS_NOT_ON_RECORD,
/// DETACHED_COLLISION, PARTS_UNACCOUNTED, PARTS_OUT_OF_ORDER, OLD_READERS, MANIFEST_LOST, METADATA_VERSION_DIFFERS,
/// TABLE_CHANGED, STORED_DOCUMENT_LOST.
pub async fn restore(context: &Context, order: &Restore<'_>) -> StepResult {
    let work = Work::new(context, order)?;
    // The note of the attach may have been lost.
    let held = context.state.hold_merges(&context.migration, order.table);
    held.map_err(state_failed(CODE))?;
    until_alone(context, order.table, CODE).await?;
    let (counts, account) = match work.accounted()? {
        // Accounted for already; if only it is still there.
        Some(known) if work.until_in_service(BY_ITSELF).await?.is_ok() => {
            work.agree().await?;
            known
        }
        _ => match work.run().await {
            Ok(made) => made,
            Err(failure) => {
                // Users write already, so deduplication is never left off. Merges stay forbidden for the next attempt: a
                // server that is started meanwhile would begin some. A table that is left alone gets both back.
                let which = if failure.retry {
                    leftovers::Which::Deduplication
                } else {
                    leftovers::Which::All
                };
                if let Err(also) = leftovers::put_settings_back(&work, which).await {
                    tracing::warn!(table = %order.table.name, error = %also.problem, "settings are not put back");
                }
                return Err(failure);
            }
        },
    };
    work.note_accounted(counts, &account)?;
    leftovers::put_settings_back(&work, leftovers::Which::All).await?;
    if *order.role == Role::Reference {
        context.zookeeper.remove_witness(order.witness).await?;
    }
    Ok(Finished {
        done: Done::Restored {
            counts,
            account: account.digest.clone(),
        },
        document: Some(account),
    })
}

/// One attempt to restore a table.
pub(super) struct Work<'a> {
    pub(super) context: &'a Context,
    pub(super) table: &'a TableRef,
    pub(super) order: &'a Restore<'a>,
    pub(super) manifest: Manifest,
    /// What a follower has to follow.
    following: Option<Following>,
    /// Up to which entry this attempt has read the log.
    pub(super) log_seen: Mutex<i64>,
}

impl<'a> Work<'a> {
    fn new(context: &'a Context, order: &'a Restore<'a>) -> Result<Self, Failure> {
        let table = order.table;
        let manifest = on_record(context, table, order.manifest)?.manifest;
        let following = match order.role {
            Role::Reference => None,
            Role::Follower { record, before } => Some(Following::read(context, table, record, before)?),
        };
        Ok(Self {
            context,
            table,
            order,
            manifest,
            following,
            log_seen: Mutex::new(0),
        })
    }

    /// The reference's manifest, on a follower.
    pub(super) fn reference(&self) -> Option<&Manifest> {
        let before = self.following.as_ref().map(|following| &following.before)?;
        before.first().map(|(manifest, _)| manifest)
    }

    /// Everything until every part is accounted for.
    async fn run(&self) -> Result<(Restored, Packed), Failure> {
        let turn = match self.order.role {
            Role::Reference => None,
            Role::Follower { .. } => Some(self.context.clickhouse.restore_turn().await),
        };
        self.until_writable().await?;
        // At once, so that wrong answers are short; and once more by Clear, when none can come back.
        drop_caches(self.context, &Cache::ALL, CODE).await?;
        if let Role::Reference = self.order.role {
            self.alone().await?;
        }
        // Before anything is attached here whose version is above that of the table; and what a follower's RESTORE has
        // added keeps the others from ALTERs.
        self.agree().await?;
        match self.order.role {
            Role::Reference => {
                leftovers::attach(self).await?;
            }
            Role::Follower { .. } => {
                self.follow().await?;
                drop(turn);
                drop_caches(self.context, &Cache::ALL, CODE).await?;
                leftovers::attach(self).await?;
            }
        }
        self.until_registered().await?;
        let account = self.account_in_time().await?;
        if !account.is_complete() {
            return Err(self.unaccounted(&account).await);
        }
        self.check_order().await?;
        self.give_names_away().await?;
        self.agree().await?;
        self.written_down(account).await
    }

    pub(super) fn doing(&self, text: impl AsRef<str>) {
        self.context.doing(format!("{}: {}", self.table.name, text.as_ref()));
    }

    pub(super) async fn execute(&self, statement: Statement<'_>) -> Result<(), Failure> {
        self.context.clickhouse.execute(statement).await.map_err(failed(CODE))
    }

    pub(super) async fn stop_merges(&self) -> Result<(), Failure> {
        self.execute(Statement::StopMerges(&self.table.name)).await
    }

    /// The nodes at the table's path, where the server is configured for them now.
    pub(super) async fn nodes(&self) -> Result<Option<RestoredState>, Failure> {
        let ensemble = &self.order.witness.ensemble;
        self.context.zookeeper.restored_state(ensemble, &self.table.path).await
    }

    pub(super) async fn until_in_service(&self, patience: Duration) -> Result<Result<(), String>, Failure> {
        until_in_service(self.context, self.table, patience, CODE).await
    }

    /// Waits until ZooKeeper has this replica and the reference under one path, active, and with nothing to take up of
    /// what was in the log when the wait began (users may write all the time).
    async fn until_registered(&self) -> Result<(), Failure> {
        let mut expected = vec![self.table.replica_name.clone()];
        let before = self.following.iter().flat_map(|following| &following.before);
        expected.extend(before.map(|(manifest, _)| manifest.replica_name.clone()));
        let deadline = Instant::now() + PATIENCE;
        let (mut goal, mut polls) = (None, polls());
        loop {
            let Some(mut nodes) = self.nodes().await? else {
                return Err(Failure::lasting(
                    Code::PlaceDiffers,
                    format!(
                        "{} was restored, but {} is not there where the server's configuration says",
                        self.table.name, self.table.path
                    ),
                ));
            };
            let planned = |r: &RestoredReplica| self.order.replicas.contains(&r.name);
            if !nodes.replicas.iter().all(planned) {
                let owners = self.owners().await?;
                return Err(self.taken(&self.strangers(&owners)));
            }
            let (log_end, waiting) = goal.get_or_insert_with(|| (nodes.log_end, names_of_waiting(&nodes)));
            nodes.log_end = *log_end;
            for replica in &mut nodes.replicas {
                replica
                    .waiting
                    .retain(|entry| waiting.contains(&(replica.name.clone(), entry.name.clone())));
            }
            let missing = nodes.missing(&expected);
            if missing.is_empty() {
                return Ok(());
            }
            self.reference_is_registered(&nodes)?;
            let missing = missing.join("; ");
            if Instant::now() >= deadline {
                return Err(Failure::passing(CODE, format!("{}: {missing}", self.table.path)));
            }
            self.doing(format!("waits for ZooKeeper: {missing}"));
            tokio::time::sleep(polls.next_delay()).await;
        }
    }

    /// It was, when this replica's turn came; whoever drops its table takes it, or the whole path, away.
    fn reference_is_registered(&self, nodes: &RestoredState) -> Result<(), Failure> {
        let Some(reference) = self.reference().map(|manifest| &manifest.replica_name) else {
            return Ok(());
        };
        if nodes.replicas.iter().any(|replica| replica.name == *reference) {
            return Ok(());
        }
        let text = format!(
            "the reference, replica {reference} of {}, was restored and is not registered any more: somebody has dropped its \
             table",
            self.table.path
        );
        Err(Failure::lasting(Code::PathExists, text).with_fix(self.without_the_reference(reference)))
    }

    /// What to do when somebody has dropped the reference after it was restored.
    pub(super) fn without_the_reference(&self, reference: &str) -> String {
        format!(
            "if the table of replica {reference} was dropped, the replicas that are left have its rows and go on without it: \
             rekeeper skip {} --table {} --host and the host of replica {reference}",
            self.context.migration,
            quote_literal(&self.table.name.to_string())
        )
    }

    /// The account. Where this replica brings parts that the reference has still to fetch, what is open may be gone from
    /// the reference too, which can be said only when that one waits for nothing.
    pub(super) async fn account_in_time(&self) -> Result<Account, Failure> {
        let brings = self.following.as_ref().is_some_and(Following::is_decided);
        let deadline = Instant::now() + PATIENCE;
        let mut polls = polls();
        loop {
            let account = self.account().await?;
            if account.is_complete() || !brings || Instant::now() >= deadline {
                return Ok(account);
            }
            self.doing("waits for the reference to have what was brought");
            tokio::time::sleep(polls.next_delay()).await;
        }
    }

    pub(super) async fn detached_parts(&self) -> Result<Vec<DetachedPart>, Failure> {
        let folders = self.context.clickhouse.detached_parts(&self.table.name).await;
        folders.map_err(failed(CODE))
    }

    /// Whether rows may expire in merges, of whatever engine.
    async fn has_ttl(&self) -> Result<bool, Failure> {
        let engine = self.context.clickhouse.engine_of(&self.table.name).await;
        Ok(engine
            .map_err(failed(CODE))?
            .is_some_and(|engine| engine.contains(" TTL ")))
    }

    /// Where the order of parts matters, it has to be that of the manifest, with what users wrote since at the end.
    async fn check_order(&self) -> Result<(), Failure> {
        if !self.order.keep_order || self.following.is_some() {
            return Ok(()); // A follower has its parts of the reference, under the same names.
        }
        let active = self.context.clickhouse.active_parts(&self.table.name).await;
        let active = active.map_err(failed(CODE))?;
        let again = out_of_order(&self.manifest.parts, &active);
        if again.is_empty() {
            return Ok(());
        }
        let table = self.table.name.sql();
        let folders = self.detached_parts().await?;
        let statements = again.iter().map(|name| {
            let part = quote_literal(name);
            // ATTACH PART would take what lies there for the part.
            let in_the_way = folders.iter().find(|folder| folder.name == *name);
            let away = in_the_way.map_or_else(String::new, |folder| {
                let to = folder.path.with_file_name(kept_name(&self.context.migration, name));
                format!("mv '{}' '{}'; ", folder.path.display(), to.display())
            });
            format!("{away}ALTER TABLE {table} DETACH PART {part}; ALTER TABLE {table} ATTACH PART {part} SETTINGS insert_deduplicate = 0")
        });
        let statements: Vec<String> = statements.collect();
        let text = format!(
            "all rows of {} are there, but {} parts stand before older ones, so that their rows count as older: {}",
            self.table.name,
            again.len(),
            statements.join("; ")
        );
        Err(Failure::lasting(Code::PartsOutOfOrder, text))
    }

    /// Where every part of the manifest is now.
    pub(super) async fn account(&self) -> Result<Account, Failure> {
        let (clickhouse, name) = (&self.context.clickhouse, &self.table.name);
        // The folders first: a part that is attached in between shows as both, never as neither.
        let (detached, has_ttl) = tokio::join!(clickhouse.detached_parts(name), self.has_ttl());
        let (detached, has_ttl) = (detached.map_err(failed(CODE))?, has_ttl?);
        let active = clickhouse.active_parts(name).await.map_err(failed(CODE))?;
        let detached = detached.into_iter().map(|part| part.name).collect();
        let late = match self.order.role {
            Role::Reference => self.restore_note()?.late.into_iter().collect(),
            Role::Follower { .. } => HashSet::new(),
        };
        let evidence = Evidence {
            manifest: &self.manifest,
            reference: self.reference().unwrap_or(&self.manifest),
            is_reference: self.following.is_none(),
            active: &active,
            detached: &detached,
            late: &late,
            dropped: &[],
            same_as_reference: false,
            merges_keep_rows: self.order.merges_keep_rows && !has_ttl,
        };
        let own = self.own_and_reference(evidence);
        if own.is_complete() {
            return Ok(own);
        }
        let dropped = self.dropped().await?;
        let evidence = Evidence {
            dropped: &dropped,
            ..evidence
        };
        let own = self.own_and_reference(evidence);
        match self.reference() {
            Some(reference) if !own.is_complete() => Ok(self.own_and_reference(Evidence {
                same_as_reference: self.same_as_reference(reference, &active).await?,
                ..evidence
            })),
            Some(_) | None => Ok(own),
        }
    }

    fn own_and_reference(&self, evidence: Evidence<'_>) -> Account {
        if let Some(following) = self.following.as_ref().filter(|following| following.is_decided()) {
            return following.account(evidence);
        }
        let mut own = account(evidence);
        if let Some(reference) = self.reference() {
            // Whatever its own parts were, a follower has to hold what the reference has.
            let held = account(Evidence {
                manifest: reference,
                ..evidence
            });
            let lacking = held
                .fates
                .into_iter()
                .filter(|(_, fate)| matches!(fate, Fate::Detached | Fate::Missing));
            own.fates.extend(lacking.map(|(name, _)| (name, Fate::Missing)));
        }
        own
    }

    /// The parts that are open, and the folders under `detached/` among which they may be: a server that was killed
    /// leaves a part that it had half attached under names such as `ignored_<its new name>`.
    pub(super) async fn unaccounted(&self, account: &Account) -> Failure {
        let open: Vec<String> = account
            .fates
            .iter()
            .filter_map(|(name, fate)| match fate {
                Fate::Detached => Some(format!("{name} (in detached/)")),
                Fate::Missing => Some(name.clone()),
                Fate::Empty
                | Fate::Active { .. }
                | Fate::Covered { .. }
                | Fate::Merged { .. }
                | Fate::Dropped { .. }
                | Fate::Gone => None,
            })
            .collect();
        let count = open.len();
        let mut text = format!(
            "{count} parts of {} are not active: {}",
            self.table.name,
            some_of(&open)
        );
        let parts = self.manifest.parts.iter().map(|part| part.name.as_str());
        let known: HashSet<&str> = parts
            .chain(self.manifest.detached_before.iter().map(String::as_str))
            .collect();
        let folders = self.detached_parts().await.unwrap_or_default();
        let others = folders.into_iter().map(|folder| folder.name);
        let others: Vec<String> = others.filter(|name| !known.contains(name.as_str())).collect();
        if !others.is_empty() {
            text.push_str(&format!("; detached/ also holds {}", some_of(&others)));
        }
        let failure = Failure::lasting(Code::PartsUnaccounted, text);
        if self.following.is_none() {
            return failure;
        }
        failure.with_fix(format!(
            "attach nothing here: detached/ of a replica that follows holds its own copies of parts that it has by now, and \
             attached they are there twice; see system.replication_queue and the server's log, mend the cause, then \
             rekeeper retry {}",
            self.context.migration
        ))
    }

    pub(super) fn not_in_service(&self, state: &str) -> Failure {
        // TOO_MANY_UNEXPECTED_DATA_PARTS does not pass by itself, and force_restore_data adopts what it should not.
        let lasting = state.contains("Code: 231");
        let text = format!("{} has metadata and is not in service: {state}", self.table.name);
        if lasting {
            Failure::lasting(CODE, text)
        } else {
            Failure::passing(CODE, text)
        }
    }

    pub(super) fn path_exists(&self, why: &str) -> Failure {
        Failure::lasting(Code::PathExists, format!("{} exists: {why}", self.table.path))
    }

    pub(super) fn restore_note(&self) -> Result<RestoreNote, Failure> {
        let note = self.context.state.restore_note(&self.context.migration, self.table);
        note.map_err(state_failed(CODE))
    }

    pub(super) fn write_restore_note(&self, note: &RestoreNote) -> Result<(), Failure> {
        let written = self
            .context
            .state
            .write_restore_note(&self.context.migration, self.table, note);
        written.map_err(state_failed(CODE))
    }
}

/// The entries that replicas have queued: replica and entry.
fn names_of_waiting(nodes: &RestoredState) -> HashSet<(String, String)> {
    let of = |replica: &RestoredReplica| {
        let entries = replica.waiting.iter();
        entries
            .map(|entry| (replica.name.clone(), entry.name.clone()))
            .collect::<Vec<_>>()
    };
    nodes.replicas.iter().flat_map(of).collect()
}

/// The first few of a list that may be long.
pub(super) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
