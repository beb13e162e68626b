//! What else the server keeps in ZooKeeper, beside its replicated tables: a hook that moves the server leaves it behind.

use std::path::Path;

use rekeeper_shared::domain::inventory::{Kept, KeptKind};

use super::around::if_there;
use crate::clickhouse::{ClickHouse, Error};

/// Tables and databases that are told by the server, and paths that its configuration names.
pub(super) async fn kept(clickhouse: &ClickHouse, config: &Path) -> Result<Vec<Kept>, Error> {
    let tables: Vec<(String, String)> = if_there(
        clickhouse,
        "SELECT FROM system.tables",
        "SELECT engine, concat(database, '.', name) FROM system.tables \
         WHERE engine IN ('KeeperMap', 'S3Queue', 'AzureQueue') ORDER BY engine, database, name",
    )
    .await?;
    let databases: Vec<String> = if_there(
        clickhouse,
        "SELECT FROM system.databases",
        "SELECT name FROM system.databases WHERE engine = 'Replicated' ORDER BY name",
    )
    .await?;
    let mut found: Vec<Kept> = tables
        .into_iter()
        .map(|(engine, name)| Kept {
            kind: if engine == "KeeperMap" {
                KeptKind::KeeperMap
            } else {
                KeptKind::Queue
            },
            name,
        })
        .collect();
    let database = |name| Kept {
        kind: KeptKind::Database,
        name,
    };
    found.extend(databases.into_iter().map(database));
    // A file that cannot be read is told as that of the ensembles.
    if let Ok(text) = std::fs::read_to_string(config) {
        found.extend(configured(&text));
    }
    Ok(found)
}

/// The paths that the configuration keeps things at.
fn configured(text: &str) -> Vec<Kept> {
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..Default::default()
    };
    let Ok(document) = roxmltree::Document::parse_with_options(text, options) else {
        return Vec::new();
    };
    let root = document.root_element();
    let text_of = |names: &[&str]| {
        let element = names.iter().try_fold(root, |node, name| {
            node.children().find(|child| child.has_tag_name(*name))
        })?;
        let text = element.text()?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let paths = [
        (KeptKind::Functions, text_of(&["user_defined_zookeeper_path"])),
        (
            KeptKind::Users,
            text_of(&["user_directories", "replicated", "zookeeper_path"]),
        ),
        (KeptKind::NamedCollections, {
            let kind = text_of(&["named_collections_storage", "type"]).unwrap_or_default();
            text_of(&["named_collections_storage", "path"])
                .filter(|_| kind.contains("zookeeper") || kind.contains("keeper"))
        }),
        (KeptKind::DdlQueue, text_of(&["distributed_ddl", "path"])),
    ];
    paths
        .into_iter()
        .filter_map(|(kind, name)| Some(Kept { kind, name: name? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_configuration_are_found() {
        let text = "<clickhouse><user_defined_zookeeper_path>/udf</user_defined_zookeeper_path><distributed_ddl><path>/ddl</path>
            </distributed_ddl><user_directories><replicated><zookeeper_path>/users</zookeeper_path></replicated>
            </user_directories><named_collections_storage><type>zookeeper_encrypted</type><path>/nc</path>
            </named_collections_storage></clickhouse>";
        let found = configured(text);
        let names: Vec<&str> = found.iter().map(|kept| kept.name.as_str()).collect();
        assert_eq!(names, ["/udf", "/users", "/nc", "/ddl"]);
        assert_eq!(configured(&text.replace("zookeeper_encrypted", "local")).len(), 3);
        assert_eq!(configured("<clickhouse/>"), []);
    }
}
