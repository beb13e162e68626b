//! What the log and the queues tell of the parts: which were merged into which, and what a replica had still to do.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::There;
use rekeeper_shared::domain::document::{LogEntry, PartNode, QueueOrder, ReplicaSnapshot, SetSnapshot};
use rekeeper_shared::domain::part::PartName;
use rekeeper_shared::domain::unsettled::Unsettled;

/// The level of the ranges that DROP and REPLACE PARTITION write (`MergeTreePartInfo::MAX_LEVEL`). A REPLACE_RANGE of a
/// lower one drops nothing: it is an ATTACH or MOVE PARTITION from another table (measured on 26.9: `5_0_0_0`).
const WHOLE_RANGE: u32 = 999_999_999;

/// What a replica had still to do with one of its parts when it was detached.
pub(super) enum Fate {
    /// Nothing.
    Kept,
    /// To drop it.
    Dropped { range: String },
    /// That is not known.
    Unknown { why: String },
}

/// The story of a set, as far as its nodes tell it.
pub(super) struct History<'a> {
    /// New part to its sources, and source to what became of it.
    sources: HashMap<&'a str, &'a [String]>,
    merged_into: HashMap<&'a str, &'a str>,
    /// Partitions with equal names for different contents, or different merges: there merges prove nothing.
    forked: HashSet<String>,
    /// Parts were given up, and others claim their blocks: merges prove nothing.
    lost_parts: bool,
    /// What each replica had still to do; none where that is not known.
    pending: BTreeMap<&'a str, Option<Vec<&'a QueueOrder>>>,
}

impl<'a> History<'a> {
    pub(super) fn of(snapshot: &'a SetSnapshot, log: &'a [LogEntry]) -> Self {
        let mut history = Self {
            sources: HashMap::new(),
            merged_into: HashMap::new(),
            forked: forked(snapshot),
            lost_parts: snapshot.replicas.iter().any(|r| r.lost_part_count > 0),
            pending: BTreeMap::new(),
        };
        let queues = snapshot.replicas.iter().flat_map(|r| &r.queue);
        for order in queues
            .map(|entry| &entry.order)
            .chain(log.iter().map(|entry| &entry.order))
        {
            match order {
                QueueOrder::Merge { new_part, sources } => history.replaced(new_part, sources),
                QueueOrder::Mutate { new_part, source } => history.replaced(new_part, std::slice::from_ref(source)),
                QueueOrder::Bring { .. }
                | QueueOrder::Drop { .. }
                | QueueOrder::Replace { .. }
                | QueueOrder::Other { .. } => {}
            }
        }
        for replica in &snapshot.replicas {
            let pending = pending(snapshot, replica, log);
            history.pending.insert(&replica.name, pending);
        }
        history
    }

    fn replaced(&mut self, new_part: &'a str, sources: &'a [String]) {
        // Replicas that each lacked another part may have merged different ones under one name.
        let mut contradicts = self
            .sources
            .insert(new_part, sources)
            .is_some_and(|other| other != sources);
        for source in sources {
            let into = self.merged_into.insert(source, new_part);
            contradicts |= into.is_some_and(|other| other != new_part);
        }
        if contradicts && let Some(name) = PartName::parse(new_part) {
            self.forked.insert(name.partition);
        }
    }

    /// What the replica had still to do with its part.
    pub(super) fn pending(&self, replica: &ReplicaSnapshot, part: &PartName) -> Fate {
        let Some(Some(orders)) = self.pending.get(replica.name.as_str()) else {
            return Fate::Unknown {
                why: "the log of what happened while its replica was away is gone (is_lost), so it may have been dropped \
                      meanwhile"
                    .to_owned(),
            };
        };
        let mut unknown = None;
        for order in orders {
            match order {
                QueueOrder::Drop { range } | QueueOrder::Replace { range } => {
                    let replaces = matches!(order, QueueOrder::Replace { .. });
                    let parsed = PartName::parse(range).filter(|r| !replaces || r.level >= WHOLE_RANGE);
                    if parsed.is_some_and(|r| r.contains(part)) {
                        return Fate::Dropped { range: range.clone() };
                    }
                }
                QueueOrder::Other { word } => {
                    unknown = unknown.or(Some(format!(
                        "its replica has an entry queued that may concern it: {word}"
                    )));
                }
                QueueOrder::Merge { .. } | QueueOrder::Mutate { .. } | QueueOrder::Bring { .. } => {}
            }
        }
        unknown.map_or(Fate::Kept, |why| Fate::Unknown { why })
    }

