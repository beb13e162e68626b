//! Whose replicas are registered at a path: what ClickHouse itself notes of them.

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::place::ZkPath;

use super::connection::ZooKeeper;
use super::error::ZkError;

/// A replica that is registered, and who registered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name under `replicas`.
    pub replica: String,
    /// UUID of the table that registered it; none when the server does not note it (before 21.x).
    pub uuid: Option<String>,
    /// The host as its server calls itself, empty when it is not noted.
    pub host: String,
    /// The table as its server calls it.
    pub table: Option<TableName>,
    /// It made the path: ClickHouse makes a table and its first replica in one transaction.
    pub is_first: bool,
}

impl ZooKeeper {
    /// The replicas that are registered at a path, sorted by name; none when there is no table.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn owners(&self, path: &ZkPath) -> Result<Vec<Owner>, ZkError> {
        let parent = path.child("replicas");
        let (Some(made), Some(mut names)) = (self.stat(&parent).await?, self.children(&parent).await?) else {
            return Ok(Vec::new());
        };
        names.sort();
        let mut owners = Vec::with_capacity(names.len());
        for name in names {
            let node = path.replica(&name);
            let wanted = vec![node.clone(), format!("{node}/host"), format!("{node}/creator_info")];
            let mut contents = self.many_data(wanted).await?.into_iter();
            let mut content = || contents.next().flatten();
            let Some((_, stat)) = content() else {
                continue; // It was dropped meanwhile.
            };
            let text = |content: Option<(Vec<u8>, _)>| {
                content.map_or_else(String::new, |(bytes, _)| String::from_utf8_lossy(&bytes).into_owned())
            };
            let (address, creator) = (text(content()), text(content()));
            let field = |key: &str| {
                let mut lines = address.lines();
                lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": ").map(str::to_owned))
            };
            owners.push(Owner {
                replica: name,
                uuid: creator.split_once('|').map(|(uuid, _)| uuid.to_owned()),
                host: field("host").unwrap_or_default(),
                table: field("database")
                    .zip(field("table"))
                    .map(|(database, table)| TableName::new(database, table)),
                is_first: stat.czxid == made.czxid,
            });
        }
        Ok(owners)
    }
}
