//! Which agents are taken in, and whether this coordinator may order anything of them.

use std::collections::BTreeMap;

use rekeeper_shared::PROTOCOL_VERSION;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Hello, SeenToken};

/// Why an agent cannot be taken in beside those that are connected.
pub(super) fn objection<'a>(
    connected: impl Iterator<Item = &'a Hello> + Clone,
    hello: &Hello,
) -> Option<(Code, String)> {
    if hello.protocol != PROTOCOL_VERSION {
        let message = format!(
            "the agent of {} ({}) speaks version {} of the protocol, and this coordinator version {PROTOCOL_VERSION}; \
             install the same release of Rekeeper on both",
            hello.host, hello.agent_version, hello.protocol
        );
        return Some((Code::AgentProtocol, message));
    }
    let taken = |message| Some((Code::AgentDuplicate, message));
    let (mut same_host, mut others) = (connected.clone(), connected);
    let same_host = same_host.find(|other| other.host == hello.host);
    if let Some(other) = same_host.filter(|other| same_server(other, hello) == Some(false)) {
        return taken(format!(
            "an agent of another ClickHouse server ({}) is connected under the host name {} already; each server needs a \
             host name of its own (this one is {})",
            other.server_id, hello.host, hello.server_id
        ));
    }
    let other = others.find(|other| other.host != hello.host && same_server(other, hello) == Some(true));
    if let Some(Hello { host, .. }) = other {
        return taken(format!(
            "the ClickHouse server of {} ({}) has a connected agent already, under the host name {host}; stop one of them",
            hello.host, hello.server_id
        ));
    }
    None
}

/// Whether two agents are those of one server; none when one of them does not know its server, because it was down
/// when the agent started. Such an agent is taken by its host name alone.
fn same_server(one: &Hello, other: &Hello) -> Option<bool> {
    let known = !one.server_id.is_empty() && !other.server_id.is_empty();
    known.then(|| one.server_id == other.server_id)
}

/// Why this coordinator knows less than the agent has seen, if so (invariant 13): a higher token, or the same token of
/// another coordinator, was handed out by somebody who went on from the same store; and so was a lower one that this
/// store's own past has for another run, however often an old store was started since.
pub(super) fn ahead(own: &SeenToken, past: &BTreeMap<u64, String>, hello: &Hello) -> Option<String> {
    let seen = &hello.seen;
    let what = if seen.token > own.token {
        format!("token {}, and this one has {}", seen.token, own.token)
    } else if seen.token == own.token && seen.run != own.run {
        format!(
            "the same token {} (run {}, this one is {})",
            seen.token, seen.run, own.run
        )
    } else if let Some(run) = past.get(&seen.token).filter(|run| **run != seen.run) {
        format!(
            "token {} (run {}) that is none of this one's past (run {run})",
            seen.token, seen.run
        )
    } else {
        return None;
    };
    Some(format!(
        "the agent of {} has obeyed a coordinator with {what}: the data_dir of this coordinator was restored from a \
         backup, is a copy, or is new; nothing is ordered",
        hello.host
    ))
}
