//! A dry run, for people: one line for each statement and node, so that it can be searched.

use std::fmt::Write as _;

use rekeeper_shared::people::rehearsal::{Action, RehearsedStep};

use super::text::escape;

/// The heading of a host.
pub(crate) fn host(step: &RehearsedStep, is_first: bool) -> String {
    format!("{}Host {}\n", if is_first { "" } else { "\n" }, step.host)
}

pub(crate) fn step(step: &RehearsedStep) -> String {
    let place = step
        .place
        .as_ref()
        .map(|place| format!(" (ZooKeeper {place})"))
        .unwrap_or_default();
    let reads = if step.actions.is_empty() { ": only reads" } else { "" };
    let mut out = format!("  {} {}{place}{reads}\n", step.step, escape(&step.target));
    for action in &step.actions {
        let (what, text) = match action {
            Action::Statement(sql) => ("", sql),
            Action::Run(command) => ("run ", command),
            Action::CreateNode(node) => ("create node ", node),
            Action::DeleteNode(node) => ("delete node ", node),
            Action::SetPermissions(node) => ("set permissions of node ", node),
            Action::WriteFile(file) => ("export all nodes to ", file),
        };
        let _ = writeln!(out, "    {what}{}", escape(text));
    }
    out
}
