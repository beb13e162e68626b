//! What the next start of the server would change for its tables, because its configuration was changed since its last
//! one: where the macros send a table's path, and what its disks and storage policies are.
//!
//! Servers load their configuration again by themselves. Measured on 25.8: macros have their new values within seconds,
//! while tables stay where they are until they are attached again; another path of a disk is refused, noted in
//! `preprocessed_configs` all the same, and taken at the next start. So what a table has is compared with what it would get,
//! and not the macros with the macros.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use rekeeper_shared::domain::ids::TableName;
use roxmltree::{Document, Node};

use crate::clickhouse::{ClickHouse, Error};
use crate::definition::{SERVER_UUID, expand, of_engine, place};

/// Disks and policies that ClickHouse makes of a table's own settings.
const INTERNAL: &str = "__";

/// What the configuration file says now.
#[derive(Debug, Default)]
pub(super) struct Configured {
    macros: HashMap<String, String>,
    /// Folders of the local disks; none for disks of another type.
    disks: BTreeMap<String, Option<String>>,
    /// The disks of each policy.
    policies: BTreeMap<String, BTreeSet<String>>,
}

/// What the server that runs has.
pub(super) struct Running {
    /// Its disks, and the folders of the local ones.
    disks: HashMap<String, Option<String>>,
    server_uuid: String,
}

impl Running {
    pub(super) async fn read(clickhouse: &ClickHouse) -> Result<Self, Error> {
        let rows: Vec<(String, String, u8)> = clickhouse
            .rows(
                "SELECT FROM system.disks",
                "SELECT name, path, toUInt8(lower(toString(type)) = 'local') FROM system.disks",
            )
            .await?;
        let disks = rows.into_iter();
        Ok(Self {
            disks: disks
                .map(|(name, path, local)| (name, (local != 0).then_some(path)))
                .collect(),
            server_uuid: clickhouse.server_uuid().await?,
        })
    }
}

/// What a table has now.
pub(super) struct Now<'a> {
    pub(super) name: &'a TableName,
    pub(super) uuid: &'a str,
    pub(super) engine_full: &'a str,
    pub(super) path: &'a str,
    pub(super) replica_name: &'a str,
    pub(super) policy: &'a str,
    pub(super) disks: &'a [String],
}

impl Configured {
    /// None when the file cannot be read, which is told as that of the ensembles.
    pub(super) fn read(config: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(config).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let options = roxmltree::ParsingOptions {
            allow_dtd: true,
            ..Default::default()
        };
        let document = Document::parse_with_options(text, options).ok()?;
        let root = document.root_element();
        let mut found = Self::default();
        for element in elements(root, &["macros"]) {
            found.macros.insert(name_of(element), text_of(element));
        }
        if let Some(path) = child(root, "path") {
            found.disks.insert("default".to_owned(), Some(text_of(path)));
        }
        for disk in elements(root, &["storage_configuration", "disks"]) {
            let is_local = child(disk, "type").is_none_or(|kind| text_of(kind) == "local");
            let path = child(disk, "path").filter(|_| is_local).map(text_of);
            // `default` may stand there without a folder of its own.
            if let Some(path) = path {
                found.disks.insert(name_of(disk), Some(path));
            } else {
                found.disks.entry(name_of(disk)).or_insert(None);
            }
        }
        for policy in elements(root, &["storage_configuration", "policies"]) {
            let disks = elements(policy, &["volumes"]).flat_map(|volume| volume.children());
            let disks = disks.filter(|node| node.tag_name().name().starts_with("disk"));
            found.policies.insert(name_of(policy), disks.map(text_of).collect());
        }
        Some(found)
    }

    /// What would be otherwise for the table, in words.
    pub(super) fn changes(&self, now: &Now<'_>, running: &Running) -> Vec<String> {
        let mut changes = self.moved(now, running);
        let internal = |name: &str| name.starts_with(INTERNAL);
        let policy = self.policies.get(now.policy);
        // The policy `default` is there without being configured.
        if policy.is_none() && now.policy != "default" && !internal(now.policy) {
            changes.push(format!("its storage policy {} is not there", now.policy));
        }
        for disk in now.disks.iter().filter(|disk| !internal(disk)) {
            if policy.is_some_and(|disks| !disks.contains(disk)) {
                changes.push(format!("its storage policy {} has no disk {disk}", now.policy));
            }
            let folder = running.disks.get(disk).cloned().flatten();
            match (self.disks.get(disk), folder) {
                // An embedded engine is told the folder of `default` otherwise.
                (None, _) if disk == "default" => {}
                (None, _) => changes.push(format!("there is no disk {disk}")),
                (Some(Some(new)), Some(old)) if !is_same_folder(new, &old) => {
                    changes.push(format!("disk {disk} is at {new} instead of {old}"));
                }
                (Some(_), _) => {}
            }
        }
        changes
    }

