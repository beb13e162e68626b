//! What the servers keep from the agents' users.

use std::collections::BTreeSet;

use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::inventory::HostInventory;
use rekeeper_shared::domain::problem::{Code, Finding};

use super::check::Chosen;

/// Checks that each agent's user may do what the plan needs.
pub(super) fn check_users(inventories: &[HostInventory], chosen: &[Chosen<'_>]) -> Vec<Finding> {
    let hosts: BTreeSet<&HostName> = chosen.iter().map(|(host, _)| *host).collect();
    let mut found = Vec::new();
    for inventory in inventories {
        let user = &inventory.around.user;
        // What tables such a host has is not known.
        let refused = user.refused.iter().map(|why| (Code::UserRefused, why.clone()));
        let of_plan = hosts.contains(&inventory.host);
        let lacking = (of_plan && !user.not_granted.is_empty()).then(|| {
            let text = format!("the user lacks GRANT {} ON *.*", user.not_granted.join(", "));
            (Code::UserRefused, text)
        });
        let quota = (of_plan && !user.quotas.is_empty()).then(|| (Code::UserQuota, user.quotas.join("; ")));
        let of_host = refused.chain(lacking).chain(quota);
        found.extend(of_host.map(|(code, text)| Finding::new(code, text).on(&inventory.host)));
    }
    for (host, table) in chosen.iter().filter(|(_, table)| !table.not_granted.is_empty()) {
        let text = format!(
            "the user lacks GRANT {} ON {}",
            table.not_granted.join(", "),
            table.name.sql()
        );
        found.push(Finding::new(Code::UserRefused, text).on(host).of(&table.name));
    }
    found
}
