//! A coordinator that knows less than an agent has seen orders nothing (invariant 13): its store was rolled back, lost or
//! copied, and what it believes of tables and nodes may be long past.

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::plan::HostIx;
use rekeeper_shared::domain::problem::{Code, Finding};

use super::hosts::Hosts;
use super::migration::Migration;
use super::{Driver, OperatorError};
use crate::progress::OperatorOrder;
use crate::store::Store;

impl<S: Store> Driver<S> {
    /// Whether the agent has seen an attempt that this store does not have: the store is older than the agent.
    pub(super) fn knows_less(&self, attempts: &[(MigrationName, u64)]) -> Option<String> {
        attempts.iter().find_map(|(name, seen)| {
            let known = self.migrations.get(name).map(|m| m.progress.next_attempt - 1);
            match known {
                None => Some(format!(
                    "the agent took part in migration {name}, which this store does not have; nothing is ordered"
                )),
                Some(known) if known < *seen => Some(format!(
                    "the agent has seen attempt {seen} of migration {name}, and this store knows only {known}; nothing is \
                     ordered"
                )),
                Some(_) => None,
            }
        })
    }
}

/// Why nothing of the migration may be ordered, of no host: the agent of one of its hosts has seen more than the store
/// has. What the others would be ordered rests on the same store. The word of a host that was left out for good stops
/// nothing: who has left it out knows.
pub(super) fn behind(migration: &Migration, hosts: &Hosts) -> Option<Finding> {
    let with = |ix: &HostIx| migration.progress.hosts[*ix].left.is_none();
    let mut with = (0..migration.plan.hosts.len()).filter(with);
    with.find_map(|ix| {
        let host = &migration.plan.hosts[ix];
        let reason = hosts.get(&host.name)?.blocked.as_ref()?;
        Some(Finding::new(Code::CoordinatorBehind, reason.clone()).on(&host.name))
    })
}

/// Whether people may give the order although an agent has seen more: what sends nothing, and what leaves out the very
/// host whose word it is. One host may say what it likes; that it is not heeded is known, and on record.
pub(super) fn may_be_given(order: &OperatorOrder, hosts: &Hosts) -> bool {
    match order {
        OperatorOrder::Pause => true,
        OperatorOrder::Leave { host } => hosts.get(host).is_some_and(|known| known.blocked.is_some()),
        OperatorOrder::Start { .. }
        | OperatorOrder::Resume
        | OperatorOrder::Retry { .. }
        | OperatorOrder::Skip { .. }
        | OperatorOrder::LeaveTable { .. }
        | OperatorOrder::Abort => false,
    }
}

/// The refusal of what people order of such a migration.
pub(super) fn refused(finding: &Finding) -> OperatorError {
    let host = finding
        .host
        .iter()
        .map(|host| format!(" on {host}"))
        .collect::<String>();
    OperatorError::Blocked(format!("{}{host}: {}; {}", finding.code, finding.message, finding.fix))
}
