//! What the replicas of a set have between them: which is restored first, and what becomes of every part of the others.
//! Decided from the nodes before one of them is deleted; what cannot be proved stops there. No I/O.
//!
//! Of a settled set nothing is open but merges that one replica has run and another has not. With `--allow DIVERGED`
//! replicas may differ in any way; then every row that any of them has is to be on all of them, once.

mod history;

use std::collections::HashMap;

use rekeeper_shared::domain::document::{LogEntry, PartNode, ReplicaSnapshot, SetSnapshot};
use rekeeper_shared::domain::part::PartName;
use rekeeper_shared::domain::union::{Share, Union, Verdict};
use rekeeper_shared::domain::unsettled::Unsettled;

use super::settle::uncovered;
use history::{Fate as Pending, History};

/// Decides how the set is restored: with the reference for which the fewest parts are open. `log` has the entries of the
/// table's log that are still there.
///
/// # Errors
/// What cannot be decided, with the reference for which that is least.
pub fn decide(snapshot: &SetSnapshot, log: &[LogEntry]) -> Result<Union, Vec<Unsettled>> {
    let history = History::of(snapshot, log);
    let replicas: Vec<Replica<'_>> = snapshot.replicas.iter().map(Replica::of).collect();
    let mut best: Option<(usize, Union)> = None;
    let mut open: Option<Vec<Unsettled>> = None;
    for first in 0..replicas.len() {
        let mut order = vec![&replicas[first]];
        order.extend(replicas.iter().enumerate().filter(|(n, _)| *n != first).map(|(_, r)| r));
        match decide_in(&order, &history) {
            Ok(union) => {
                let brought = |(_, verdict): &&(String, Verdict)| *verdict == Verdict::Bring;
                let parts = || union.shares.iter().flat_map(|share| &share.parts);
                // A part to bring costs more than any that are open otherwise.
                let cost = parts().filter(brought).count() * 1_000_000 + parts().count();
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, union));
                }
            }
            Err(undecided) => {
                if open.as_ref().is_none_or(|least| undecided.len() < least.len()) {
                    open = Some(undecided);
                }
            }
        }
    }
    best.map(|(_, union)| union).ok_or_else(|| open.unwrap_or_default())
}

/// Decides it for replicas that are restored in this sequence: of a settled set, when the one that was to be first was
/// left out since. The others have the same rows, but what becomes of their parts was decided by those of the former
/// first.
///
/// # Errors
/// What cannot be decided, or no replica of such a name.
pub fn decide_again(snapshot: &SetSnapshot, order: &[&str]) -> Result<Union, String> {
    let history = History::of(snapshot, &[]);
    let replicas: Vec<Replica<'_>> = snapshot.replicas.iter().map(Replica::of).collect();
    let named = |name: &&str| {
        let found = replicas.iter().find(|replica| replica.snapshot.name == **name);
        found.ok_or_else(|| format!("there is no replica {name}"))
    };
    let order: Vec<&Replica<'_>> = order.iter().map(named).collect::<Result<_, _>>()?;
    decide_in(&order, &history).map_err(|undecided| {
        let undecided: Vec<String> = undecided.iter().map(ToString::to_string).collect();
        undecided.join("; ")
    })
}

struct Replica<'a> {
    snapshot: &'a ReplicaSnapshot,
    parts: Vec<(Option<PartName>, &'a PartNode)>,
}

impl<'a> Replica<'a> {
    fn of(snapshot: &'a ReplicaSnapshot) -> Self {
        let parts = uncovered(&snapshot.parts).into_iter();
        Self {
            snapshot,
            parts: parts.map(|part| (PartName::parse(&part.name), part)).collect(),
        }
    }
}

