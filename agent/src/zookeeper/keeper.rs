//! The node of ClickHouse Keeper that a server runs itself, as `<keeper_server>` has it.

use rekeeper_shared::domain::place::Place;
use roxmltree::Node;

use super::ensembles::{Access, milliseconds, password, place, unresolved};
use super::xml::{child, child_text, truth};

/// Where a server that has no `<zookeeper>` finds its Keeper: at all nodes of it.
pub(super) fn embedded(section: Node<'_, '_>) -> Result<(Place, Access), String> {
    unresolved(section)?;
    let (port, secure) = port(section)?;
    let nodes: Vec<String> = servers(section)
        .filter_map(|server| child_text(server, "hostname"))
        .map(|host| format!("{host}:{port}"))
        .collect();
    enter(section, nodes, secure, Access::default())
}

/// The section of a server that runs a node of Keeper.
pub(super) fn section<'a, 'i>(root: Node<'a, 'i>) -> Option<Node<'a, 'i>> {
    let section = child(root, "keeper_server")?;
    child(section, "raft_configuration")?;
    Some(section)
}

/// Whether the server takes that Keeper where it has no `<zookeeper>`.
pub(super) fn is_used(section: Node<'_, '_>) -> bool {
    child_text(section, "use_cluster").is_none_or(|text| truth(&text))
}

/// Where the server's own node takes clients: by the name that the others have for it, or on this machine.
pub(super) fn own(section: Node<'_, '_>) -> Result<(Place, Access), String> {
    unresolved(section)?;
    let (port, secure) = port(section)?;
    let id = child_text(section, "server_id");
    let named = servers(section).find(|server| child_text(*server, "id") == id);
    let names = named.and_then(|server| child_text(server, "hostname"));
    let nodes = names.into_iter().chain(["127.0.0.1".to_owned()]);
    let nodes = nodes.map(|host| format!("{host}:{port}")).collect();
    let access = Access {
        password: password(section)?,
        ..Access::default()
    };
    enter(section, nodes, secure, access)
}

fn enter(section: Node<'_, '_>, nodes: Vec<String>, secure: bool, access: Access) -> Result<(Place, Access), String> {
    let session_timeout = match child(section, "coordination_settings") {
        Some(settings) => milliseconds(settings, "session_timeout_ms")?,
        None => access.session_timeout,
    };
    let all_secure = vec![secure; nodes.len()];
    let place = place("default", nodes, &all_secure, String::new())?;
    Ok((
        place,
        Access {
            session_timeout,
            ..access
        },
    ))
}

/// The port for clients, and whether TLS is spoken there.
fn port(section: Node<'_, '_>) -> Result<(String, bool), String> {
    let secure = child_text(section, "tcp_port_secure").map(|port| (port, true));
    let plain = || child_text(section, "tcp_port").map(|port| (port, false));
    let port = secure.or_else(plain);
    port.ok_or_else(|| "it has neither <tcp_port> nor <tcp_port_secure>".to_owned())
}

fn servers<'a, 'i>(section: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    let raft = child(section, "raft_configuration").into_iter();
    let servers = raft.flat_map(|raft| raft.children());
    servers.filter(|n| n.tag_name().name().starts_with("server"))
}
