//! The hosts, for people.

use rekeeper_shared::view::HostView;

use super::text::Table;

pub(crate) fn table(hosts: &[HostView]) -> String {
    let mut table = Table::new(&["HOST", "CONNECTED", "AGENT", "CLICKHOUSE", "DOING"]);
    for host in hosts {
        table.row([
            host.host.as_str(),
            yes(host.connected),
            &host.agent_version,
            &host.clickhouse_version,
            host.doing.as_deref().unwrap_or("-"),
        ]);
    }
    table.render()
}

pub(crate) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
