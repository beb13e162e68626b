//! The hosts, for people.

use rekeeper_shared::people::view::{HostView, RefusalView};

use super::text::{self, Table, WIDTH};

pub(crate) fn table(hosts: &[HostView], refusals: &[RefusalView]) -> String {
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
    if !refusals.is_empty() {
        out.push('\n');
        out.push_str(&self::refusals(refusals));
    }
    out
}

/// Who was refused in the handshake.
pub(crate) fn refusals(refusals: &[RefusalView]) -> String {
    if refusals.is_empty() {
        return String::new();
    }
    let mut out = String::from("Refused in the TLS handshake within the last hour:\n");
    for refusal in refusals {
        let when = if refusal.count == 1 {
            format!("at {}", refusal.last)
        } else {
            format!("{} times, from {} to {}", refusal.count, refusal.first, refusal.last)
        };
        let line = format!("{} ({when}): {}", refusal.address, refusal.reason);
        out.push_str(&text::wrap(&line, "  ", WIDTH));
    }
    out
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

pub(crate) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
