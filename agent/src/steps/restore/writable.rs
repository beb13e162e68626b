//! Until the table is writable: RESTORE, sent only where it makes what it should, and what an earlier one left unfinished.

use std::collections::HashSet;
use std::time::Duration;

use rekeeper_shared::problem::Code;
use rekeeper_shared::step::Failure;
use tokio::time::Instant;

use super::work::{BY_ITSELF, CODE, Work};
use crate::clickhouse::{Class, Error, Statement, Turn, code};
use crate::steps::failed;
use crate::steps::shared::look::{FRESH, Found, look};
use crate::steps::shared::names::attached;
use crate::steps::shared::names::collisions;
use crate::steps::shared::owners::check_absent;
use crate::steps::shared::read_only::start_anew;
use crate::steps::shared::recorded::{Recorded, until_as_recorded};
use crate::steps::shared::wait::PATIENCE;
use crate::steps::shared::wait::until_alone;
use crate::words::some_of;

/// How often RESTORE and RESTART REPLICA are tried in one attempt, and once more for a wait for a turn.
const ROUNDS: u32 = 5;
/// How long a server is waited for that has lost ZooKeeper, and how often it is asked again.
const SESSION: Duration = Duration::from_secs(30);
const SESSION_POLL: Duration = Duration::from_secs(1);
/// What RESTORE says when there is nothing, or nothing more, to do for it.
const ALREADY: [&str; 3] = ["must be readonly", "path is present", "restoration in progress"];

