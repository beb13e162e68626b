//! The chosen tables, found by host and by name: to look through all of them for each of them takes hours where there are
//! many.

use std::collections::{BTreeMap, BTreeSet};

use rekeeper_shared::domain::ids::{HostName, TableName};
use rekeeper_shared::domain::inventory::HostInventory;

use super::check::Chosen;

/// The chosen tables.
pub(super) struct Planned<'a> {
    on: BTreeMap<&'a HostName, BTreeSet<&'a TableName>>,
    everywhere: Names<'a>,
}

impl<'a> Planned<'a> {
    pub(super) fn of(chosen: &[Chosen<'a>]) -> Self {
        let mut on: BTreeMap<&HostName, BTreeSet<&TableName>> = BTreeMap::new();
        for (host, table) in chosen {
            on.entry(host).or_default().insert(&table.name);
        }
        Self {
            on,
            everywhere: Names::of(chosen.iter().map(|(_, table)| &table.name)),
        }
    }

    /// Those of a host that has any.
    pub(super) fn on(&self, host: &HostName) -> Option<&BTreeSet<&'a TableName>> {
        self.on.get(host)
    }

    /// The hosts that have any.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &'a HostName> + '_ {
        self.on.keys().copied()
    }

    /// Those of all hosts.
    pub(super) fn everywhere(&self) -> &Names<'a> {
        &self.everywhere
    }
}

/// Tables by their names, the database last.
#[derive(Default)]
pub(super) struct Names<'a>(BTreeMap<&'a str, BTreeMap<&'a str, &'a TableName>>);

impl<'a> Names<'a> {
    pub(super) fn of(tables: impl IntoIterator<Item = &'a TableName>) -> Self {
        let mut names: BTreeMap<&str, BTreeMap<&str, &TableName>> = BTreeMap::new();
        for table in tables {
            names.entry(&table.table).or_default().insert(&table.database, table);
        }
        Self(names)
    }

    /// The table that a name in a Distributed table means; without a database the other server has one by default, and
    /// which is not known here.
    pub(super) fn meant(&self, named: &TableName) -> Option<&'a TableName> {
        let of_name = self.0.get(named.table.as_str())?;
        if named.database.is_empty() {
            return of_name.values().next().copied();
        }
        of_name.get(named.database.as_str()).copied()
    }
}

/// The inventories by their hosts.
pub(super) fn by_host(inventories: &[HostInventory]) -> BTreeMap<&HostName, &HostInventory> {
    inventories
        .iter()
        .map(|inventory| (&inventory.host, inventory))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distributed_table_without_a_database_may_mean_any() {
        let table = TableName::new("d", "t");
        let names = Names::of([&table]);
        assert_eq!(names.meant(&TableName::new("", "t")), Some(&table));
        assert_eq!(names.meant(&table), Some(&table));
        assert_eq!(names.meant(&TableName::new("e", "t")), None);
        assert_eq!(names.meant(&TableName::new("", "d")), None);
    }
}
