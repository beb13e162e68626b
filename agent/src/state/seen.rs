//! Which coordinator the agent obeys: the highest fencing token and attempts that it has seen.

use std::collections::BTreeMap;
use std::path::Path;

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::step::SeenToken;
use serde::{Deserialize, Serialize};

use super::{State, StateError, lock, read_note};

pub(super) const FILE: &str = "coordinator.json";
/// How far a token may be above the highest one that was obeyed. It grows by one with each start of a coordinator; one that
/// is near the end of its numbers would lock every later coordinator out for good.
const JUMP: u64 = 1_000_000;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    token: SeenToken,
    attempts: BTreeMap<MigrationName, u64>,
}

impl Seen {
    pub(super) fn read(file: &Path) -> Result<Self, StateError> {
        Ok(read_note(file)?.unwrap_or_default())
    }

    fn allows(&self, given: &SeenToken) -> Result<(), Refusal> {
        let seen = &self.token;
        if given.token < seen.token {
            return Err(Refusal::Older {
                given: given.token,
                seen: seen.token,
            });
        }
        if given.token == seen.token && given.run != seen.run {
            return Err(Refusal::OtherRun(given.token));
        }
        if given.token - seen.token > JUMP {
            return Err(Refusal::TooFar {
                given: given.token,
                seen: seen.token,
            });
        }
        Ok(())
    }
}

/// Why a coordinator is not obeyed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum Refusal {
    /// A newer one was obeyed already.
    #[error("the fencing token {given} is lower than {seen}, which this agent has obeyed: a newer coordinator ran")]
    Older { given: u64, seen: u64 },
    /// Another run of a coordinator has the same token: one of them works on a copy of the other's store.
    #[error("another coordinator has the same fencing token {0}: one of them runs on a copy of the other's data_dir")]
    OtherRun(u64),
    /// No coordinator was started so often: it is damaged, or somebody means to lock the others out.
    #[error(
        "the fencing token {given} is more than {JUMP} above {seen}, the highest that this agent has obeyed: no coordinator was \
         started so often; see who answers at the configured address, and if it is the right coordinator and its store is \
         sound, stop the agent, move {FILE} in its state_dir away and start it again"
    )]
    TooFar { given: u64, seen: u64 },
    /// It cannot be written down, so it must not be obeyed.
    #[error("the coordinator's token cannot be written down")]
    State(#[from] StateError),
}

impl State {
    /// Whether a coordinator may be obeyed. Changes nothing.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn may_obey(&self, given: &SeenToken) -> Result<(), Refusal> {
        lock(&self.inner.seen).allows(given)
    }

    /// Obeys a coordinator; a token higher than any before is on disk when this answers.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn obey(&self, given: &SeenToken) -> Result<(), Refusal> {
        let mut seen = lock(&self.inner.seen);
        seen.allows(given)?;
        if given.token > seen.token.token {
            self.replace(&mut seen, |new| new.token = given.clone())?;
        }
        Ok(())
    }

    /// Notes an attempt before it is obeyed.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn note_attempt(&self, migration: &MigrationName, attempt: u64) -> Result<(), StateError> {
        let mut seen = lock(&self.inner.seen);
        if seen.attempts.get(migration).is_some_and(|highest| *highest >= attempt) {
            return Ok(());
        }
        self.replace(&mut seen, |new| {
            new.attempts.insert(migration.clone(), attempt);
        })
    }

    /// The highest token that was obeyed.
    #[must_use]
    pub fn seen(&self) -> SeenToken {
        lock(&self.inner.seen).token.clone()
    }

    /// The highest attempt of every migration.
    #[must_use]
    pub fn attempts(&self) -> Vec<(MigrationName, u64)> {
        let seen = lock(&self.inner.seen);
        seen.attempts
            .iter()
            .map(|(name, attempt)| (name.clone(), *attempt))
            .collect()
    }

    /// Disk first: memory never knows more than what survives.
    fn replace(&self, seen: &mut Seen, change: impl FnOnce(&mut Seen)) -> Result<(), StateError> {
        let mut new = seen.clone();
        change(&mut new);
        self.write_note(&self.inner.folder.join(FILE), &new)?;
        *seen = new;
        Ok(())
    }
}
