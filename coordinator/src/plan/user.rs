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
        let lacking =
            (of_plan && !user.not_granted.is_empty()).then(|| (Code::UserRefused, lacks(&user.not_granted, "*.*")));
        let quota = (of_plan && !user.quotas.is_empty()).then(|| (Code::UserQuota, user.quotas.join("; ")));
        let of_host = refused.chain(lacking).chain(quota);
        found.extend(of_host.map(|(code, text)| Finding::new(code, text).on(&inventory.host)));
    }
    for (host, table) in chosen.iter().filter(|(_, table)| !table.not_granted.is_empty()) {
        let text = lacks(&table.not_granted, &table.name.sql());
        found.push(Finding::new(Code::UserRefused, text).on(host).of(&table.name));
    }
    found
}

/// Rights on the same, and then those that say themselves on what they are, as TABLE ENGINE ON an engine.
fn lacks(rights: &[String], on: &str) -> String {
    let (whole, plain): (Vec<&str>, Vec<&str>) = rights
        .iter()
        .map(String::as_str)
        .partition(|right| right.contains(" ON "));
    let plain = (!plain.is_empty()).then(|| format!("{} ON {on}", plain.join(", ")));
    let all: Vec<String> = plain.into_iter().chain(whole.into_iter().map(str::to_owned)).collect();
    format!("the user lacks GRANT {}", all.join(" and GRANT "))
}
