//! Until ZooKeeper has the replica that was restored.

use std::collections::HashSet;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;
use tokio::time::Instant;

use super::work::{CODE, Work};
use crate::steps::shared::wait::{PATIENCE, polls};
use crate::zookeeper::{RestoredReplica, RestoredState};

impl Work<'_> {
    /// Waits until ZooKeeper has this replica and the reference under one path, active, and with nothing to take up of
    /// what was in the log when the wait began (users may write all the time).
    pub(super) async fn until_registered(&self) -> Result<(), Failure> {
        let mut expected = vec![self.table.replica_name.clone()];
        let before = self.following.iter().flat_map(|following| &following.before);
        expected.extend(before.map(|(manifest, _)| manifest.replica_name.clone()));
        let deadline = Instant::now() + PATIENCE;
        let (mut goal, mut polls) = (None, polls());
        loop {
            let Some(mut nodes) = self.nodes().await? else {
                return Err(Failure::lasting(
                    Code::PlaceDiffers,
                    format!(
                        "{} was restored, but {} is not there where the server's configuration says",
                        self.table.name, self.table.path
                    ),
                ));
            };
            let planned = |r: &RestoredReplica| self.order.replicas.contains(&r.name);
            if !nodes.replicas.iter().all(planned) {
                let owners = self.owners().await?;
                return Err(self.taken(&self.strangers(&owners)));
            }
            let (log_end, waiting) = goal.get_or_insert_with(|| (nodes.log_end, names_of_waiting(&nodes)));
            nodes.log_end = *log_end;
            for replica in &mut nodes.replicas {
                replica
                    .waiting
                    .retain(|entry| waiting.contains(&(replica.name.clone(), entry.name.clone())));
            }
            let missing = nodes.missing(&expected);
            if missing.is_empty() {
                return Ok(());
            }
            self.reference_is_registered(&nodes)?;
            let missing = missing.join("; ");
            if Instant::now() >= deadline {
                return Err(Failure::passing(CODE, format!("{}: {missing}", self.table.path)));
            }
            self.doing(format!("waits for ZooKeeper: {missing}"));
            tokio::time::sleep(polls.next_delay()).await;
        }
    }

    /// It was, when this replica's turn came; whoever drops its table takes it, or the whole path, away.
    fn reference_is_registered(&self, nodes: &RestoredState) -> Result<(), Failure> {
        let Some(reference) = self.reference().map(|manifest| &manifest.replica_name) else {
            return Ok(());
        };
        if nodes.replicas.iter().any(|replica| replica.name == *reference) {
            return Ok(());
        }
        let text = format!(
            "the reference, replica {reference} of {}, was restored and is not registered any more: somebody has dropped its \
             table",
            self.table.path
        );
        Err(Failure::lasting(Code::PathExists, text).with_fix(self.without_the_reference(reference)))
    }
}

/// The entries that replicas have queued: replica and entry.
fn names_of_waiting(nodes: &RestoredState) -> HashSet<(String, String)> {
    let of = |replica: &RestoredReplica| {
        let entries = replica.waiting.iter();
        entries
            .map(|entry| (replica.name.clone(), entry.name.clone()))
            .collect::<Vec<_>>()
    };
    nodes.replicas.iter().flat_map(of).collect()
}
