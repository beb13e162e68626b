//! Restore: new metadata from the parts on the disk, and an account of every one of them.
//!
//! `SYSTEM RESTORE REPLICA` moves all parts to `detached/`, makes the nodes, and on the first replica attaches the parts
//! again, under new names; a later replica clones the first. It may be cut at any point, so what to do next is always
//! decided by what is there.

mod account;
mod collided;
mod evidence;
mod follow;
mod following;
mod gate;
mod kept;
mod leftovers;
mod next;
mod order;
mod put_back;
mod registered;
mod send;
mod settings;
mod since;
mod strangers;
mod unexpected;
mod work;
mod writable;

use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::step::{Done, Failure, Restored, Role};

use self::settings::{Which, put_settings_back};
pub use self::work::Restore;
use self::work::{BY_ITSELF, CODE, Work};
use crate::clickhouse::{Cache, Statement};
use crate::steps::shared::caches::drop_caches;
use crate::steps::shared::wait::until_alone;
use crate::steps::{Context, Finished, StepResult, state_failed};

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
                work.start_queue_again().await;
                // Users write already, so deduplication is never left off. Merges stay forbidden for the next attempt: a
                // server that is started meanwhile would begin some. A table that is left alone gets both back.
                let which = if failure.retry {
                    Which::Deduplication
                } else {
                    Which::All
                };
                if let Err(also) = put_settings_back(&work, which).await {
                    tracing::warn!(table = %order.table.name, error = %also.problem, "settings are not put back");
                }
                return Err(failure);
            }
        },
    };
    work.note_accounted(counts, &account)?;
    put_settings_back(&work, Which::All).await?;
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

impl Work<'_> {
    /// Everything until every part is accounted for.
    async fn run(&self) -> Result<(Restored, Packed), Failure> {
        let turn = match self.order.role {
            Role::Reference => None,
            Role::Follower { .. } => Some(self.context.clickhouse.restore_turn().await),
        };
        self.until_writable().await?;
        match self.order.role {
            Role::Reference => {
                // An earlier attempt may have been cut off before it did.
                drop_caches(self.context, &Cache::ALL, CODE).await?;
                self.alone().await?;
            }
            Role::Follower { .. } => {
                self.forget_former_names().await?;
                self.execute(Statement::StartQueue(&self.table.name)).await?;
            }
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
}