impl Work<'_> {
    /// RESTORE, until the table is not read-only any more.
    pub(super) async fn until_writable(&self) -> Result<(), Failure> {
        let mut last = format!("{} stays read-only", self.table.name);
        let mut turn = None;
        let (mut rounds, session) = (0, Instant::now() + SESSION);
        while rounds < ROUNDS {
            rounds += 1;
            let sent = self.restore_note()?.sent;
            let replica = match look(self.context, self.table, CODE).await? {
                Found::Attached(replica) => replica,
                Found::Detached { .. } if sent => {
                    // An earlier attempt was cut while it set parts aside.
                    self.execute(Statement::AttachTable(&self.table.name)).await?;
                    self.stop_merges().await?;
                    continue;
                }
                Found::Detached { .. } => return Err(self.was_detached()),
            };
            // The server may have been started since the attach, and that starts merges.
            self.stop_merges().await?;
            if !replica.readonly {
                if replica.is_in_service() {
                    return Ok(());
                }
                return self
                    .until_in_service(PATIENCE)
                    .await?
                    .map_err(|state| self.not_in_service(&state));
            }
            // From here on the server is burdened. Who has to wait for a turn for long looks again after that.
            if turn.is_none() {
                let looked = Instant::now();
                turn = self.turn().await;
                if looked.elapsed() > FRESH {
                    continue;
                }
            }
            let nodes = self.nodes().await?;
            let registered = |name: &str| {
                nodes
                    .as_ref()
                    .is_some_and(|n| n.replicas.iter().any(|r| r.name == name))
            };
            if registered(&self.table.replica_name) {
                self.registered_by_us(sent).await?;
                // The metadata is there: a server that has just started needs a moment, or has to be told.
                if self.until_in_service(BY_ITSELF).await?.is_ok() {
                    return Ok(());
                }
                if !self.set_unexpected_parts_aside().await? {
                    start_anew(self.context, self.table, CODE).await?;
                }
                match self.until_in_service(PATIENCE).await? {
                    Ok(()) => return Ok(()),
                    Err(state) => {
                        self.can_tell_why(&state).await?;
                        last = state;
                    }
                }
                continue;
            }
            match (&nodes, self.reference()) {
                (None, None) if sent && self.put_back().await? => continue,
                (None, None) => {}
                (Some(_), Some(reference)) if registered(&reference.replica_name) => {}
                (Some(_), None) => {
                    let owners = self.owners().await?;
                    return Err(self.taken(&self.strangers(&owners)));
                }
                (Some(_), Some(reference)) => {
                    let name = &reference.replica_name;
                    let text = format!("the reference, replica {name}, is not registered there");
                    let failure = self.path_exists(&text);
                    let fix = format!("{}; {}", Code::PathExists.fix(), self.without_the_reference(name));
                    return Err(failure.with_fix(fix));
                }
                (None, Some(reference)) => {
                    let text = format!(
                        "{} is not there where this server is configured for it, although the reference was restored",
                        self.table.path
                    );
                    let fix = format!(
                        "{}; {}",
                        Code::PlaceDiffers.fix(),
                        self.without_the_reference(&reference.replica_name)
                    );
                    return Err(Failure::lasting(Code::PlaceDiffers, text).with_fix(fix));
                }
            }
            if !sent {
                let recorded = Recorded::of_manifest(&self.manifest);
                match until_as_recorded(self.context, self.table, recorded).await {
                    // Nobody but RESTORE has moved them there: it was sent, and the note of that was lost.
                    Err(missing) if missing.problem.code == Code::RecordedPartsMissing && nodes.is_none() => {
                        if self.put_back().await? {
                            continue;
                        }
                        return Err(missing);
                    }
                    done => done?,
                }
            }
            let folders = self.check_names(sent).await?;
            let sent = self.send_restore(folders).await?;
            turn = None;
            if let Err(error) = sent {
                last = error.in_full();
                match error.class() {
                    // What became of it is seen in the next round.
                    Class::Unknown => {}
                    Class::Passing if lost_zookeeper(&error) && Instant::now() < session => {
                        self.doing("waits for the server to reach ZooKeeper again");
                        tokio::time::sleep(SESSION_POLL).await;
                        self.renew_session().await?;
                        rounds -= 1;
                    }
                    // So is what a first replica has made of its metadata by then.
                    Class::Lasting if self.following.is_none() && self.is_registered().await? => {}
                    Class::Passing | Class::Lasting => return Err(failed(CODE)(error)),
                }
            }
        }
        Err(Failure::lasting(CODE, last))
    }

    /// A table that was attached without metadata keeps the session that the server had then: when that has expired,
    /// RESTORE says so until the table is started anew, however long ZooKeeper has been back.
    async fn renew_session(&self) -> Result<(), Failure> {
        if self.is_registered().await? {
            return Ok(());
        }
        match start_anew(self.context, self.table, CODE).await {
            // Whether it was started is not known.
            Err(failure) if failure.retry => self.stop_merges().await,
            outcome => outcome,
        }
    }

    /// By a person, or by an attempt of which the note was lost.
    fn was_detached(&self) -> Failure {
        let table = self.table.name.sql();
        let text = format!("{} was detached by somebody", self.table.name);
        Failure::lasting(CODE, text).with_fix(format!(
            "on this host: ATTACH TABLE {table}; SYSTEM STOP MERGES {table}; then rekeeper retry {}",
            self.context.migration
        ))
    }

    /// A follower has one already, for longer: its server goes on when RESTORE has answered.
    async fn turn(&self) -> Option<Turn> {
        match self.following {
            None => Some(self.context.clickhouse.restore_turn().await),
            Some(_) => None,
        }
    }

    /// The replica at the path is this table, and not another of the same replica name. A note that was lost is made up
    /// for by what ClickHouse itself notes.
    async fn registered_by_us(&self, sent: bool) -> Result<(), Failure> {
        let owners = self.owners().await?;
        let own = owners.iter().find(|owner| owner.replica == self.table.replica_name);
        match own.and_then(|own| self.is_own(own).map(|is| (own, is))) {
            Some((own, false)) => Err(self.taken(&[own])),
            Some((_, true)) if !sent => {
                let mut note = self.restore_note()?;
                (note.sent, note.lost) = (true, true);
                self.write_restore_note(&note)
            }
            None if !sent => Err(self.path_exists("this replica is registered there, and not by this migration")),
            Some((_, true)) | None => Ok(()),
        }
    }

    async fn is_registered(&self) -> Result<bool, Failure> {
        let nodes = self.nodes().await?;
        Ok(nodes.is_some_and(|n| n.replicas.iter().any(|r| r.name == self.table.replica_name)))
    }

    /// Sends RESTORE; only what may hide a failure is an inner error. Beforehand everything was checked; the path once
    /// more, right before it. `folders` are what lies in `detached/`.
    async fn send_restore(&self, folders: Vec<String>) -> Result<Result<(), Error>, Failure> {
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
        let outcome = self
            .context
            .clickhouse
            .execute(Statement::RestoreReplica(&self.table.name))
            .await;
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
    async fn check_names(&self, sent: bool) -> Result<Vec<String>, Failure> {
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

/// Whether the server has no session with ZooKeeper at the moment.
fn lost_zookeeper(error: &Error) -> bool {
    matches!(error.code(), Some(code::NO_ZOOKEEPER | code::KEEPER_EXCEPTION))
}