    /// Where its path and replica name would be others.
    fn moved(&self, now: &Now<'_>, running: &Running) -> Vec<String> {
        let Some(engine) = of_engine(now.engine_full) else {
            return Vec::new();
        };
        let mut macros = self.macros.clone();
        macros.insert(SERVER_UUID.to_owned(), running.server_uuid.clone());
        let expected = [
            ("path", engine.path.as_str(), now.path),
            ("replica name", engine.replica.as_str(), now.replica_name),
        ];
        let differs = |(what, argument, has): (&str, &str, &str)| match expand(argument, &macros, now.name, now.uuid) {
            Err(name) => Some(format!(
                "there is no macro {{{name}}}, which is in its {what} {argument}"
            )),
            Ok(text) => {
                let text = if what == "path" { place(&text).1 } else { text };
                let is_same = text.trim_end_matches('/') == has.trim_end_matches('/');
                (!is_same).then(|| format!("its {what} {argument} is {text} instead of {has}"))
            }
        };
        expected.into_iter().filter_map(differs).collect()
    }
}

fn is_same_folder(one: &str, other: &str) -> bool {
    // Relative ones are relative to where the server was started.
    !one.starts_with('/') || one.trim_end_matches('/') == other.trim_end_matches('/')
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.has_tag_name(name))
}

fn elements<'a, 'i: 'a>(root: Node<'a, 'i>, path: &[&str]) -> impl Iterator<Item = Node<'a, 'i>> {
    let section = path.iter().try_fold(root, |node, name| child(node, name));
    let children = section.into_iter().flat_map(|section| section.children());
    children.filter(Node::is_element)
}

fn name_of(node: Node<'_, '_>) -> String {
    node.tag_name().name().to_owned()
}

fn text_of(node: Node<'_, '_>) -> String {
    node.text().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        "<clickhouse><path>/data</path><macros><root>/d</root><shard>01</shard><replica>r{shard}</replica></macros>
        <storage_configuration><disks><default/><hot><path>/hot/</path></hot><s3><type>s3</type></s3></disks>
        <policies><mixed><volumes><a><disk>hot</disk><disk_2>s3</disk_2></a></volumes></mixed></policies>
        </storage_configuration></clickhouse>";

    fn changes(config: &str, engine_full: &str) -> Vec<String> {
        let name = TableName::new("d", "t");
        let disks = ["hot".to_owned(), "s3".to_owned()];
        let now = Now {
            name: &name,
            uuid: "u",
            engine_full,
            path: "/d/t/01",
            replica_name: "r01",
            policy: "mixed",
            disks: &disks,
        };
        let local = |path: &str| Some(path.to_owned());
        let running = [("default", local("/data/")), ("hot", local("/hot/")), ("s3", None)];
        let running = running.map(|(name, path)| (name.to_owned(), path));
        let running = Running {
            disks: running.into(),
            server_uuid: "s-1".to_owned(),
        };
        Configured::parse(config).unwrap().changes(&now, &running)
    }

    #[test]
    fn what_a_start_would_change_is_told() {
        let engine = "ReplicatedMergeTree('/{database}/{table}/{shard}', '{replica}') ORDER BY a";
        assert_eq!(changes(CONFIG, engine), [""; 0]);
        for (from, to, says) in [
            (
                "<shard>01",
                "<shard>02",
                "its path /{database}/{table}/{shard} is /d/t/02 instead of /d/t/01",
            ),
            (
                "<replica>r{shard}",
                "<replica>x",
                "its replica name {replica} is x instead of r01",
            ),
            ("<shard>01</shard>", "", "there is no macro {shard}"),
            ("<path>/hot/", "<path>/cold/", "disk hot is at /cold/ instead of /hot/"),
            ("<hot><path>/hot/</path></hot>", "", "there is no disk hot"),
            ("<disk_2>s3</disk_2>", "", "its storage policy mixed has no disk s3"),
            ("mixed>", "other>", "its storage policy mixed is not there"),
        ] {
            assert!(CONFIG.contains(from));
            let found = changes(&CONFIG.replace(from, to), engine).join("; ");
            assert!(found.contains(says), "{found:?} does not say {says:?}");
        }
    }

    #[test]
    fn definitions_are_read_as_they_are_written() {
        for engine in [
            "ReplicatedMergeTree('zk2:/d/t/{shard}/', 'r01') ORDER BY a",
            "ReplicatedReplacingMergeTree('/d/t/01', 'r01', version)",
            "ReplicatedMergeTree ORDER BY tuple()",
            "ReplicatedMergeTree('/d/t/01",
            "ReplicatedMergeTree('d/t/{shard}', '{replica}')",
            "ReplicatedMergeTree('{root}/t/{shard}', '{replica}')",
        ] {
            assert_eq!(changes(CONFIG, engine), [""; 0], "{engine}");
        }
        let engine = "ReplicatedMergeTree('/d/t/{shard}', '{server_uuid}')";
        assert_eq!(
            changes(CONFIG, engine),
            ["its replica name {server_uuid} is s-1 instead of r01"]
        );
    }
}