/// Decides with that sequence of the replicas.
fn decide_in(order: &[&Replica<'_>], history: &History<'_>) -> Result<Union, Vec<Unsettled>> {
    let Some((reference, followers)) = order.split_first() else {
        return Ok(Union::default());
    };
    let mut undecided = history.unfit_as_reference(reference.snapshot, reference.parts.iter().map(|(_, part)| *part));
    let mut there = There::default();
    there.add(reference.parts.iter().map(|(name, part)| (name.clone(), *part)));
    let mut shares = Vec::with_capacity(followers.len());
    for follower in followers {
        let mut share = Share {
            replica: follower.snapshot.name.clone(),
            parts: Vec::new(),
        };
        let mut brought = Vec::new();
        for (name, part) in &follower.parts {
            if there.has(part) {
                continue;
            }
            match verdict(follower.snapshot, name.as_ref(), part, &there, history) {
                Ok(verdict) => {
                    if verdict == Verdict::Bring {
                        brought.push((name.clone(), *part));
                    }
                    share.parts.push((part.name.clone(), verdict));
                }
                Err(why) => undecided.push(Unsettled::Undecided {
                    replica: follower.snapshot.name.clone(),
                    part: part.name.clone(),
                    why,
                }),
            }
        }
        there.add(brought.into_iter());
        shares.push(share);
    }
    if !undecided.is_empty() {
        return Err(undecided);
    }
    Ok(Union {
        order: order.iter().map(|replica| replica.snapshot.name.clone()).collect(),
        shares,
    })
}

fn verdict(
    replica: &ReplicaSnapshot,
    name: Option<&PartName>,
    part: &PartNode,
    there: &There<'_>,
    history: &History<'_>,
) -> Result<Verdict, String> {
    let Some(name) = name else {
        return Err("its name cannot be read".to_owned());
    };
    match history.pending(replica, name) {
        Pending::Dropped { range } => return Ok(Verdict::Dropped { range }),
        Pending::Unknown { why } => {
            // What is proved by the merges needs no more of the replica's own story.
            return history
                .covered(name, there)
                .map_or(Err(why), |by| Ok(Verdict::Covered { by }));
        }
        Pending::Kept => {}
    }
    if let Some(by) = history.covered(name, there) {
        return Ok(Verdict::Covered { by });
    }
    match there.overlap(name) {
        // Two inserts that got the same name in histories that had nothing to do with each other.
        Some(other) if other == part.name && name.level == 0 && name.mutation.is_none() => Ok(Verdict::Bring),
        Some(other) => Err(format!(
            "its blocks overlap with those of {other}, which another replica has, and nothing in ZooKeeper tells which \
             rows both have"
        )),
        None => Ok(Verdict::Bring),
    }
}

/// The parts that replicas have that are restored already.
#[derive(Default)]
struct There<'a> {
    digests: HashMap<&'a str, Vec<&'a str>>,
    /// Per partition: first block, last block, name.
    ranges: HashMap<String, Vec<(i64, i64, &'a str)>>,
}

impl<'a> There<'a> {
    fn add(&mut self, parts: impl Iterator<Item = (Option<PartName>, &'a PartNode)>) {
        for (name, part) in parts {
            self.digests.entry(&part.name).or_default().push(&part.digest);
            if let Some(name) = name {
                let range = (name.min_block, name.max_block, part.name.as_str());
                self.ranges.entry(name.partition).or_default().push(range);
            }
        }
        for ranges in self.ranges.values_mut() {
            ranges.sort_unstable();
        }
    }

    /// Whether the very part is there: equal name, equal content.
    fn has(&self, part: &PartNode) -> bool {
        let digests = self.digests.get(part.name.as_str());
        digests.is_some_and(|digests| digests.contains(&part.digest.as_str()))
    }

    fn has_name(&self, name: &str) -> bool {
        self.digests.contains_key(name)
    }

    /// A part that has a block of this one's range; the one of the same name last.
    fn overlap(&self, name: &PartName) -> Option<&'a str> {
        let ranges = self.ranges.get(&name.partition)?;
        let own = name.to_string();
        let meets = |(min, max, _): &&(i64, i64, &'a str)| *min <= name.max_block && *max >= name.min_block;
        let mut found = ranges.iter().filter(meets).map(|(_, _, other)| *other);
        let mut same = None;
        found
            .find(|other| {
                let is_same = *other == own;
                same = same.or(is_same.then_some(*other));
                !is_same
            })
            .or(same)
    }
}

#[cfg(test)]
mod tests;
