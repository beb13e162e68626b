//! Until the table is writable: what is to be done next is decided by `next`, seen and done here.

use std::time::Duration;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;
use tokio::time::Instant;

use super::gate::gave_up;
use super::next::{Action, After, AtPath, Failed, Observed, Parts, Refusal, Registered, Table, after, next};
use super::work::{BY_ITSELF, CODE, Work};
use crate::clickhouse::{Error, Statement, Turn, code};
use crate::steps::failed;
use crate::steps::shared::look::{FRESH, Found, look};
use crate::steps::shared::read_only::start_anew;
use crate::steps::shared::recorded::{Recorded, until_as_recorded};
use crate::steps::shared::wait::PATIENCE;
use crate::zookeeper::Owner;

/// How often RESTORE and RESTART REPLICA are tried in one attempt, and once more for a wait for a turn.
const ROUNDS: u32 = 5;
/// How long a server is waited for that has lost ZooKeeper, and how often it is asked again.
const SESSION: Duration = Duration::from_secs(30);
const SESSION_POLL: Duration = Duration::from_secs(1);

impl Work<'_> {
    /// RESTORE, until the table is not read-only any more.
    pub(super) async fn until_writable(&self) -> Result<(), Failure> {
        let mut last = format!("{} stays read-only", self.table.name);
        let (mut turn, mut emptied) = (None, false);
        let (mut rounds, session) = (0, Instant::now() + SESSION);
        while rounds < ROUNDS {
            rounds += 1;
            let Some((seen, owners)) = self.see(&mut turn, emptied).await? else {
                continue;
            };
            match next(&seen) {
                Action::Done => return Ok(()),
                Action::AwaitService => {
                    let in_service = self.until_in_service(PATIENCE).await?;
                    return in_service.map_err(|state| self.not_in_service(&state));
                }
                Action::AttachAgain => {
                    self.execute(Statement::AttachTable(&self.table.name)).await?;
                    self.stop_merges().await?;
                }
                Action::BringIntoService { note } => match self.bring_into_service(note).await? {
                    Ok(()) => return Ok(()),
                    Err(state) => last = state,
                },
                Action::Restore(parts) => {
                    if !self.are_in_place(parts).await? {
                        continue;
                    }
                    let folders = self.check_names(seen.sent).await?;
                    let sent = self.send_restore(folders, !emptied).await?;
                    turn = None;
                    let Err(error) = sent else { continue };
                    last = error.in_full();
                    emptied |= self.following.is_none() && gave_up(&error);
                    match self.after(&error, session) {
                        After::LookAgain => {}
                        After::LookAgainIfRegistered if self.is_registered().await? => {}
                        After::RenewSession => {
                            self.doing("waits for the server to reach ZooKeeper again");
                            tokio::time::sleep(SESSION_POLL).await;
                            self.renew_session().await?;
                            rounds -= 1;
                        }
                        After::LookAgainIfRegistered | After::Fail => return Err(failed(CODE)(error)),
                    }
                }
                Action::Refuse(why) => return Err(self.refused(why, &owners)),
            }
        }
        Err(Failure::lasting(CODE, last))
    }

    /// Looks at the table, and, where it is read-only and its turn has come, at its path, with the owners that are to be
    /// told of. None when the turn was waited for so long that it has to be looked at again.
    async fn see(&self, turn: &mut Option<Turn>, emptied: bool) -> Result<Option<(Observed, Vec<Owner>)>, Failure> {
        let sent = self.restore_note()?.sent;
        let seen = |table| Observed {
            sent,
            follows: self.following.is_some(),
            emptied,
            table,
        };
        let Found::Attached(replica) = look(self.context, self.table, CODE).await? else {
            return Ok(Some((seen(Table::Detached), Vec::new())));
        };
        // The server may have been started since the attach, and that starts merges.
        self.stop_merges().await?;
        if !replica.readonly {
            let is_in_service = replica.is_in_service();
            let table = if is_in_service {
                Table::InService
            } else {
                Table::Writable
            };
            return Ok(Some((seen(table), Vec::new())));
        }
        // From here on the server is burdened. Who has to wait for a turn for long looks again after that.
        if turn.is_none() {
            let looked = Instant::now();
            *turn = self.turn().await;
            if looked.elapsed() > FRESH {
                return Ok(None);
            }
        }
        let (at_path, owners) = self.at_path().await?;
        Ok(Some((seen(Table::ReadOnly(at_path)), owners)))
    }

    async fn at_path(&self) -> Result<(AtPath, Vec<Owner>), Failure> {
        self.open_gate().await?;
        let Some(nodes) = self.nodes().await? else {
            return Ok((AtPath::Nothing, Vec::new()));
        };
        let registered = |name: &str| nodes.replicas.iter().any(|replica| replica.name == name);
        if !registered(&self.table.replica_name) {
            let reference = self.reference().map(|manifest| registered(&manifest.replica_name));
            let owners = match reference {
                None => self.owners().await?,
                Some(_) => Vec::new(),
            };
            let reference = reference.unwrap_or_default();
            return Ok((AtPath::Others { reference }, owners));
        }
        let owners = self.owners().await?;
        let own = self.own_among(&owners);
        let registered = match own.and_then(|own| self.is_own(own)) {
            Some(true) => Registered::ByThisTable,
            Some(false) => Registered::ByAnother,
            None => Registered::NotTold,
        };
        Ok((AtPath::Own(registered), owners))
    }

    fn own_among<'a>(&self, owners: &'a [Owner]) -> Option<&'a Owner> {
        owners.iter().find(|owner| owner.replica == self.table.replica_name)
    }

    /// Of a table that has its metadata, an inner error is the state in which it stays.
    async fn bring_into_service(&self, note: bool) -> Result<Result<(), String>, Failure> {
        if note {
            // A note that was lost is made up for by what ClickHouse itself notes.
            let mut note = self.restore_note()?;
            (note.sent, note.lost) = (true, true);
            self.write_restore_note(&note)?;
        }
        if self.until_in_service(BY_ITSELF).await?.is_ok() {
            return Ok(Ok(()));
        }
        if !self.set_unexpected_parts_aside().await? {
            start_anew(self.context, self.table, CODE).await?;
        }
        let in_service = self.until_in_service(PATIENCE).await?;
        if let Err(state) = &in_service {
            self.can_tell_why(state).await?;
        }
        Ok(in_service)
    }

    /// Whether RESTORE may be sent; when parts were moved, it has to be looked at again.
    async fn are_in_place(&self, parts: Parts) -> Result<bool, Failure> {
        match parts {
            Parts::PutBack => Ok(!self.put_back().await?),
            Parts::Anywhere => Ok(true),
            Parts::AsRecorded { or_put_back } => {
                let recorded = Recorded::of_manifest(&self.manifest);
                match until_as_recorded(self.context, self.table, recorded).await {
                    Err(missing) if missing.problem.code == Code::RecordedPartsMissing && or_put_back => {
                        if self.put_back().await? {
                            return Ok(false);
                        }
                        Err(missing)
                    }
                    done => done.map(|()| true),
                }
            }
        }
    }

    fn after(&self, error: &Error, session: Instant) -> After {
        after(&Failed {
            class: error.class(),
            gave_up: gave_up(error),
            lost_zookeeper: matches!(error.code(), Some(code::NO_ZOOKEEPER | code::KEEPER_EXCEPTION)),
            in_time: Instant::now() < session,
            follows: self.following.is_some(),
        })
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

    /// A follower has one already, for longer: its server goes on when RESTORE has answered.
    async fn turn(&self) -> Option<Turn> {
        match self.following {
            None => Some(self.context.clickhouse.restore_turn().await),
            Some(_) => None,
        }
    }

    async fn is_registered(&self) -> Result<bool, Failure> {
        let nodes = self.nodes().await?;
        Ok(nodes.is_some_and(|n| n.replicas.iter().any(|r| r.name == self.table.replica_name)))
    }

    fn refused(&self, why: Refusal, owners: &[Owner]) -> Failure {
        match why {
            Refusal::Detached => self.was_detached(),
            Refusal::RegisteredByAnother => {
                let own: Vec<&Owner> = self.own_among(owners).into_iter().collect();
                self.taken(&own)
            }
            Refusal::RegisteredByNobodyKnown => {
                self.path_exists("this replica is registered there, and not by this migration")
            }
            Refusal::Taken => self.taken(&self.strangers(owners)),
            Refusal::ReferenceGone => self.without_reference(|name| {
                let text = format!("the reference, replica {name}, is not registered there");
                self.path_exists(&text)
            }),
            Refusal::PathGone => self.without_reference(|_| {
                let text = format!(
                    "{} is not there where this server is configured for it, although the reference was restored",
                    self.table.path
                );
                Failure::lasting(Code::PlaceDiffers, text)
            }),
        }
    }

    /// The failure, with what to do where the table of the reference was dropped.
    fn without_reference(&self, failure: impl Fn(&str) -> Failure) -> Failure {
        let name = self.reference().map(|manifest| manifest.replica_name.as_str());
        let name = name.unwrap_or_default();
        let failure = failure(name);
        let fix = format!("{}; {}", failure.problem.code.fix(), self.without_the_reference(name));
        failure.with_fix(fix)
    }

    fn was_detached(&self) -> Failure {
        let table = self.table.name.sql();
        let text = format!("{} was detached by somebody", self.table.name);
        Failure::lasting(CODE, text).with_fix(format!(
            "on this host: ATTACH TABLE {table}; SYSTEM STOP MERGES {table}; then rekeeper retry {}",
            self.context.migration
        ))
    }
}
