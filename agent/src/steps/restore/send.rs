//! RESTORE, sent only where it makes what it should.

use std::collections::HashSet;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

use super::work::{CODE, Work};
use crate::clickhouse::{Error, Statement};
use crate::steps::failed;
use crate::steps::shared::names::{attached, collisions};
use crate::steps::shared::owners::check_absent;
use crate::steps::shared::wait::until_alone;
use crate::words::some_of;

/// What RESTORE says when there is nothing, or nothing more, to do for it.
const ALREADY: [&str; 3] = ["must be readonly", "path is present", "restoration in progress"];

impl Work<'_> {
    /// Sends RESTORE; only what may hide a failure is an inner error. Beforehand everything was checked; the path once
    /// more, right before it. `folders` are what lies in `detached/`; a reference that has no parts outside of it has no
    /// readers either.
    pub(super) async fn send_restore(
        &self,
        folders: Vec<String>,
        has_parts: bool,
    ) -> Result<Result<(), Error>, Failure> {
        let former = self.restore_note()?;
        let mut note = former.clone();
        (note.sent, note.foreign) = (true, None);
        let on_the_manifest: HashSet<&str> = self.manifest.parts.iter().map(|part| part.name.as_str()).collect();
        let late = folders.into_iter();
        note.late
            .extend(late.filter(|name| on_the_manifest.contains(name.as_str())));
        self.write_restore_note(&note)?;
        if self.following.is_none()
            && let Err(failure) = self.may_be_first().await
        {
            // Nothing was sent, so what is there is not ours.
            self.write_restore_note(&former)?;
            return Err(failure);
        }
        self.doing(format!("restores {} parts", self.manifest.parts.len()));
        let outcome = if self.following.is_some() {
            // None comes before nobody reads the former ones (`Work::run`).
            self.execute(Statement::StopQueue(&self.table.name)).await?;
            self.restore_statement().await
        } else if has_parts {
            self.restore_at_the_gate().await?
        } else {
            self.restore_statement().await
        };
        // The connection may be cut while it goes on.
        until_alone(self.context, self.table, CODE).await?;
        Ok(match outcome {
            // Somebody else's restore was quicker, or ours was sent twice: the next look tells.
            Err(error) if ALREADY.iter().any(|words| error.says(words)) => Ok(()),
            outcome => outcome,
        })
    }

    /// The server is where the set's servers have proved to be, and nothing is there.
    async fn may_be_first(&self) -> Result<(), Failure> {
        let witness = self.order.witness;
        self.context.zookeeper.check_witness(witness).await?;
        check_absent(self.context, witness, Some(&self.table.name)).await
    }

    /// Names under `detached/` that the restore would stumble over. Once it was sent, those of the manifest may be its
    /// own work. Answers all names that are there.
    pub(super) async fn check_names(&self, sent: bool) -> Result<Vec<String>, Failure> {
        let (clickhouse, name) = (&self.context.clickhouse, &self.table.name);
        let (parts, detached) = tokio::join!(clickhouse.parts(name), self.detached_parts());
        let (parts, detached) = (parts.map_err(failed(CODE))?, detached?);
        let folders = detached.into_iter().map(|part| part.name).collect::<Vec<_>>();
        let detached = folders.iter().map(String::as_str);
        let names = |active: bool| {
            let parts = parts.iter().filter(move |part| part.active == active);
            parts.map(|part| part.part.name.as_str())
        };
        let (now, outdated) = (|| names(true), names(false));
        let found = if sent {
            let taken: HashSet<&str> = now().chain(outdated).collect();
            detached
                .filter(|name| taken.contains(attached(name)))
                .map(str::to_owned)
                .collect()
        } else {
            collisions(now(), outdated, detached)
        };
        if found.is_empty() {
            return Ok(folders);
        }
        Err(Failure::lasting(
            Code::DetachedCollision,
            format!("detached/ of {name} holds {}", some_of(&found)),
        ))
    }
}
