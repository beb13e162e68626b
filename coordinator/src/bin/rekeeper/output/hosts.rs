//! The hosts, for people.

use rekeeper_shared::view::HostView;

use super::text::{self, Table, WIDTH};

pub(crate) fn table(hosts: &[HostView]) -> String {
    let mut table = Table::new(&["HOST", "CONNECTED", "AGENT", "CLICKHOUSE", "DOING"]);
    for host in hosts {
        table.row([
            host.host.as_str(),
            yes(host.connected),
            or_none(&host.agent_version),
            or_none(&host.clickhouse_version),
            host.doing.as_deref().unwrap_or("-"),
        ]);
    }
    let mut out = table.render();
    let refused: Vec<_> = hosts
        .iter()
        .filter_map(|host| Some((&host.host, host.refused.as_ref()?)))
        .collect();
    if !refused.is_empty() {
        out.push_str("\nRefused agents:\n");
    }
    for (host, why) in refused {
        out.push_str(&text::wrap(&format!("{host}: {why}"), "  ", WIDTH));
    }
    out
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

pub(crate) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
