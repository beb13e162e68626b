//! What writes into the planned tables, or reads from them, by itself, and what it loses while they are away.
//!
//! What each kind does was measured or read; docs/writers.md says which.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::inventory::{
    Careless, CarelessSetting, HostInventory, Neighbour, Relation, buffer_remedy,
};
use rekeeper_shared::domain::plan::{PlanRequest, RestartPolicy};
use rekeeper_shared::domain::problem::{Code, Finding};

use super::planned::{Names, Planned};

/// Engines that take something from outside, and do not come back to it for ever when it cannot be written.
const GIVE_UP: [&str; 5] = ["NATS", "RabbitMQ", "S3Queue", "AzureQueue", "WindowView"];

/// What would lose rows: blockers.
pub(super) fn check_writers(
    request: &PlanRequest,
    inventories: &[HostInventory],
    planned: &Planned<'_>,
) -> Vec<Finding> {
    let restarted = request.restart == RestartPolicy::Once;
    let mut found = Vec::new();
    for inventory in inventories {
        let Some(here) = planned.on(&inventory.host) else {
            continue; // Its server goes on, and what it cannot send it keeps.
        };
        let ways = Ways::into(&inventory.around.neighbours, here, planned.everywhere());
        for way in ways.all() {
            let finding = match way.writer.engine.as_str() {
                "Buffer" if way.is_direct() || restarted => buffer(way, ways.words(way)),
                engine if GIVE_UP.contains(&engine) => gives_up(way, ways.words(way)),
                _ => continue,
            };
            found.push(finding.on(&inventory.host).of(way.into));
        }
        found.extend(careless(inventory, here));
    }
    found
}

/// What reads from the planned tables: for each host one warning, so that many tables give no long list.
pub(super) fn check_readers(inventory: &HostInventory, planned: &BTreeSet<&TableName>) -> Option<Finding> {
    let reads = |it: &&Neighbour| it.relation == Relation::ReadsFrom && planned.contains(&it.of);
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

/// The Distributed tables of the host with blocks that are not sent and may go into a planned table, and how many: which
/// server it sends to is not known here.
pub(super) fn pending<'a>(inventory: &'a HostInventory, planned: &Planned<'_>) -> Vec<&'a (TableName, u64)> {
    let mut targets: BTreeMap<&TableName, Vec<&TableName>> = BTreeMap::new();
    for it in &inventory.around.neighbours {
        targets.entry(&it.name).or_default().push(&it.of);
    }
    let may_send = |table: &TableName| match targets.get(table) {
        Some(of) => of.iter().any(|of| planned.everywhere().meant(of).is_some()),
        // One whose target cannot be told may send to any.
        None => true,
    };
    let all = inventory.around.distributed_pending.iter();
    all.filter(|(table, _)| may_send(table)).collect()
}

/// A dictionary of the configuration has no database.
fn label(name: &TableName) -> String {
    if name.database.is_empty() {
        return name.table.clone();
    }
    name.to_string()
}

/// How something writes into a planned table.
struct Way<'a> {
    writer: &'a Neighbour,
    /// The planned table that the rows go into.
    into: &'a TableName,
    /// What is between the two and next to the writer, if anything is; it has a way of its own.
    next: Option<&'a TableName>,
}

impl Way<'_> {
    fn is_direct(&self) -> bool {
        self.next.is_none()
    }
}

/// The ways into planned tables; for what has several, the shortest.
struct Ways<'a>(BTreeMap<&'a TableName, Way<'a>>);

impl<'a> Ways<'a> {
    fn into(neighbours: &'a [Neighbour], here: &BTreeSet<&'a TableName>, everywhere: &Names<'a>) -> Self {
        let mut writers: BTreeMap<&TableName, Vec<&Neighbour>> = BTreeMap::new();
        let mut found = BTreeMap::new();
        let mut next = VecDeque::new();
        for writer in neighbours.iter().filter(|it| it.relation == Relation::WritesInto) {
            writers.entry(&writer.of).or_default().push(writer);
            let into = match here.get(&writer.of).copied() {
                None if writer.engine == "Distributed" => everywhere.meant(&writer.of),
                direct => direct,
            };
            if let Some(into) = into {
                next.push_back((&writer.name, into));
                found.entry(&writer.name).or_insert(Way {
                    writer,
                    into,
                    next: None,
                });
            }
        }
        while let Some((to, into)) = next.pop_front() {
            for &writer in writers.get(to).into_iter().flatten() {
                if let Entry::Vacant(vacant) = found.entry(&writer.name) {
                    next.push_back((&writer.name, into));
                    vacant.insert(Way {
                        writer,
                        into,
                        next: Some(to),
                    });
                }
            }
        }
        Self(found)
    }

    fn all(&self) -> impl Iterator<Item = &Way<'a>> {
        self.0.values()
    }

    /// What a way is, for people; of a long one only as much as can be read.
    fn words(&self, way: &Way<'a>) -> String {
        const SHOWN: usize = 20;
        let after = |name: &&'a TableName| self.0.get(*name).and_then(|way| way.next);
        let mut through = std::iter::successors(way.next, after);
        let shown: Vec<String> = through.by_ref().take(SHOWN).map(|name| name.to_string()).collect();
        let more = if through.next().is_some() { " and more" } else { "" };
        let through = if shown.is_empty() {
            String::new()
        } else {
            format!(" through {}{more}", shown.join(" and "))
        };
        format!("{} {} writes into it{through}", way.writer.engine, way.writer.name)
    }
}

fn buffer(way: &Way<'_>, words: String) -> Finding {
    let mut finding = Finding::new(Code::BufferTable, words);
    finding.fix = buffer_remedy(&way.writer.name, "give the command again");
    finding
}

fn gives_up(way: &Way<'_>, words: String) -> Finding {
    let mut finding = Finding::new(Code::FeedGivesUp, words);
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
    let views = inventory.around.neighbours.iter();
    let views = views.filter(|it| it.engine == "MaterializedView" && it.relation == Relation::WritesInto);
    let of_views: BTreeSet<&TableName> = views.map(|it| &it.of).collect();
    let targets: Vec<&TableName> = planned.intersection(&of_views).copied().collect();
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
        let everywhere = Names::of([&t, &elsewhere]);
        let ways = Ways::into(&neighbours, &here, &everywhere);
        let words: Vec<String> = ways
            .all()
            .map(|way| format!("{}: {}", way.into, ways.words(way)))
            .collect();
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
    fn of_a_long_way_as_much_is_told_as_can_be_read() {
        let neighbours: Vec<Neighbour> = (1..100)
            .map(|step| writes(&format!("b{step}"), "Buffer", &format!("b{}", step - 1)))
            .collect();
        let first = TableName::new("d", "b0");
        let ways = Ways::into(&neighbours, &BTreeSet::from([&first]), &Names::of([&first]));
        let last = ways.words(&ways.0[&TableName::new("d", "b99")]);
        assert!(
            last.starts_with("Buffer d.b99 writes into it through d.b98 and d.b97"),
            "{last}"
        );
        assert!(last.ends_with("and d.b79 and more"), "{last}");
    }
}
