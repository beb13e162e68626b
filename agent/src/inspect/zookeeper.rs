//! What ZooKeeper says of the paths of the tables, place by place.

use std::collections::BTreeMap;

use rekeeper_shared::domain::inventory::{TableInventory, ZookeeperFacts};
use rekeeper_shared::domain::place::{Place, ZkPath};

use crate::words::in_full;
use crate::zookeeper::{Connections, Ensembles};

/// Asks for every table; a ZooKeeper that does not answer is a fact of its tables.
pub(super) async fn ask_zookeeper(
    tables: &mut [TableInventory],
    ensembles: Option<&Ensembles>,
    unread: Option<&str>,
    connections: &Connections,
) {
    let mut by_place: BTreeMap<Place, Vec<(usize, ZkPath)>> = BTreeMap::new();
    for (ix, table) in tables.iter_mut().enumerate() {
        if let Some(reason) = unread {
            table.zookeeper = ZookeeperFacts::Unreachable(reason.to_owned());
        }
        let Some(place) = &table.place else {
            continue;
        };
        match ZkPath::parse(&table.zookeeper_path) {
            Ok(path) => by_place.entry(place.clone()).or_default().push((ix, path)),
            Err(error) => table.zookeeper = ZookeeperFacts::Unreachable(error.to_string()),
        }
    }
    for (place, wanted) in by_place {
        let access = ensembles.map(|e| e.access(&place)).unwrap_or_default();
        let zookeeper = match connections.get(&place, &access).await {
            Ok(zookeeper) => zookeeper,
            Err(error) => {
                for (ix, _) in wanted {
                    tables[ix].zookeeper = ZookeeperFacts::Unreachable(in_full(&error));
                }
                continue;
            }
        };
        let (indexes, paths): (Vec<usize>, Vec<ZkPath>) = wanted.into_iter().unzip();
        let found = zookeeper.facts_of_paths(&paths).await;
        for (ix, facts) in indexes.into_iter().zip(found) {
            tables[ix].zookeeper = match facts {
                Ok(Some(facts)) => ZookeeperFacts::Present(facts),
                Ok(None) => ZookeeperFacts::Absent,
                Err(error) => ZookeeperFacts::Unreachable(in_full(&error)),
            };
        }
    }
}
