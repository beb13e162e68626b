//! What writes into the planned tables, or reads from them, by itself, and what it loses while they are away.
//!
//! What each kind does was measured or read; docs/writers.md says which.

use std::collections::{BTreeMap, BTreeSet};

use rekeeper_shared::ids::TableName;
use rekeeper_shared::inventory::{Careless, CarelessSetting, HostInventory, Neighbour, Relation, buffer_remedy};
use rekeeper_shared::plan::{PlanRequest, RestartPolicy};
use rekeeper_shared::problem::{Code, Finding};

use super::check::Chosen;

/// Engines that take something from outside, and do not come back to it for ever when it cannot be written.
const GIVE_UP: [&str; 5] = ["NATS", "RabbitMQ", "S3Queue", "AzureQueue", "WindowView"];

/// What would lose rows: blockers.
pub(super) fn check_writers(
    request: &PlanRequest,
    inventories: &[HostInventory],
    chosen: &[Chosen<'_>],
) -> Vec<Finding> {
    let everywhere: BTreeSet<&TableName> = chosen.iter().map(|(_, table)| &table.name).collect();
    let restarted = request.restart == RestartPolicy::Once;
    let mut found = Vec::new();
    for inventory in inventories {
        let planned: BTreeSet<&TableName> = chosen
            .iter()
            .filter(|(host, _)| **host == inventory.host)
            .map(|(_, table)| &table.name)
            .collect();
        if planned.is_empty() {
            continue; // Its server goes on, and what it cannot send it keeps.
        }
        let ways = Ways::into(&inventory.around.neighbours, &planned, &everywhere);
        for way in ways.all() {
            let finding = match way.writer.engine.as_str() {
                "Buffer" if way.is_direct() || restarted => buffer(way),
                engine if GIVE_UP.contains(&engine) => gives_up(way),
                _ => continue,
            };
            found.push(finding.on(&inventory.host).of(way.into));
        }
        found.extend(careless(inventory, &planned));
    }
    found
}

/// What reads from the planned tables: for each host one warning, so that many tables give no long list.
pub(super) fn check_readers(inventory: &HostInventory, chosen: &[Chosen<'_>]) -> Option<Finding> {
    let is_planned = |name: &TableName| {
        let mut of_host = chosen.iter().filter(|(host, _)| **host == inventory.host);
        of_host.any(|(_, table)| table.name == *name)
    };
    let reads = |it: &&Neighbour| it.relation == Relation::ReadsFrom && is_planned(&it.of);
    let readers: BTreeSet<String> = inventory
        .around
        .neighbours
        .iter()
        .filter(reads)
        .map(|it| format!("{} {} (of {})", it.engine, label(&it.name), it.of))
        .collect();
    let readers: Vec<String> = readers.into_iter().collect();
    (!readers.is_empty())
        .then(|| Finding::new(Code::ReadMeanwhile, super::around::some_of(&readers)).on(&inventory.host))
}

/// Whether a Distributed table of the host may write into one of the tables: which server it sends to is not known here.
pub(super) fn may_send_to(inventory: &HostInventory, table: &TableName, chosen: &[Chosen<'_>]) -> bool {
    let mut of = inventory
        .around
        .neighbours
        .iter()
        .filter(|it| it.name == *table)
        .peekable();
    // One whose target cannot be told may send to any.
    of.peek().is_none() || of.any(|it| chosen.iter().any(|(_, planned)| is_meant(&it.of, &planned.name)))
}

/// A dictionary of the configuration has no database.
fn label(name: &TableName) -> String {
    if name.database.is_empty() {
        return name.table.clone();
    }
    name.to_string()
}

/// Whether a name in a Distributed table is that of the table; without a database the other server has one by default.
fn is_meant(named: &TableName, table: &TableName) -> bool {
    named.table == table.table && (named.database.is_empty() || named.database == table.database)
}

/// How something writes into a planned table.
struct Way<'a> {
    writer: &'a Neighbour,
    /// The planned table.
    into: &'a TableName,
    /// What is between the two, the nearest to the writer first.
    through: Vec<&'a TableName>,
}

impl Way<'_> {
    fn is_direct(&self) -> bool {
        self.through.is_empty()
    }

    fn words(&self) -> String {
        let through: Vec<String> = self.through.iter().map(|name| name.to_string()).collect();
        let through = if through.is_empty() {
            String::new()
        } else {
            format!(" through {}", through.join(" and "))
        };
        format!("{} {} writes into it{through}", self.writer.engine, self.writer.name)
    }
}

/// The ways into planned tables; for what has several, the shortest.
struct Ways<'a>(BTreeMap<&'a TableName, Way<'a>>);

impl<'a> Ways<'a> {
    fn into(neighbours: &'a [Neighbour], here: &BTreeSet<&'a TableName>, everywhere: &BTreeSet<&'a TableName>) -> Self {
        let writers = || neighbours.iter().filter(|it| it.relation == Relation::WritesInto);
        let mut found = BTreeMap::new();
        let mut next = Vec::new();
        for writer in writers() {
            let elsewhere = || everywhere.iter().find(|table| is_meant(&writer.of, table));
            let into = match here.get(&writer.of) {
                None if writer.engine == "Distributed" => elsewhere(),
                direct => direct,
            };
            if let Some(&into) = into {
                let way = Way {
                    writer,
                    into,
                    through: Vec::new(),
                };
                next.push((&writer.name, into, Vec::new()));
                found.entry(&writer.name).or_insert(way);
            }
        }
        while !next.is_empty() {
            for (to, into, through) in std::mem::take(&mut next) {
                for writer in writers()
                    .filter(|it| it.of == *to && !found.contains_key(&it.name))
                    .collect::<Vec<_>>()
                {
                    let through: Vec<&TableName> = std::iter::once(to).chain(through.iter().copied()).collect();
                    next.push((&writer.name, into, through.clone()));
                    found.insert(&writer.name, Way { writer, into, through });
                }
            }
        }
        Self(found)
    }

    fn all(&self) -> impl Iterator<Item = &Way<'a>> {
        self.0.values()
    }
}

