//! When may nodes of a table be deleted? All that has to be so is here, and is asked right before each deletion, of what
//! was read for it.
//!
//! By then the coordinator has ordered it, which it does when every replica is detached, settled, recorded and attested
//! (`progress/guard.rs`). What is read may be old when the deletion arrives: so each deleting transaction also has ZooKeeper
//! itself check that the attempt's own marker is still there (`Sweep::guarded`).

use rekeeper_shared::domain::place::Place;
use rekeeper_shared::domain::step::SetRef;

use super::error::CleanError;
use super::foreign::{is_of_replica, is_of_table, is_table, is_table_or_rest, named};
use super::holds::{Hold, Markers, refuse_unless_ours};
use super::marker::Marker;
use super::stage::Stage;

/// What was read right before nodes are deleted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// The set, as it is commanded.
    pub(super) set: &'a SetRef,
    /// What this attempt has put at the path; another one there means that it is not this attempt's.
    pub(super) mine: &'a Marker,
    /// With which ensemble and chroot the session is.
    pub(super) place: &'a Place,
    /// What is to be deleted, and what was seen of it.
    pub(super) of: Of<'a>,
}

/// What is to be deleted, and what was seen of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of<'a> {
    /// All of the table: what each attempt has to find before its first deletion.
    Table {
        /// The names below the path.
        children: &'a [String],
        /// Another table's path below it.
        nested: Option<&'a str>,
        /// Nodes below it that no table has.
        foreign: &'a [String],
        /// Its replicas, and who holds them.
        replicas: &'a [(String, Hold)],
    },
    /// Every replica's first node.
    Replicas(&'a [(String, Hold)]),
    /// One replica, with the names below it.
    Replica { node: &'a str, children: &'a [String] },
    /// The rest, when no replica is left, with the names below the path.
    Rest { children: &'a [String] },
    /// What is below any other node: these names.
    Below { node: &'a str, children: &'a [String] },
}

/// Whether these nodes may be deleted.
///
/// # Errors
/// What stands in the way.
pub(super) fn may_delete(facts: &Facts<'_>) -> Result<(), CleanError> {
    let Facts { set, mine, place, of } = *facts;
    // Nothing is deleted anywhere but in the ensemble and chroot of the plan.
    is_planned_place(set, place)?;
    match of {
        Of::Table {
            children,
            nested,
            foreign,
            replicas,
        } => {
            // What was in the nodes is saved, at the agent and at the coordinator.
            if !set.recorded {
                return Err(CleanError::NotRecorded {
                    path: set.path.to_string(),
                });
            }
            // It is the path that was recorded: it bears a marker of this migration, and no newer one. One that was made
            // anew since bears none, so that an attempt that was frozen for hours finds nothing to delete.
            let markers = Markers::among(&set.path, children, mine)?;
            if markers.older.is_empty() && !markers.mine {
                return Err(CleanError::NotFenced {
                    path: set.path.to_string(),
                });
            }
            // It is a table's, or what a deletion left of one.
            if !is_table_or_rest(children) {
                return Err(CleanError::NotTableShaped {
                    path: set.path.to_string(),
                    missing: "node that ClickHouse makes".to_owned(),
                });
            }
            no_other_table(set, nested)?;
            nothing_foreign(set, foreign.iter().cloned())?;
            every_replica_is_ours(set, replicas)
        }
        Of::Replicas(replicas) => every_replica_is_ours(set, replicas),
        Of::Replica { node, children } => {
            let foreign = children.iter().filter(|name| !is_of_replica(name));
            nothing_foreign(set, foreign.map(|name| format!("{node}/{name}")))
        }
        Of::Rest { children } => {
            let foreign = children.iter().filter(|name| !is_of_table(name));
            nothing_foreign(set, foreign.map(|name| set.path.child(name)))
        }
        Of::Below { node, children } => no_other_table(set, is_table(children).then_some(node)),
    }
}

/// Whether deletion may begin, or go on: as long as no node is deleted, all of them have to be in a file of this host.
///
/// # Errors
/// [`CleanError::NotExported`].
pub fn may_begin(set: &SetRef, stage: Stage, is_exported: bool) -> Result<(), CleanError> {
    match stage {
        Stage::Whole { .. } if !is_exported => Err(CleanError::NotExported {
            path: set.path.to_string(),
        }),
        // Another host has the export of what a former attempt began with.
        Stage::Whole { .. } | Stage::Begun { .. } | Stage::Gone => Ok(()),
    }
}

/// Also before nodes are made or changed there.
pub(super) fn is_planned_place(set: &SetRef, place: &Place) -> Result<(), CleanError> {
    if *place == set.place {
        return Ok(());
    }
    Err(CleanError::OtherPlace {
        path: set.path.to_string(),
        planned: set.place.to_string(),
        connected: place.to_string(),
    })
}

/// Deleting the one would delete the other.
pub(super) fn no_other_table(set: &SetRef, nested: Option<&str>) -> Result<(), CleanError> {
    match nested {
        None => Ok(()),
        Some(nested) => Err(CleanError::Nested {
            path: set.path.to_string(),
            nested: nested.to_owned(),
        }),
    }
}

/// Nothing goes with the table that is not the table's, unless that was allowed.
pub(super) fn nothing_foreign(set: &SetRef, foreign: impl Iterator<Item = String>) -> Result<(), CleanError> {
    let foreign: Vec<String> = foreign.collect();
    if foreign.is_empty() || set.allowed.foreign_nodes {
        return Ok(());
    }
    Err(CleanError::ForeignNodes {
        path: set.path.to_string(),
        nodes: named(foreign),
    })
}

/// Every replica is the plan's and held by this migration: each was, when the path was fenced, and loses its hold only
/// together with its own node.
fn every_replica_is_ours(set: &SetRef, replicas: &[(String, Hold)]) -> Result<(), CleanError> {
    for (replica, hold) in replicas {
        refuse_unless_ours(&set.path, replica, hold)?;
        if !set.replicas.contains(replica) {
            return Err(CleanError::Appeared {
                path: set.path.to_string(),
                replica: replica.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rekeeper_shared::domain::place::ZkPath;
    use rekeeper_shared::domain::unsettled::Allowed;

    use super::*;

    const MINE: &str = "rekeeper-m-5";

    fn place(chroot: &str) -> Place {
        Place {
            ensemble: "default".into(),
            nodes: vec!["zk:2181".into()],
            secure: false,
            chroot: chroot.into(),
        }
    }

    fn set() -> SetRef {
        SetRef {
            place: place(""),
            path: ZkPath::parse("/t").unwrap(),
            replicas: vec!["r1".into(), "r2".into()],
            allowed: Allowed::default(),
            recorded: true,
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// What [`may_delete`] is told, as a whole table that may go.
    struct Told {
        set: SetRef,
        place: Place,
        children: Vec<String>,
        nested: Option<&'static str>,
        foreign: Vec<String>,
        replicas: Vec<(String, Hold)>,
    }

    impl Told {
        fn whole() -> Self {
            Self {
                set: set(),
                place: place(""),
                children: names(&["metadata", "columns", "log", "replicas", MINE]),
                nested: None,
                foreign: Vec::new(),
                replicas: vec![("r1".into(), Hold::Ours), ("r2".into(), Hold::Ours)],
            }
        }

        fn asked(&self, of: Of<'_>) -> Result<(), String> {
            let mine = Marker::parse(MINE).unwrap();
            let facts = Facts {
                set: &self.set,
                mine: &mine,
                place: &self.place,
                of,
            };
            may_delete(&facts).map_err(|why| format!("{why:?}"))
        }

        fn of_table(&self) -> Result<(), String> {
            self.asked(Of::Table {
                children: &self.children,
                nested: self.nested,
                foreign: &self.foreign,
                replicas: &self.replicas,
            })
        }
    }

    #[test]
    fn a_table_goes_only_when_all_is_as_it_was_recorded() {
        assert_eq!(Told::whole().of_table(), Ok(()));
        type Change = (&'static str, fn(&mut Told));
        let refused: &[Change] = &[
            ("OtherPlace", |told| told.place = place("/other")),
            ("NotRecorded", |told| told.set.recorded = false),
            ("NotFenced", |told| drop(told.children.pop())),
            ("Superseded", |told| told.children.push("rekeeper-m-6".into())),
            ("Foreign {", |told| told.children.push("rekeeper-other-1".into())),
            ("NotTableShaped", |told| told.children = names(&[MINE, "precious"])),
            ("Nested", |told| told.nested = Some("/t/below/t")),
            ("ForeignNodes", |told| told.foreign = names(&["/t/lock"])),
            ("Appeared", |told| told.replicas[1].1 = Hold::Nothing),
            ("Active", |told| told.replicas[1].1 = Hold::Server),
            ("ForeignHold", |told| told.replicas[0].1 = Hold::Foreign("x".into())),
            ("Appeared", |told| told.replicas.push(("r3".into(), Hold::Ours))),
        ];
        for (why, change) in refused {
            let mut told = Told::whole();
            change(&mut told);
            let found = told.of_table().unwrap_err();
            assert!(found.starts_with(why), "{why}: {found}");
        }
        let allowed: &[Change] = &[
            ("an older marker", |told| told.children[4] = "rekeeper-m-4".into()),
            ("a replica that is gone", |told| drop(told.replicas.pop())),
            ("what a deletion left", |told| {
                told.children = names(&[MINE]);
                told.replicas.clear();
            }),
            ("allowed", |told| {
                told.foreign = names(&["/t/lock"]);
                told.set.allowed.foreign_nodes = true;
            }),
        ];
        for (what, change) in allowed {
            let mut told = Told::whole();
            change(&mut told);
            assert_eq!(told.of_table(), Ok(()), "{what}");
        }
    }

    #[test]
    fn what_came_since_stays() {
        let told = Told::whole();
        let found = |of: Of<'_>| told.asked(of).err().unwrap_or_default();
        let (own, strange) = (
            names(&["metadata", "is_active", "parts"]),
            names(&["metadata", "offsets"]),
        );
        let replica = |children| Of::Replica {
            node: "/t/replicas/r1",
            children,
        };
        assert_eq!(found(replica(&own)), "");
        assert!(found(replica(&strange)).contains("/t/replicas/r1/offsets"));
        let (own, strange) = (names(&["blocks", "dropped", MINE]), names(&["blocks", "lock"]));
        assert_eq!(found(Of::Rest { children: &own }), "");
        assert!(found(Of::Rest { children: &strange }).contains("/t/lock"));
        let below = |children| Of::Below {
            node: "/t/blocks/x",
            children,
        };
        let (own, table) = (names(&["log", "metadata"]), names(&["log", "replicas"]));
        assert_eq!(found(below(&own)), "");
        assert!(found(below(&table)).starts_with("Nested"));
        let (held, new) = ([("r1".to_owned(), Hold::Ours)], [("r1".to_owned(), Hold::Nothing)]);
        assert_eq!(found(Of::Replicas(&held)), "");
        assert!(found(Of::Replicas(&new)).starts_with("Appeared"));
    }

    #[test]
    fn the_first_node_goes_when_all_are_exported() {
        let whole = Stage::Whole { held: 7 };
        assert!(may_begin(&set(), whole, true).is_ok());
        assert!(matches!(
            may_begin(&set(), whole, false),
            Err(CleanError::NotExported { .. })
        ));
        for stage in [Stage::Begun { held: None }, Stage::Begun { held: Some(7) }, Stage::Gone] {
            assert!(may_begin(&set(), stage, false).is_ok(), "{stage:?}");
        }
    }
}
