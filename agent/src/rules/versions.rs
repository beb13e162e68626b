//! The version of a table's definition: whether everybody says the same, and what is to be done about it.
//!
//! ClickHouse counts a table's ALTERs by the version of the node `<path>/metadata`. A replica has the number in its own node
//! `metadata_version` and in its memory, and orders no ALTER while its memory and the node differ (517 CANNOT_ASSIGN_ALTER).
//! A part has the number of its writer in `metadata_version.txt`; one that has a higher number than its table is taken to
//! be of a newer shape, so that a later RENAME COLUMN or MODIFY COLUMN passes it by (measured on 26.9: the old values are gone
//! or the statement never ends). Hence the number never goes back, and everybody has the same.
//!
//! RESTORE (26.9, measured) makes the node with version 0 and raises it by the highest number of the replica's own active
//! parts, on each replica again: after three ALTERs and two restores the node says 6, or 9 after three, and all replicas 3.

/// A replica as ZooKeeper has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaVersion {
    /// Below `replicas` of the path.
    pub name: String,
    /// Its node `metadata_version`.
    pub version: i32,
    /// The highest version among the ALTERs that it has still to execute.
    pub pending: Option<i32>,
    /// It is being made, and takes over another one's version at the end of that (`is_lost`).
    pub lost: bool,
    /// Its server has read the node since it was last written.
    pub started: bool,
}

/// A table's version, everywhere in ZooKeeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// Of the node `<path>/metadata`.
    pub node: i32,
    /// Of its replicas.
    pub replicas: Vec<ReplicaVersion>,
}

/// What comes next, for one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Node, replica and memory say the same.
    Agreed,
    /// They will, once this replica has executed an ALTER that somebody has ordered.
    Coming,
    /// The table's node has to have this version.
    Table {
        /// The version that the node is to have.
        version: i32,
        /// So does the replica's node, in the same request: what the others cannot know they would take back. Not before
        /// the table's node, since an ALTER that another replica may still order has to be above all of them.
        with_own: bool,
    },
    /// An ALTER comes first: a replica whose version is above that of an ALTER leaves it out without a word.
    Wait(i32),
    /// The replica's node has to have this version.
    Replica(i32),
    /// The server has to read the replica's node again.
    Restart,
    /// The replica is not there.
    Absent,
}

impl Versions {
    /// Whether all nodes say the same, so that no ALTER is under way either.
    #[must_use]
    pub fn are_one(&self) -> bool {
        self.replicas.iter().all(|replica| replica.version == self.node)
    }

    /// The highest version that anything has, or will have, but for what RESTORE has added to the node.
    fn highest(&self) -> i32 {
        let counted = self.replicas.iter().filter(|replica| !replica.lost);
        let numbers = counted.flat_map(|replica| [Some(replica.version), replica.pending]);
        numbers.flatten().max().unwrap_or(0)
    }

