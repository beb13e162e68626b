//! The one question, before the first node is deleted.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use rekeeper_shared::people::view::{Phase, State, StatusView, Until};

use crate::cli::Barrier;
use crate::output::{notice, status, text};
use crate::signals::Signals;

/// Whether somebody is there who can be asked.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Whether starting now leads over the first delete, and nobody has said yes to that before.
pub(crate) fn start_needs_yes(status: &StatusView, until: Option<Barrier>) -> bool {
    if until == Some(Barrier::Detached) || anything_deleted(status) {
        return false;
    }
    match status.state {
        State::Planned | State::Paused | State::Failed => true,
        // On its way already, and only looked at, unless it was to stop before the delete and another barrier is named.
        State::Running => status.until == Some(Until::Detached) && until.is_some(),
        State::Completed | State::Aborted => false,
    }
}

/// Whether going on leads over the first delete: only from the barrier in front of it, since who paused on the way there
/// had said yes at the start.
pub(crate) fn resume_needs_yes(status: &StatusView) -> bool {
    status.state == State::Paused && status.until == Some(Until::Detached) && !anything_deleted(status)
}

fn anything_deleted(status: &StatusView) -> bool {
    status.counts.zk_cleaned > 0
        || status.counts.restored > 0
        || status.phase > Phase::Clean
        || status.replica_sets.iter().any(|set| set.znodes_deleted > 0)
}

/// Asks. A signal or the end of the input is a no.
pub(crate) async fn confirmed(view: &StatusView, until: Option<Barrier>, signals: &mut Signals) -> bool {
    notice(&question(view, until));
    let mut stderr = io::stderr();
    let _ = write!(stderr, "Go on? [y/N] ").and_then(|()| stderr.flush());
    let (send, answer) = tokio::sync::oneshot::channel();
    // A thread of its own: a read from a terminal cannot be cancelled, and the runtime must not wait for it.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        let _ = send.send(read.is_ok() && is_yes(&line));
    });
    tokio::select! {
        () = signals.received() => {
            notice("\n");
            false
        }
        answer = answer => answer.unwrap_or(false),
    }
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn question(view: &StatusView, until: Option<Barrier>) -> String {
    let tables = usize::try_from(view.counts.total()).unwrap_or(usize::MAX);
    let (tables, hosts) = (status::tables_of(tables), text::count(view.hosts.len(), "host"));
    let sets = text::count(view.replica_sets.len(), "replica set");
    let mut out = format!(
        "Migration {}: {tables} on {hosts}. From here on it\n\
         - detaches the tables that still are attached: no reads and no writes until they\n  are restored;\n\
         - DELETES the ZooKeeper nodes of {sets}: THIS CANNOT BE UNDONE, afterwards\n  the only way is forward",
        view.name
    );
    if until != Some(Barrier::ZkCleaned) {
        out.push_str(&format!(
            ";\n- restarts the ClickHouse servers of {hosts}, unless planned with --restart never"
        ));
        if until != Some(Barrier::Restarted) {
            out.push_str(";\n- restores the tables on new metadata");
        }
    }
    out.push('.');
    let expected: Option<u64> = view.waves.iter().map(|wave| wave.expected_seconds).sum();
    if let Some(expected) = expected.filter(|_| !view.waves.is_empty()) {
        let longest = view.waves.iter().filter_map(|wave| wave.expected_seconds).max();
        out.push_str(&format!(
            "\nExpected: {} in {}, each table unavailable for up to {};\nfetched again: at most {}.",
            text::seconds(expected),
            text::count(view.waves.len(), "wave"),
            text::seconds(longest.unwrap_or(0)),
            text::bytes(view.waves.iter().map(|wave| wave.fetch_bytes).sum())
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use rekeeper_shared::people::view::{Counts, SetStatus};

    use super::*;

    fn view(state: State, until: Option<Until>) -> StatusView {
        StatusView {
            name: "m".parse().unwrap(),
            state,
            phase: Phase::Detach,
            until,
            waiting_for: None,
            running: vec![],
            retries: Vec::new(),
            waves: vec![],
            counts: Counts {
                init: 2,
                ..Counts::default()
            },
            hosts: vec![],
            replica_sets: vec![],
            tables: vec![],
        }
    }

    #[test]
    fn asked_is_before_the_first_delete_only() {
        let planned = view(State::Planned, None);
        assert!(start_needs_yes(&planned, None));
        assert!(start_needs_yes(&planned, Some(Barrier::ZkCleaned)));
        assert!(!start_needs_yes(&planned, Some(Barrier::Detached)));
        assert!(!start_needs_yes(&view(State::Running, None), None));
        let stops_before = view(State::Running, Some(Until::Detached));
        assert!(!start_needs_yes(&stops_before, None));
        assert!(start_needs_yes(&stops_before, Some(Barrier::Restored)));

        let mut cleaning = view(State::Paused, None);
        cleaning.phase = Phase::Clean;
        assert!(start_needs_yes(&cleaning, None), "nothing deleted yet");
        cleaning.replica_sets = vec![SetStatus {
            zookeeper_path: "/t".into(),
            settled: true,
            reference: None,
            reason: None,
            znodes_deleted: 1,
            export: None,
        }];
        assert!(!start_needs_yes(&cleaning, None));

        let mut cleaned = view(State::Paused, None);
        cleaned.counts = Counts {
            zk_cleaned: 1,
            init: 1,
            ..Counts::default()
        };
        assert!(!start_needs_yes(&cleaned, None));
    }

    #[test]
    fn resume_asks_at_the_barrier_before_the_first_delete() {
        assert!(resume_needs_yes(&view(State::Paused, Some(Until::Detached))));
        assert!(!resume_needs_yes(&view(State::Paused, None)));
        assert!(!resume_needs_yes(&view(State::Failed, Some(Until::Detached))));
    }

    #[test]
    fn only_yes_is_yes() {
        assert!(is_yes("y\n") && is_yes(" YES \n"));
        assert!(!is_yes("\n") && !is_yes("") && !is_yes("yeah"));
    }
}
