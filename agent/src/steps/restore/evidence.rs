//! Where every part of the manifest is now, and what is told of those that are not accounted for.

use std::collections::HashSet;

use crate::rules::accounting::{Evidence, account};
use rekeeper_shared::domain::account::{Account, Fate};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, Role};
use tokio::time::Instant;

use super::following::Following;
use super::work::{CODE, Work};
use crate::steps::failed;
use crate::steps::shared::wait::{PATIENCE, polls};
use crate::words::some_of;

impl Work<'_> {
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

    /// Whether rows may expire in merges, of whatever engine.
    async fn has_ttl(&self) -> Result<bool, Failure> {
        let engine = self.context.clickhouse.engine_of(&self.table.name).await;
        Ok(engine
            .map_err(failed(CODE))?
            .is_some_and(|engine| engine.contains(" TTL ")))
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
}
