//! What the nodes of an ensemble are, by the four-letter word `srvr`: ZooKeeper or ClickHouse Keeper, and which version.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use futures::future::join_all;
use rekeeper_shared::domain::inventory::EnsembleNode;
use rekeeper_shared::domain::place::Place;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one node may take to answer.
const ASK: Duration = Duration::from_secs(2);
/// Most bytes of an answer that are read: the version comes first.
const ANSWER: u64 = 1 << 10;
/// How either begins to answer (ZooKeeper, ServerStats and StatCommand; ClickHouse, FourLetterCommand.cpp), and what it is.
const BEGINNINGS: [(&str, &str); 2] = [
    ("Zookeeper version: ", "ZooKeeper"),
    ("ClickHouse Keeper version: v", "ClickHouse Keeper"),
];

/// Asks each node of the places. One that does not answer, or is not allowed to (`4lw.commands.whitelist`), and one that
/// speaks TLS, says nothing.
pub async fn software(places: BTreeSet<&Place>) -> Vec<EnsembleNode> {
    let nodes: BTreeSet<(&str, bool)> = places
        .into_iter()
        .flat_map(|place| place.nodes.iter().map(|node| (node.as_str(), place.secure)))
        .collect();
    let asked = nodes.into_iter().map(async |(node, secure)| EnsembleNode {
        node: node.to_owned(),
        software: if secure { None } else { ask(node).await },
    });
    join_all(asked).await
}

async fn ask(node: &str) -> Option<String> {
    let answer = timeout(ASK, srvr(node)).await.ok()?.ok()?;
    told(&String::from_utf8_lossy(&answer))
}

async fn srvr(node: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(node).await?;
    stream.write_all(b"srvr").await?;
    let mut answer = Vec::new();
    stream.take(ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn told(answer: &str) -> Option<String> {
    let (rest, what) = BEGINNINGS
        .iter()
        .find_map(|(begins, what)| Some((answer.strip_prefix(begins)?, what)))?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
    let version = &rest[..end.unwrap_or(rest.len())];
    (!version.is_empty()).then(|| format!("{what} {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_says_what_it_is() {
        for (answer, what) in [
            (
                "Zookeeper version: 3.8.0-${mvngit.commit.id}, built on 2022-02-25\nLatency min/avg/max: 0/0.0/0\n",
                Some("ZooKeeper 3.8.0"),
            ),
            (
                "ClickHouse Keeper version: v25.8.1.5101-testing-c5a3\nMode: leader\n",
                Some("ClickHouse Keeper 25.8.1.5101"),
            ),
            ("srvr is not executed because it is not in the whitelist.", None),
            ("Zookeeper version: \u{1b}[2J", None),
            ("", None),
        ] {
            assert_eq!(told(answer).as_deref(), what);
        }
    }
}
