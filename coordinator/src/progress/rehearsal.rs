//! The way that a migration would go from here, if nothing fails: for a dry run. Pure, like everything here: the steps
//! are those that would be ordered, since the same functions choose them.

use rekeeper_shared::domain::plan::{HostIx, Plan};
use rekeeper_shared::domain::step::{Done, Outcome, Restored, StepKind, Target};
use rekeeper_shared::people::view::Until;

use super::{Intent, OperatorOrder, Progress, Record};

/// What stands in for the digest of a document that is not there yet.
const NO_DOCUMENT: &str = "dry-run";

/// Goes the way from `progress` on, as `start` with this barrier would, and tells of each step on it together with the
/// progress that it is ordered at. Of the hosts that can do a step, it is ordered of the first that is connected.
pub fn rehearse(
    mut progress: Progress,
    plan: &Plan,
    until: Option<Until>,
    is_connected: impl Fn(HostIx) -> bool,
    mut tell: impl FnMut(&Progress, Intent),
) {
    let start = Record::Ordered {
        by: String::new(),
        order: OperatorOrder::Start { until },
    };
    // An order is always applied; whether it can be given was asked before.
    let _ = progress.apply(plan, &start);
    loop {
        let under_way: Vec<Intent> = progress.in_flight.values().copied().collect();
        for intent in under_way {
            let event = Record::Event {
                attempt: intent.attempt,
                outcome: Outcome::Done(done(plan, intent)),
            };
            if progress.apply(plan, &event).is_err() {
                return;
            }
        }
        let mut ordered = false;
        for proposal in progress.proposals(plan) {
            for (target, candidates) in proposal.members {
                let connected = candidates.iter().copied().find(|&host| is_connected(host));
                let Some(host) = connected.or_else(|| candidates.first().copied()) else {
                    continue;
                };
                let intent = Intent {
                    attempt: progress.next_attempt,
                    host,
                    step: proposal.row.step,
                    target,
                };
                // As in the driver: the intent before may have made this one impossible until it is done.
                if progress.apply(plan, &Record::Intent(intent)).is_ok() {
                    tell(&progress, intent);
                    ordered = true;
                }
            }
        }
        if !ordered {
            return;
        }
    }
}

/// What each step tells when all is well.
pub(super) fn done(plan: &Plan, intent: Intent) -> Done {
    match intent.step {
        StepKind::Sync
        | StepKind::Freeze
        | StepKind::Detach
        | StepKind::Reattach
        | StepKind::Attest
        | StepKind::Release
        | StepKind::Witness
        | StepKind::Clear
        | StepKind::Finish => Done::Plain,
        StepKind::Settle => Done::Settled(Vec::new()),
        StepKind::Record => Done::Recorded {
            digest: Some(NO_DOCUMENT.to_owned()),
            unsettled: Vec::new(),
            // Which replica goes first is only known when the set is recorded.
            order: match intent.target {
                Target::Set(set) => plan.replica_names(set),
                Target::Table(_) | Target::Host(_) => Vec::new(),
            },
            one_by_one: false,
            export: None,
        },
        StepKind::Clean => Done::Cleaned {
            znodes: 0,
            export: None,
        },
        StepKind::Restart => Done::Restarted {
            at: NO_DOCUMENT.to_owned(),
        },
        StepKind::Attach => Done::Attached {
            digest: NO_DOCUMENT.to_owned(),
            parts: 0,
            rows: 0,
        },
        StepKind::Restore => Done::Restored {
            counts: Restored::default(),
            account: String::new(),
        },
    }
}
