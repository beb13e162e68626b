//! One attempt to restore a table: what it has, and what all its files need.

use std::time::Duration;

use rekeeper_shared::domain::document::Manifest;
use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::quote_literal;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, Role, TableRef, Witness};
use tokio::sync::Mutex;

use super::following::Following;
use crate::clickhouse::{DetachedPart, Statement};
use crate::state::RestoreNote;
use crate::steps::shared::manifest::on_record;
use crate::steps::shared::versions::{Merges, agree};
use crate::steps::shared::wait::until_in_service;
use crate::steps::{Context, failed, state_failed};
use crate::zookeeper::RestoredState;

/// How long a server may take that has just started with the metadata that an earlier attempt made.
pub(super) const BY_ITSELF: Duration = Duration::from_secs(10);
/// What is told where nothing more special is known.
pub(super) const CODE: Code = Code::RestoreFailed;

/// What is commanded.
#[derive(Debug, Clone)]
pub struct Restore<'a> {
    /// The replica that is restored.
    pub table: &'a TableRef,
    /// First and alone, or after the reference.
    pub role: &'a Role,
    /// The table's own manifest, as the coordinator has it; without bytes when it has lost it.
    pub manifest: &'a Packed,
    /// Where the server proved its place; taken away by the reference.
    pub witness: &'a Witness,
    /// Whether merges of the engine keep the number of rows.
    pub merges_keep_rows: bool,
    /// Whether the sequence of parts matters: the engine takes the later one for the newer.
    pub keep_order: bool,
    /// The names of all replicas of the set.
    pub replicas: &'a [String],
}

/// One attempt to restore a table.
pub(super) struct Work<'a> {
    pub(super) context: &'a Context,
    pub(super) table: &'a TableRef,
    pub(super) order: &'a Restore<'a>,
    pub(super) manifest: Manifest,
    /// What a follower has to follow.
    pub(super) following: Option<Following>,
    /// Up to which entry this attempt has read the log.
    pub(super) log_seen: Mutex<i64>,
}

impl<'a> Work<'a> {
    pub(super) fn new(context: &'a Context, order: &'a Restore<'a>) -> Result<Self, Failure> {
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

    pub(super) async fn detached_parts(&self) -> Result<Vec<DetachedPart>, Failure> {
        let folders = self.context.clickhouse.detached_parts(&self.table.name).await;
        folders.map_err(failed(CODE))
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

    /// What to do when somebody has dropped the reference after it was restored.
    pub(super) fn without_the_reference(&self, reference: &str) -> String {
        format!(
            "if the table of replica {reference} was dropped, the replicas that are left have its rows and go on without it: \
             rekeeper skip {} --table {} --host and the host of replica {reference}",
            self.context.migration,
            quote_literal(&self.table.name.to_string())
        )
    }

    /// This replica orders ALTERs, and no part of it is of a version that its table has still to reach.
    pub(super) async fn agree(&self) -> Result<(), Failure> {
        let ensemble = &self.order.witness.ensemble;
        agree(self.context, self.table, ensemble, self.manifest.version, Merges::Held).await
    }

    /// Commands on the table's folders, with the statements around them.
    pub(super) fn while_detached(&self, commands: impl Iterator<Item = String>) -> Vec<String> {
        let table = self.table.name.sql();
        let before = format!("DETACH TABLE {table} PERMANENTLY SYNC");
        let after = ["ATTACH TABLE", "SYSTEM STOP MERGES"].map(|words| format!("{words} {table}"));
        std::iter::once(before).chain(commands).chain(after).collect()
    }

    /// A remedy: what the agent has not the rights for.
    pub(super) fn by_a_user_who_may(&self, commands: &[String]) -> String {
        format!(
            "on {}, as a user who may: {}; then rekeeper retry {}",
            self.context.host,
            commands.join("; "),
            self.context.migration
        )
    }
}
