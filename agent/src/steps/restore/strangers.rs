//! Somebody else's table at the path of a table that is to be restored.
//!
//! Measured: a "first" replica that finds the path taken when it is restored becomes a follower of what is there. Its
//! own parts go to `detached/`, the stranger's are fetched, and it is writable: 100 rows became the stranger's 5. So the
//! reference has to have made its path itself, nobody else may be registered there, and before that is sure nothing is
//! attached into what may be another table.

use std::collections::{BTreeSet, HashSet};

use rekeeper_shared::domain::ids::quote_literal;
use rekeeper_shared::domain::inventory::ActivePart;
use rekeeper_shared::domain::part::PartName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

use super::work::{CODE, Work};
use crate::clickhouse::is_zero_uuid;
use crate::steps::failed;
use crate::steps::shared::owners::{at_path, taken};
use crate::words::some_of;
use crate::zookeeper::Owner;

impl Work<'_> {
    /// On the reference: it is alone at its path and has made it, or what it was given by a stranger is gone again.
    pub(super) async fn alone(&self) -> Result<(), Failure> {
        if self.restore_note()?.by_hand {
            // Its content was looked at, and in which sequence somebody has restored equal replicas makes no
            // difference.
            at_path(self.context, self.order.witness, Some(self.table)).await?;
            return Ok(());
        }
        let owners = self.owners().await?;
        let strangers = self.strangers(&owners);
        let own = owners.iter().find(|owner| owner.replica == self.table.replica_name);
        let joined = own.is_some_and(|own| !own.is_first);
        if joined {
            self.note_foreign(&strangers).await?;
        }
        if !strangers.is_empty() {
            return Err(self.taken(&strangers));
        }
        if joined {
            self.nothing_foreign().await?;
        }
        Ok(())
    }

    /// The reference has not made the path: what came first there was a stranger's.
    pub(super) async fn path_was_joined(&self) -> Result<bool, Failure> {
        let reference = self.reference().unwrap_or(&self.manifest);
        let owners = self.owners().await?;
        Ok(owners
            .iter()
            .any(|owner| owner.replica == reference.replica_name && !owner.is_first))
    }

    pub(super) async fn owners(&self) -> Result<Vec<Owner>, Failure> {
        let ensemble = &self.order.witness.ensemble;
        self.context.zookeeper.owners(ensemble, &self.table.path).await
    }

    /// Those at the path that are not this migration's: on the reference, which comes first, everybody else; on a
    /// follower, whom the plan does not have. And whoever has this replica's name and is another table.
    pub(super) fn strangers<'a>(&self, owners: &'a [Owner]) -> Vec<&'a Owner> {
        let is_expected = |owner: &&Owner| {
            if owner.replica == self.table.replica_name {
                self.is_own(owner) != Some(false)
            } else {
                self.following.is_some() && self.order.replicas.contains(&owner.replica)
            }
        };
        owners.iter().filter(|owner| !is_expected(owner)).collect()
    }

    /// Whether this very table has registered the replica; none when the server does not note it.
    pub(super) fn is_own(&self, owner: &Owner) -> Option<bool> {
        let uuid = owner.uuid.as_deref().filter(|uuid| !is_zero_uuid(uuid))?;
        (!is_zero_uuid(&self.table.uuid)).then(|| uuid == self.table.uuid)
    }

    pub(super) fn taken(&self, strangers: &[&Owner]) -> Failure {
        let strangers: Vec<Owner> = strangers.iter().map(|owner| (*owner).clone()).collect();
        taken(self.context, &self.table.path, Some(&self.table.name), &strangers)
    }

    /// The parts that the table may have been given: those of the strangers, as long as they are registered; when all
    /// are gone before anybody looked, what is active and not on the manifest.
    async fn note_foreign(&self, strangers: &[&Owner]) -> Result<(), Failure> {
        let mut note = self.restore_note()?;
        if strangers.is_empty() && note.foreign.is_some() {
            return Ok(());
        }
        let foreign = note.foreign.get_or_insert_default();
        for stranger in strangers {
            let (places, ensemble) = (&self.context.zookeeper, &self.order.witness.ensemble);
            let parts = places.registered_parts(ensemble, &self.table.path, &stranger.replica);
            foreign.extend(parts.await?);
        }
        if strangers.is_empty() {
            let content = |part: &ActivePart| (part.partition_id.clone(), part.rows, part.hash.clone());
            let own: HashSet<_> = self.manifest.parts.iter().map(content).collect();
            let active = self.context.clickhouse.active_parts(&self.table.name).await;
            let others = active.map_err(failed(CODE))?.into_iter();
            foreign.extend(
                others
                    .filter(|part| !own.contains(&content(part)))
                    .map(|part| part.name),
            );
        }
        self.write_restore_note(&note)
    }

    async fn nothing_foreign(&self) -> Result<(), Failure> {
        let foreign: BTreeSet<String> = self.restore_note()?.foreign.unwrap_or_default();
        let foreign: Vec<PartName> = foreign.iter().filter_map(|name| PartName::parse(name)).collect();
        let active = self.context.clickhouse.active_parts(&self.table.name).await;
        let is_foreign = |name: &str| {
            PartName::parse(name).is_some_and(|part| {
                foreign
                    .iter()
                    .any(|other| part.contains(other) || other.contains(&part))
            })
        };
        let active = active.map_err(failed(CODE))?.into_iter().map(|part| part.name);
        let left: Vec<String> = active.filter(|name| is_foreign(name)).collect();
        if left.is_empty() {
            return Ok(());
        }
        let table = self.table.name.sql();
        let statements: Vec<String> = left
            .iter()
            .map(|name| format!("ALTER TABLE {table} DETACH PART {}", quote_literal(name)))
            .collect();
        let text = format!(
            "{} was restored while another table had its path, and holds parts of that one: {}",
            self.table.name,
            some_of(&left)
        );
        let fix = format!(
            "on this host: {}; then rekeeper retry {}, which attaches the table's own parts (they are in detached/); \
             what was detached like this may be attached again afterwards",
            statements.join("; "),
            self.context.migration
        );
        Err(Failure::lasting(Code::PathExists, text).with_fix(fix))
    }
}