    /// Why the replica must not be restored first: that attaches everything that it has.
    pub(super) fn unfit_as_reference(
        &self,
        replica: &ReplicaSnapshot,
        parts: impl Iterator<Item = &'a PartNode>,
    ) -> Vec<Unsettled> {
        let undecided = |part: &PartNode, why: String| Unsettled::Undecided {
            replica: replica.name.clone(),
            part: part.name.clone(),
            why,
        };
        let fate = |part: &PartNode| match PartName::parse(&part.name).map(|name| self.pending(replica, &name)) {
            None | Some(Fate::Kept) => None,
            Some(Fate::Dropped { range }) => {
                Some(undecided(part, format!("its replica had still to drop it ({range})")))
            }
            Some(Fate::Unknown { why }) => Some(undecided(part, why)),
        };
        parts.filter_map(fate).collect()
    }

    /// The parts that are there and have the rows of this one, by the merges that the log and the queues name: what it
    /// was merged into, or what it was merged from.
    pub(super) fn covered(&self, part: &PartName, there: &There<'_>) -> Option<Vec<String>> {
        if self.lost_parts || self.forked.contains(&part.partition) {
            return None;
        }
        let name = part.to_string();
        self.merged_up(&name, there)
            .map(|by| vec![by.to_owned()])
            .or_else(|| self.merged_from(&name, there, 0))
    }

    fn merged_up(&self, name: &str, there: &There<'_>) -> Option<&'a str> {
        let mut at = *self.merged_into.get(name)?;
        // As often as there are merges, so that a circle in torn nodes ends.
        for _ in 0..self.merged_into.len() {
            if there.has_name(at) {
                return Some(at);
            }
            at = self.merged_into.get(at)?;
        }
        None
    }

    fn merged_from(&self, name: &str, there: &There<'_>, depth: usize) -> Option<Vec<String>> {
        if depth > self.sources.len() {
            return None;
        }
        let mut by = Vec::new();
        for source in self.sources.get(name)?.iter() {
            if there.has_name(source) {
                by.push(source.clone());
            } else if let Some(into) = self.merged_up(source, there) {
                by.push(into.to_owned());
            } else {
                by.extend(self.merged_from(source, there, depth + 1)?);
            }
        }
        by.dedup();
        Some(by)
    }
}

/// The partitions in which two replicas have, or had until lately, different contents under one name.
fn forked(snapshot: &SetSnapshot) -> HashSet<String> {
    let mut digests: HashMap<&str, &str> = HashMap::new();
    let mut found = HashSet::new();
    for part in snapshot.replicas.iter().flat_map(|r| &r.parts) {
        let known = digests.entry(&part.name).or_insert(&part.digest);
        if *known != part.digest
            && let Some(name) = PartName::parse(&part.name)
        {
            found.insert(name.partition);
        }
    }
    found
}

/// The entries of the replica's queue, and those of the log that it had not taken; none when some of them are gone.
fn pending<'a>(
    snapshot: &'a SetSnapshot,
    replica: &'a ReplicaSnapshot,
    log: &'a [LogEntry],
) -> Option<Vec<&'a QueueOrder>> {
    if replica.lost {
        return None;
    }
    let pointer = replica.log_pointer.unwrap_or(0);
    let ahead: Vec<&LogEntry> = log.iter().filter(|entry| entry.number >= pointer).collect();
    let wanted = usize::try_from(snapshot.log_end - pointer).unwrap_or(0);
    if ahead.len() != wanted {
        return None;
    }
    let queue = replica.queue.iter().map(|entry| &entry.order);
    Some(queue.chain(ahead.into_iter().map(|entry| &entry.order)).collect())
}
