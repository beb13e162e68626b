//! Which tables tie hosts into one wave that would move in several waves without them.

use std::collections::{BTreeMap, BTreeSet};

use rekeeper_shared::domain::ids::{HostName, TableName};
use rekeeper_shared::domain::plan::{HostIx, PlannedHost};
use rekeeper_shared::domain::problem::{Code, Finding};

use super::around::some_of;
use super::build::wave_of;
use super::waves::waves;

/// A table without which a wave would fall apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tie {
    table: TableName,
    hosts: Vec<HostIx>,
    /// Into how many waves.
    parts: usize,
}

/// What is compared at most, tables with sets of hosts: where shards do not share their hosts alike, there may be as many of
/// both as there are tables, and what would not be found then is only a hint.
const LOOKED_AT: usize = 4_000_000;

/// Looks for such tables; of each set its hosts and the names of its tables.
pub(super) fn ties(waves_now: &[Vec<HostIx>], sets: &[(Vec<HostIx>, BTreeSet<&TableName>)]) -> Vec<Tie> {
    // Sets on the same hosts tie them in the same way, so only their kinds count: a few, however many tables there are.
    let mut kinds: BTreeMap<Vec<HostIx>, BTreeSet<&TableName>> = BTreeMap::new();
    for (hosts, names) in sets {
        let mut hosts = hosts.clone();
        hosts.sort_unstable();
        hosts.dedup();
        kinds.entry(hosts).or_default().extend(names);
    }
    let candidates: BTreeSet<&TableName> = kinds
        .iter()
        .filter(|(hosts, names)| hosts.len() > 1 && names.len() == 1)
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    if candidates.len().saturating_mul(kinds.len()) > LOOKED_AT {
        tracing::warn!(
            tables = candidates.len(),
            "too many to tell which tables tie waves together"
        );
        return Vec::new();
    }
    let hosts = waves_now.iter().map(Vec::len).sum();
    let wave_of = wave_of(waves_now, hosts);
    let mut found = Vec::new();
    for table in candidates {
        let others = kinds
            .iter()
            .filter(|(_, names)| names.len() > 1 || !names.contains(table));
        let mut moves = vec![false; hosts];
        let without = waves(
            hosts,
            others.map(|(on, _)| {
                on.iter().for_each(|&host| moves[host] = true);
                on.clone()
            }),
        );
        // Each part is in one wave. A host on which nothing else is planned would not move at all.
        let mut parts: BTreeMap<usize, usize> = BTreeMap::new();
        for part in without.iter().filter(|part| moves[part[0]]) {
            *parts.entry(wave_of[part[0]]).or_default() += 1;
        }
        let tied = parts.into_iter().filter(|(_, parts)| *parts > 1);
        found.extend(tied.map(|(wave, parts)| Tie {
            table: table.clone(),
            hosts: waves_now[wave].clone(),
            parts,
        }));
    }
    found
}

impl Tie {
    /// The table.
    pub(super) fn table(&self) -> &TableName {
        &self.table
    }

    /// The hosts of the wave.
    pub(super) fn hosts(&self) -> &Vec<HostIx> {
        &self.hosts
    }

    pub(super) fn finding(&self, hosts: &[PlannedHost]) -> Finding {
        let names: Vec<&HostName> = self.hosts.iter().map(|&host| &hosts[host].name).collect();
        let message = format!(
            "ties {} hosts into one wave ({}), which would be {} waves without it",
            names.len(),
            some_of(&names),
            self.parts
        );
        Finding::new(Code::WaveTied, message).of(&self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(hosts: usize, sets: &[(&[HostIx], &str)]) -> Vec<(String, usize)> {
        let names: Vec<TableName> = sets.iter().map(|(_, name)| TableName::new("d", *name)).collect();
        let all: Vec<(Vec<HostIx>, BTreeSet<&TableName>)> = sets
            .iter()
            .zip(&names)
            .map(|((hosts, _), name)| (hosts.to_vec(), BTreeSet::from([name])))
            .collect();
        let now = waves(hosts, all.iter().map(|(hosts, _)| hosts.clone()));
        let told = ties(&now, &all).into_iter().map(|tie| (tie.table.table, tie.parts));
        told.collect()
    }

    #[test]
    fn one_table_over_all_shards_ties_them() {
        let shards: [(&[HostIx], &str); 3] = [(&[0, 1], "a"), (&[2, 3], "a"), (&[0, 1, 2, 3], "wide")];
        assert_eq!(found(4, &shards), [("wide".to_owned(), 2)]);
        // Two such tables tie as well, and leaving out one of them changes nothing.
        let two = [shards[0], shards[1], shards[2], (&[0, 1, 2, 3], "other")];
        assert_eq!(found(4, &two), []);
    }

    #[test]
    fn what_only_a_shard_has_ties_nothing() {
        assert_eq!(found(4, &[(&[0, 1], "a"), (&[2, 3], "a")]), []);
        // Without the only table there is nothing to move.
        assert_eq!(found(3, &[(&[0, 1, 2], "a")]), []);
        assert_eq!(found(3, &[(&[0, 1, 2], "a"), (&[0], "b")]), []);
    }
}
