//! What the server itself says of its tables, for an agent that has lost its list: of those that are attached in the
//! system tables, of those that are detached in their metadata files, which the server reads when it attaches them.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::place::{Place, ZkPath};

use super::KnownTable;
use crate::clickhouse::{ClickHouse, Detached, Error};
use crate::definition::{self, Engine, SERVER_UUID, expand, replicated};
use crate::zookeeper::Ensembles;

/// What was learned, and of which detached tables nothing could be, with the reason.
pub(super) type Learned = (BTreeSet<KnownTable>, Vec<String>);

/// Asks the server for all tables of Replicated*MergeTree engines, and where they are.
///
/// # Errors
/// The server's failure.
pub(super) async fn learn(clickhouse: &ClickHouse, config: &Path) -> Result<Learned, Error> {
    let ensembles = Ensembles::read(config).ok();
    let place = |ensemble: &str| ensembles.as_ref().and_then(|all| all.place(ensemble));
    let mut learned = BTreeSet::new();
    for (database, table, uuid, ensemble, path, replica_name) in attached(clickhouse).await? {
        // A path that is not usable gets a blocker, not a command.
        if let Ok(path) = ZkPath::parse(&path) {
            learned.insert(KnownTable {
                name: TableName::new(database, table),
                uuid,
                path,
                replica_name,
                place: place(&ensemble),
            });
        }
    }
    let detached = clickhouse.detached_tables().await?;
    let mut unread = Vec::new();
    if detached.is_empty() {
        return Ok((learned, unread));
    }
    let macros: Vec<(String, String)> = clickhouse
        .rows(
            "SELECT FROM system.macros",
            "SELECT macro, substitution FROM system.macros",
        )
        .await?;
    let mut macros: HashMap<String, String> = macros.into_iter().collect();
    macros.insert(SERVER_UUID.to_owned(), clickhouse.server_uuid().await?);
    let folder: Vec<String> = clickhouse
        .rows(
            "SELECT FROM system.disks",
            "SELECT path FROM system.disks WHERE name = 'default'",
        )
        .await?;
    let folder = folder.into_iter().next().unwrap_or_default();
    for row in detached {
        match from_definition(row, Path::new(&folder), &macros, &place) {
            Ok(table) => learned.extend(table),
            Err(why) => unread.push(why),
        }
    }
    Ok((learned, unread))
}

/// What the metadata file of a detached table says; none of another engine, or a path that is not usable.
fn from_definition(
    row: Detached,
    folder: &Path,
    macros: &HashMap<String, String>,
    place: &impl Fn(&str) -> Option<Place>,
) -> Result<Option<KnownTable>, String> {
    let (name, uuid) = (row.table, row.uuid);
    // Relative to the server's folder, on newer servers.
    let file = folder.join(row.metadata_path);
    let text = std::fs::read_to_string(&file)
        .map_err(|error| format!("{name}, whose definition is in {}: {error}", file.display()))?;
    let Some(Engine { path, replica }) = replicated(&text) else {
        return Ok(None); // Another engine.
    };
    let expanded = |text: &str| expand(text, macros, &name, &uuid);
    let (Ok(argument), Ok(replica_name)) = (expanded(&path), expanded(&replica)) else {
        return Err(format!(
            "{name}, which has a macro in {path} or {replica} that system.macros has not"
        ));
    };
    let (ensemble, at) = definition::place(&argument);
    Ok(ZkPath::parse(&at).ok().map(|path| KnownTable {
        place: place(ensemble),
        name,
        uuid,
        path,
        replica_name,
    }))
}

type Attached = (String, String, String, String, String, String);

async fn attached(clickhouse: &ClickHouse) -> Result<Vec<Attached>, Error> {
    clickhouse
        .rows(
            "SELECT FROM system.replicas",
            "SELECT r.database, r.table, toString(t.uuid), r.zookeeper_name, r.zookeeper_path, r.replica_name \
             FROM system.replicas AS r INNER JOIN system.tables AS t ON t.database = r.database AND t.name = r.table",
        )
        .await
}
