//! Before the first step every check of the plan is made again.

use std::collections::BTreeSet;
use std::sync::Arc;

use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::plan::Plan;
use rekeeper_shared::domain::problem::Finding;
use rekeeper_shared::people::causes::{Cause, Item, grouped};
use rekeeper_shared::people::view::{State, Until};

use super::{AskAgents, Error, Operations, beside};
use crate::driver::{OperatorError, Overlaps};
use crate::plan::{Circumstances, Draft};
use crate::progress::{OperatorOrder, Progress};

/// Causes in the message of a start that is blocked. It travels in a header of HTTP/2: with a finding for each of 1,000
/// tables the connection was ended for "too_many_continuations", and nobody learned why.
const SHOWN: usize = 20;
/// Tables that are named with each.
const NAMED: usize = 3;

impl<S, A: AskAgents> Operations<S, A> {
    /// Starts a migration, sets it going again, or tells where it is.
    ///
    /// # Errors
    /// A check stops it, or it is refused; nothing has changed then.
    pub async fn start(&self, name: &MigrationName, by: String, until: Option<Until>) -> Result<String, Error> {
        self.checked(name).await?;
        self.order(name, by, OperatorOrder::Start { until }).await
    }

    /// A migration that may be started, as far as checks can tell, or was started.
    ///
    /// # Errors
    /// There is none of that name, or a check stops it.
    pub(super) async fn checked(&self, name: &MigrationName) -> Result<(Arc<Plan>, Box<Progress>), OperatorError> {
        let known = self.driver.snapshot(name).await?;
        let (plan, progress) = (known.migration).ok_or_else(|| OperatorError::Unknown(name.clone()))?;
        if progress.state(&plan) == State::Planned {
            self.check_again(&plan, &progress, &known.overlaps).await?;
        }
        Ok((plan, progress))
    }

    /// Makes every check of a plan again. What is found of a table that is skipped stops nothing.
    async fn check_again(
        &self,
        plan: &Arc<Plan>,
        progress: &Progress,
        overlaps: &Overlaps,
    ) -> Result<(), OperatorError> {
        let hosts: Vec<HostName> = plan.hosts.iter().map(|host| host.name.clone()).collect();
        let circumstances = Circumstances {
            overlaps: overlaps.on(&hosts),
            ..Circumstances::default()
        };
        let draft = self.draft(&plan.name, &plan.request, &hosts, circumstances).await;
        let draft = draft.map_err(|e| match e {
            // A pattern that matches nothing any more is no wrong usage now: the tables are gone.
            OperatorError::Invalid(why) => OperatorError::Blocked(why),
            other => other,
        })?;
        let (plan, skipped) = (Arc::clone(plan), skipped(plan, progress));
        let blocked = beside(move || blocks(&draft, &plan, &skipped)).await?;
        blocked.map_or(Ok(()), |why| Err(OperatorError::Blocked(why)))
    }
}

/// What stops the start of a plan of which this is what would be planned now.
fn blocks(draft: &Draft, plan: &Plan, skipped: &BTreeSet<String>) -> Option<String> {
    let stops = |finding: &Finding| finding.table.as_ref().is_none_or(|table| !skipped.contains(table));
    let mut found: Vec<Finding> = draft.blockers.iter().filter(|f| stops(f)).cloned().collect();
    if found.is_empty() {
        found = draft.differences_from(plan);
        found.retain(stops);
    }
    (!found.is_empty()).then(|| message(&found))
}

/// What blocks a start, a line for each cause, as far as it fits.
fn message(found: &[Finding]) -> String {
    let items: Vec<Item> = found.iter().map(Item::from).collect();
    let blocks = grouped(&items);
    let causes: Vec<&Cause<'_>> = blocks.iter().flat_map(|block| &block.causes).collect();
    let mut lines: Vec<String> = causes.iter().take(SHOWN).map(|cause| line(cause)).collect();
    if let Some(more @ 1..) = causes.len().checked_sub(SHOWN) {
        lines.push(format!("and {more} more; rekeeper plan under another name shows all"));
    }
    lines.join("\n")
}

/// The names of the tables of which every replica set is skipped.
fn skipped(plan: &Plan, progress: &Progress) -> BTreeSet<String> {
    let is_skipped = |skipped: bool| {
        let of = plan
            .tables
            .iter()
            .filter(move |t| progress.sets[t.set].skipped == skipped);
        of.map(|t| t.name.to_string()).collect::<BTreeSet<_>>()
    };
    &is_skipped(true) - &is_skipped(false)
}

fn line(cause: &Cause<'_>) -> String {
    let first = cause.items[0];
    let (places, more) = cause.places(NAMED);
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let space = if places.is_empty() { "" } else { " " };
    format!(
        "{}{space}{}{more}: {}; {}",
        first.code,
        places.join(", "),
        first.message,
        first.fix
    )
}

#[cfg(test)]
mod tests {
    use rekeeper_shared::domain::ids::TableName;
    use rekeeper_shared::domain::problem::Code;

    use super::*;

    #[test]
    fn what_blocks_a_start_fits_into_a_header_however_much_it_is() {
        let change = |number: usize| Finding::new(Code::TableChanged, format!("{number} {}", "x".repeat(100)));
        let found: Vec<Finding> = (0..10_000).map(change).collect();
        let all = message(&found);
        assert!(all.len() < 16 << 10, "{}", all.len());
        assert!(all.ends_with("and 9980 more; rekeeper plan under another name shows all"));
        assert_eq!(message(&found[..SHOWN]).lines().count(), SHOWN);
    }

    #[test]
    fn what_blocks_many_tables_is_said_once() {
        let table = |number: usize| TableName::new("d", format!("t{number}"));
        let gone =
            |number: usize| Finding::new(Code::ReplicaUnknown, format!("/t/t{number} is not there")).of(&table(number));
        let found: Vec<Finding> = (0..1_000).map(gone).collect();
        let told = message(&found);
        assert!(
            told.starts_with("REPLICA_UNKNOWN d.t0, d.t1, d.t2 and 997 more: /t/t0 is not there; "),
            "{told}"
        );
        assert_eq!(told.lines().count(), 1);
    }
}