    /// What is to be done next so that the replica `own` may order ALTERs, and no part has a higher version than its table.
    /// `memory` is what its server says, if it tells; `at_least` is the version that the table had before it got new
    /// metadata.
    ///
    /// A node that stands too high is put back to what the replicas have: that disturbs nobody, where a replica that is to
    /// take over the node's version has to be started anew. `settable` is the highest version to which it can be put back.
    #[must_use]
    pub fn next(&self, own: &str, memory: Option<i32>, at_least: i32, settable: i32) -> Next {
        let Some(own) = self.replicas.iter().find(|replica| replica.name == own) else {
            return Next::Absent;
        };
        let wanted = self.highest().max(own.version).max(memory.unwrap_or(0)).max(at_least);
        let version = if wanted > settable {
            wanted.max(self.node)
        } else {
            wanted
        };
        if self.node != version {
            let with_own = own.pending.is_none() && own.version < version;
            return Next::Table { version, with_own };
        }
        match own.pending {
            Some(alter) if alter == version => return Next::Coming,
            Some(alter) => return Next::Wait(alter),
            None => {}
        }
        if own.version != version {
            return Next::Replica(version);
        }
        let has_read_it = memory.map_or(own.started, |memory| memory == version);
        if has_read_it { Next::Agreed } else { Next::Restart }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(name: &str, version: i32) -> ReplicaVersion {
        ReplicaVersion {
            name: name.into(),
            version,
            pending: None,
            lost: false,
            started: true,
        }
    }

    fn waiting(name: &str, version: i32, alter: i32) -> ReplicaVersion {
        let pending = Some(alter);
        ReplicaVersion {
            pending,
            ..replica(name, version)
        }
    }

    fn lost(name: &str, version: i32) -> ReplicaVersion {
        let lost = true;
        ReplicaVersion {
            lost,
            ..replica(name, version)
        }
    }

    fn alone(version: i32) -> Next {
        let with_own = false;
        Next::Table { version, with_own }
    }

    fn with_own(version: i32) -> Next {
        let with_own = true;
        Next::Table { version, with_own }
    }

    /// The node, r1, r2, memory of r1, before the migration, and what is next for r1.
    type Case = (&'static str, i32, ReplicaVersion, ReplicaVersion, i32, i32, Next);

    #[test]
    fn each_case_has_one_next_step() {
        let (r1, r2) = (|version| replica("r1", version), |version| replica("r2", version));
        let cases: Vec<Case> = vec![
            ("never altered", 0, r1(0), r2(0), 0, 0, Next::Agreed),
            ("all say the same", 3, r1(3), r2(3), 3, 3, Next::Agreed),
            ("after two restores", 6, r1(3), r2(3), 3, 3, alone(3)),
            ("parts older than the ALTERs", 0, r1(0), r2(0), 0, 3, with_own(3)),
            ("the replica was behind", 3, r1(0), r2(0), 0, 3, Next::Replica(3)),
            ("then its server", 3, r1(3), r2(0), 0, 3, Next::Restart),
            ("then it is done, here", 3, r1(3), r2(0), 3, 3, Next::Agreed),
            ("another one stands higher", 6, r1(3), r2(6), 3, 3, Next::Replica(6)),
            ("another one, and the node", 9, r1(3), r2(6), 3, 3, with_own(6)),
            ("memory above its node", 3, r1(3), r2(3), 5, 0, with_own(5)),
            ("a replica above the node", 2, r1(3), r2(3), 3, 3, alone(3)),
            ("an ALTER on its way", 4, waiting("r1", 3, 4), r2(4), 3, 3, Next::Coming),
            (
                "an ALTER, then a restore",
                7,
                waiting("r1", 3, 4),
                r2(4),
                3,
                3,
                alone(4),
            ),
            (
                "nobody has executed it",
                7,
                waiting("r1", 3, 4),
                waiting("r2", 3, 4),
                3,
                3,
                alone(4),
            ),
            (
                "only the other has not",
                4,
                r1(4),
                waiting("r2", 3, 4),
                4,
                3,
                Next::Agreed,
            ),
            (
                "an ALTER below the rest",
                6,
                waiting("r1", 3, 4),
                r2(6),
                3,
                3,
                Next::Wait(4),
            ),
            ("one that is being made", 6, r1(3), lost("r2", 6), 3, 3, alone(3)),
            ("the own one being made", 6, lost("r1", 6), r2(3), 6, 3, Next::Agreed),
        ];
        for (what, node, one, two, memory, at_least, expected) in cases {
            let replicas = vec![one, two];
            let versions = Versions { node, replicas };
            assert_eq!(versions.next("r1", Some(memory), at_least, 100), expected, "{what}");
        }
    }

    #[test]
    fn a_version_too_high_to_be_set_is_taken_over_from_the_node() {
        let replicas = vec![replica("r1", 300), replica("r2", 300)];
        let versions = Versions { node: 600, replicas };
        assert_eq!(versions.next("r1", Some(300), 300, 200), Next::Replica(600));
        assert_eq!(versions.next("r1", Some(300), 700, 200), with_own(700));
    }

    #[test]
    fn a_server_that_does_not_tell_is_started_once() {
        let before = ReplicaVersion {
            started: false,
            ..replica("r1", 3)
        };
        let of = |one| Versions {
            node: 3,
            replicas: vec![one],
        };
        assert_eq!(of(before).next("r1", None, 3, 100), Next::Restart);
        assert_eq!(of(replica("r1", 3)).next("r1", None, 3, 100), Next::Agreed);
        assert_eq!(of(replica("r2", 3)).next("r1", None, 3, 100), Next::Absent);
    }

    #[test]
    fn whatever_is_found_it_ends_agreed_and_never_lower() {
        // All small states of two replicas; each replica's agent does what is next for it.
        for state in 0..4_i32.pow(6) {
            let digit = |at: u32| state / 4_i32.pow(at) % 4;
            let (mut node, mut own) = (digit(0), [digit(1), digit(2)]);
            let mut memory = [digit(3), digit(4)];
            let at_least = digit(5);
            let lowest = own.iter().chain(&memory).copied().max().max(Some(at_least));
            for turn in 0..20 {
                let ix = turn % 2;
                let replicas = vec![replica("r1", own[0]), replica("r2", own[1])];
                let versions = Versions { node, replicas };
                match versions.next(["r1", "r2"][ix], Some(memory[ix]), at_least, 100) {
                    Next::Table { version, with_own } => {
                        node = version;
                        own[ix] = if with_own { version } else { own[ix] };
                    }
                    Next::Replica(to) => own[ix] = to,
                    Next::Restart => memory[ix] = own[ix],
                    Next::Agreed => {}
                    Next::Coming | Next::Wait(_) | Next::Absent => panic!("no ALTER is under way"),
                }
            }
            assert_eq!([own, memory], [[node; 2]; 2], "state {state}");
            assert!(Some(node) >= lowest, "state {state}");
        }
    }
}
