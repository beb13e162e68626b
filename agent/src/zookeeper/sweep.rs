//! Deleting many nodes under a marker, fast: in batches, and without listing what has no children.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use rekeeper_shared::domain::step::SetRef;
use zookeeper_client::Error as ClientError;

use super::connection::ZooKeeper;
use super::error::CleanError;
use super::marker::Marker;
use super::may_delete::{Facts, Of, may_delete};
use super::request::{MULTIS_IN_FLIGHT, MultiError, Operation, batches};

/// Each round finds one more level of a tree, so this bounds its depth, and how long somebody else may interfere.
const ROUNDS: usize = 64;
/// Lists that are read at a time; each may be long.
const LISTS_IN_FLIGHT: usize = 16;

/// Deletes below one path while its marker is there.
pub(super) struct Sweep<'a> {
    pub(super) zookeeper: &'a ZooKeeper,
    pub(super) set: &'a SetRef,
    pub(super) marker: &'a Marker,
    pub(super) deleted: AtomicU64,
    progress: &'a (dyn Fn(u64) + Send + Sync),
}

impl<'a> Sweep<'a> {
    /// Nothing is deleted yet; `progress` is told how many are, as they are.
    pub(super) fn new(
        zookeeper: &'a ZooKeeper,
        set: &'a SetRef,
        marker: &'a Marker,
        progress: &'a (dyn Fn(u64) + Send + Sync),
    ) -> Self {
        Self {
            zookeeper,
            set,
            marker,
            deleted: AtomicU64::new(0),
            progress,
        }
    }
}

impl Sweep<'_> {
    /// Applies a multi that begins with the check of the marker. An inner error is a refusal that the caller handles:
    /// the index of the operation, and NotEmpty, NoNode or NodeExists.
    pub(super) async fn guarded(
        &self,
        operations: Vec<Operation>,
    ) -> Result<Result<(), (usize, ClientError)>, CleanError> {
        let mut all = Vec::with_capacity(operations.len() + 1);
        all.push(Operation::Check {
            path: self.set.path.child(&self.marker.to_string()),
            version: Some(0),
        });
        all.extend(operations);
        match self.zookeeper.multi(&all).await {
            Ok(()) => Ok(Ok(())),
            Err(MultiError::Refused {
                index: 0,
                source: ClientError::NoNode | ClientError::BadVersion,
            }) => Err(CleanError::FenceLost {
                path: self.set.path.to_string(),
                marker: self.marker.to_string(),
            }),
            Err(MultiError::Refused {
                index,
                source: source @ (ClientError::NotEmpty | ClientError::NoNode | ClientError::NodeExists),
            }) if index > 0 => Ok(Err((index - 1, source))),
            Err(error) => Err(error.into_zk(&all).into()),
        }
    }

    /// What was just read of what is to be deleted.
    pub(super) fn may_delete(&self, of: Of<'_>) -> Result<(), CleanError> {
        may_delete(&Facts {
            set: self.set,
            mine: self.marker,
            place: self.zookeeper.place(),
            of,
        })
    }

    fn may_delete_below(&self, node: &str, children: &[String]) -> Result<(), CleanError> {
        self.may_delete(Of::Below { node, children })
    }

    pub(super) fn count(&self, nodes: usize) {
        let total = self.deleted.fetch_add(nodes as u64, Ordering::Relaxed) + nodes as u64;
        (self.progress)(total);
    }

    /// Deletes everything below these nodes, not the nodes themselves.
    pub(super) async fn empty(&self, folders: Vec<String>) -> Result<(), CleanError> {
        let lists: Vec<Vec<String>> = stream::iter(folders)
            .map(|folder| async move {
                let names = self.zookeeper.children(&folder).await?.unwrap_or_default();
                self.may_delete_below(&folder, &names)?;
                Ok::<_, CleanError>(names.into_iter().map(|name| format!("{folder}/{name}")).collect())
            })
            .buffered(LISTS_IN_FLIGHT)
            .try_collect()
            .await?;
        self.remove(lists.into_iter().flatten().collect()).await
    }

    /// Deletes these nodes and everything below them. They are taken for leaves until ZooKeeper says otherwise.
    pub(super) async fn remove(&self, nodes: Vec<String>) -> Result<(), CleanError> {
        stream::iter(batches(nodes))
            .map(|batch| self.remove_batch(batch))
            .buffer_unordered(MULTIS_IN_FLIGHT)
            .try_collect()
            .await
    }

    fn remove_batch(&self, batch: Vec<String>) -> BoxFuture<'_, Result<(), CleanError>> {
        Box::pin(async move {
            let mut pending = batch;
            for _ in 0..ROUNDS {
                let refused = self.delete_in_order(pending).await?;
                if refused.is_empty() {
                    return Ok(());
                }
                pending = self.with_children(refused).await?;
            }
            Err(CleanError::Busy {
                path: self.set.path.to_string(),
            })
        })
    }

    /// Deletes nodes in the sequence given, up to the first multi that is refused; gives back what is left.
    async fn delete_in_order(&self, nodes: Vec<String>) -> Result<Vec<String>, CleanError> {
        let mut rest = batches(nodes).into_iter();
        while let Some(batch) = rest.next() {
            let operations: Vec<Operation> = batch
                .iter()
                .map(|path| Operation::Delete { path: path.clone() })
                .collect();
            match self.guarded(operations).await? {
                Ok(()) => self.count(batch.len()),
                Err(_) => return Ok(batch.into_iter().chain(rest.flatten()).collect()),
            }
        }
        Ok(Vec::new())
    }

    /// Puts the children of every node before it, and leaves out what is not there any more.
    async fn with_children(&self, nodes: Vec<String>) -> Result<Vec<String>, CleanError> {
        let lists = self.zookeeper.many_children(nodes.clone()).await?;
        let mut known: HashSet<String> = nodes.iter().cloned().collect();
        let mut ordered = Vec::with_capacity(nodes.len());
        for (node, names) in nodes.into_iter().zip(lists) {
            let Some(names) = names else { continue };
            self.may_delete_below(&node, &names)?;
            let children = names.iter().map(|name| format!("{node}/{name}"));
            ordered.extend(children.filter(|child| known.insert(child.clone())));
            ordered.push(node);
        }
        Ok(ordered)
    }
}