fn buffer(way: &Way<'_>) -> Finding {
    let mut finding = Finding::new(Code::BufferTable, way.words());
    finding.fix = buffer_remedy(&way.writer.name, "give the command again");
    finding
}

fn gives_up(way: &Way<'_>) -> Finding {
    let mut finding = Finding::new(Code::FeedGivesUp, way.words());
    if way.writer.engine != "WindowView" {
        let name = way.writer.name.sql();
        finding.fix = format!(
            "on this host: DETACH TABLE {name} PERMANENTLY SYNC, then give the command again; when the migration has ended, \
             ATTACH TABLE {name}; or allow it, when nothing comes meanwhile, or what comes may be lost"
        );
    } else {
        "pause what writes into its source until the migration has ended, and allow it".clone_into(&mut finding.fix);
    }
    finding
}

/// Settings that concern the planned tables of a host.
fn careless(inventory: &HostInventory, planned: &BTreeSet<&TableName>) -> Vec<Finding> {
    let is_target = |name: &TableName| {
        let mut all = inventory.around.neighbours.iter();
        all.any(|it| it.engine == "MaterializedView" && it.relation == Relation::WritesInto && it.of == *name)
    };
    let targets: Vec<&TableName> = planned.iter().copied().filter(|name| is_target(name)).collect();
    let mut by: BTreeMap<(Code, Option<&TableName>), BTreeSet<&str>> = BTreeMap::new();
    for Careless {
        setting,
        by: who,
        table,
    } in &inventory.around.careless
    {
        let (code, concerned) = match setting {
            CarelessSetting::NoWaitForAsyncInsert => {
                let table = table.as_ref();
                (
                    Code::InsertsNotWaitedFor,
                    table.is_none_or(|table| planned.contains(table)),
                )
            }
            // What is written into is the source, and the statement names the views' targets too.
            CarelessSetting::IgnoreErrorsOfViews => (Code::ViewErrorsIgnored, !targets.is_empty()),
        };
        if concerned {
            let table = table.as_ref().filter(|_| code == Code::InsertsNotWaitedFor);
            by.entry((code, table)).or_default().insert(who);
        }
    }
    let finding = |((code, table), who): ((Code, Option<&TableName>), BTreeSet<&str>)| {
        let who: Vec<String> = who.into_iter().map(str::to_owned).collect();
        let mut text = super::around::some_of(&who);
        if code == Code::ViewErrorsIgnored {
            let targets: Vec<String> = targets.iter().map(|name| name.to_string()).collect();
            text = format!("{text}; views write into {}", super::around::some_of(&targets));
        }
        let finding = Finding::new(code, text).on(&inventory.host);
        match table {
            Some(table) => finding.of(table),
            None => finding,
        }
    };
    by.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(name: &str, engine: &str, of: &str) -> Neighbour {
        Neighbour {
            name: TableName::new("d", name),
            engine: engine.into(),
            relation: Relation::WritesInto,
            of: TableName::new("d", of),
        }
    }

    #[test]
    fn ways_lead_through_views_buffers_and_distributed_tables() {
        let neighbours = [
            writes("b", "Buffer", "t"),
            writes("bb", "Buffer", "b"),
            writes("source", "Null", "v"),
            writes("v", "MaterializedView", "t"),
            writes("bs", "Buffer", "source"),
            writes("dist", "Distributed", "elsewhere"),
            writes("bd", "Buffer", "dist"),
            writes("loop", "Buffer", "loop"),
            writes("other", "Buffer", "not planned"),
        ];
        let (t, elsewhere) = (TableName::new("d", "t"), TableName::new("d", "elsewhere"));
        let here = BTreeSet::from([&t]);
        let everywhere = BTreeSet::from([&t, &elsewhere]);
        let ways = Ways::into(&neighbours, &here, &everywhere);
        let words: Vec<String> = ways.all().map(|way| format!("{}: {}", way.into, way.words())).collect();
        assert_eq!(
            words,
            [
                "d.t: Buffer d.b writes into it",
                "d.t: Buffer d.bb writes into it through d.b",
                "d.elsewhere: Buffer d.bd writes into it through d.dist",
                "d.t: Buffer d.bs writes into it through d.source and d.v",
                "d.elsewhere: Distributed d.dist writes into it",
                "d.t: Null d.source writes into it through d.v",
                "d.t: MaterializedView d.v writes into it",
            ]
        );
    }

    #[test]
    fn a_distributed_table_without_a_database_may_mean_any() {
        let table = TableName::new("d", "t");
        assert!(is_meant(&TableName::new("", "t"), &table));
        assert!(is_meant(&table, &table));
        assert!(!is_meant(&TableName::new("e", "t"), &table));
    }
}
