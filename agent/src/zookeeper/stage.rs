//! How far the deletion of a table's nodes is.

use rekeeper_shared::domain::step::SetRef;

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::foreign::not_whole;

/// How far the deletion of a table's nodes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// No node is deleted.
    Whole {
        /// The transaction by which the path has been held since: another one means that it was let go in between.
        held: i64,
    },
    /// At least one node is deleted.
    Begun {
        /// As for a whole one; none when no replica is left.
        held: Option<i64>,
    },
    /// The path is gone.
    Gone,
}

impl ZooKeeper {
    /// How far the deletion of a set is. To be asked under the attempt's own marker: an older attempt may be deleting
    /// otherwise. What is deleted first is the `metadata` of every replica.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn stage(&self, set: &SetRef) -> Result<Stage, ZkError> {
        let path = &set.path;
        let Some(children) = self.children(path.as_str()).await? else {
            return Ok(Stage::Gone);
        };
        let nodes = |name: &str| {
            let nodes = set
                .replicas
                .iter()
                .map(|replica| format!("{}/{name}", path.replica(replica)));
            nodes.collect()
        };
        let metadata = self.many_data(nodes("metadata")).await?;
        let holds = self.many_data(nodes("is_active")).await?;
        let metadata: Vec<bool> = metadata.iter().map(Option::is_some).collect();
        let holds: Vec<Option<i64>> = holds.into_iter().map(|node| node.map(|(_, stat)| stat.czxid)).collect();
        Ok(of(&children, &metadata, &holds))
    }
}

/// `metadata` and `holds` are those of the plan's replicas: whether the one is there, and which transaction made the other.
fn of(children: &[String], metadata: &[bool], holds: &[Option<i64>]) -> Stage {
    let held = holds.iter().copied().flatten().max();
    let is_whole =
        not_whole(children).is_none() && metadata.iter().all(|is_there| *is_there) && holds.iter().all(Option::is_some);
    match held {
        Some(held) if is_whole => Stage::Whole { held },
        _ => Stage::Begun { held },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_whole_as_long_as_nothing_of_it_is_deleted() {
        let whole = ["metadata", "columns", "log", "replicas", "rekeeper-m-1"].map(str::to_owned);
        let begun = |held| Stage::Begun { held };
        assert_eq!(of(&whole, &[true, true], &[Some(7), Some(9)]), Stage::Whole { held: 9 });
        assert_eq!(of(&whole, &[true, false], &[Some(7), Some(9)]), begun(Some(9)));
        assert_eq!(of(&whole, &[true, true], &[Some(7), None]), begun(Some(7)));
        assert_eq!(of(&whole[1..], &[true, true], &[Some(7), Some(9)]), begun(Some(9)));
        let dropped = [whole.as_slice(), &["dropped".to_owned()]].concat();
        assert_eq!(of(&dropped, &[true, true], &[Some(7), Some(9)]), begun(Some(9)));
        assert_eq!(of(&whole[4..], &[], &[]), begun(None));
    }
}
