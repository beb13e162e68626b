//! Which ways from stage to stage are gone in the histories of the simulation: those of the table, all of them and no other.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};

use super::{check, wild};
use crate::progress::stages::{Fence, OF_SETS, OF_TABLES, SetAt, TableAt, Transition, WayBack};
use crate::progress::{Progress, SetProgress, TableProgress};

thread_local! {
    static OF_TABLES_GONE: RefCell<BTreeSet<(TableAt, TableAt)>> = const { RefCell::new(BTreeSet::new()) };
    static OF_SETS_GONE: RefCell<BTreeSet<(SetAt, SetAt)>> = const { RefCell::new(BTreeSet::new()) };
}

/// Where everything is before a record.
pub(super) fn stages(progress: &Progress) -> (Vec<TableAt>, Vec<SetAt>) {
    let tables = progress.tables.iter().map(|table| table.at).collect();
    (tables, progress.sets.iter().map(|set| set.at).collect())
}

/// Notes what the record changed, and checks that what stands beside the stages fits them.
pub(super) fn note((tables, sets): &(Vec<TableAt>, Vec<SetAt>), after: &Progress) -> Result<(), String> {
    for (&from, table) in tables.iter().zip(&after.tables) {
        if from != table.at {
            OF_TABLES_GONE.with_borrow_mut(|gone| gone.insert((from, table.at)));
        }
        fits_table(table).ok_or_else(|| format!("{table:?}"))?;
    }
    for (&from, set) in sets.iter().zip(&after.sets) {
        if from != set.at {
            OF_SETS_GONE.with_borrow_mut(|gone| gone.insert((from, set.at)));
        }
        fits_set(set).ok_or_else(|| format!("{set:?}"))?;
    }
    Ok(())
}

fn fits_table(table: &TableProgress) -> Option<()> {
    let may_go_back = matches!(table.at, TableAt::Detaching | TableAt::Detached);
    let fits = (table.way_back == WayBack::NotBegun || may_go_back)
        && table.manifest.is_some() == (table.at >= TableAt::Attached)
        && table.restored.is_some() == (table.at >= TableAt::Accounted);
    fits.then_some(())
}

fn fits_set(set: &SetProgress) -> Option<()> {
    let is_recorded = set.at >= SetAt::Recorded;
    let is_held = match set.at {
        SetAt::Gathering | SetAt::Returning | SetAt::Judged => true,
        SetAt::Recorded | SetAt::Cleaning => set.fence != Fence::Absent,
        SetAt::Cleaned | SetAt::Witnessed => set.fence == Fence::Absent,
    };
    let fits = is_held && set.record.is_some() == is_recorded && set.order.is_empty() != is_recorded;
    fits.then_some(())
}

fn diagram<T: Debug + Copy + PartialEq>(title: &str, ways: &[Transition<T>]) -> String {
    let mut diagram = format!(
        "### {title}\n\n```mermaid\nstateDiagram-v2\n    [*] --> {:?}\n",
        ways[0].0
    );
    for (from, to, why) in ways {
        let _ = writeln!(diagram, "    {from:?} --> {to:?}: {why}");
    }
    diagram + "```\n"
}

#[test]
fn every_way_from_stage_to_stage_is_in_the_table_and_gone_in_some_history() {
    check(100).unwrap();
    wild::check(300).unwrap();
    let of_tables: BTreeSet<_> = OF_TABLES.iter().map(|&(from, to, _)| (from, to)).collect();
    let of_sets: BTreeSet<_> = OF_SETS.iter().map(|&(from, to, _)| (from, to)).collect();
    assert_eq!(OF_TABLES_GONE.take(), of_tables);
    assert_eq!(OF_SETS_GONE.take(), of_sets);
}

#[test]
fn the_documentation_has_the_diagrams() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/states.md");
    let documented = std::fs::read_to_string(file).unwrap_or_default();
    for diagram in [diagram("A replica set", OF_SETS), diagram("A table replica", OF_TABLES)] {
        assert!(
            documented.contains(&diagram),
            "docs/states.md does not have this:\n\n{diagram}"
        );
    }
}
