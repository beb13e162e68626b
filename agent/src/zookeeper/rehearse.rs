//! Which nodes the steps on ZooKeeper would change, in their sequence, as they are now. Only reads.

use std::collections::HashMap;

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::step::SetRef;
use rekeeper_shared::people::rehearsal::Action;

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::marker::{Marker, NOTE};

/// Nodes whose children are asked for at a time.
const PAGE: usize = 10_000;

impl ZooKeeper {
    /// What freezing a table's log changes.
    #[must_use]
    pub fn rehearse_freeze(&self, set: &SetRef) -> Vec<Action> {
        vec![
            Action::CreateNode(self.full(&set.path.child(NOTE))),
            Action::SetPermissions(self.full(&set.path.child("log"))),
        ]
    }

    /// What taking the path for an attempt changes.
    ///
    /// # Errors
    /// When the nodes cannot be read.
    pub async fn rehearse_fence(
        &self,
        set: &SetRef,
        migration: &MigrationName,
        attempt: u64,
    ) -> Result<Vec<Action>, ZkError> {
        let path = &set.path;
        let marker = Marker::new(migration, attempt).to_string();
        let mut actions = self.markers(set, migration).await?;
        actions.push(Action::CreateNode(self.full(&path.child(&marker))));
        for replica in self.replicas_of(set).await? {
            let hold = format!("{}/is_active", path.replica(&replica));
            actions.push(Action::CreateNode(self.full(&hold)));
        }
        Ok(actions)
    }

    /// What letting the path go changes.
    ///
    /// # Errors
    /// When the nodes cannot be read.
    pub async fn rehearse_release(&self, set: &SetRef, migration: &MigrationName) -> Result<Vec<Action>, ZkError> {
        let mut actions = self.markers(set, migration).await?;
        for replica in self.replicas_of(set).await? {
            let hold = format!("{}/is_active", set.path.replica(&replica));
            let held = self.data(&hold).await?;
            if held.is_some_and(|(_, stat)| stat.ephemeral_owner == 0) {
                actions.push(Action::DeleteNode(self.full(&hold)));
            }
        }
        Ok(actions)
    }

    /// What deleting the table's nodes changes: every node that is there now, in the sequence of [`Self::delete`]. The
    /// `is_active` of a replica is Rekeeper's own by then.
    ///
    /// # Errors
    /// When the nodes cannot be read.
    pub async fn rehearse_delete(
        &self,
        set: &SetRef,
        migration: &MigrationName,
        attempt: u64,
    ) -> Result<Vec<Action>, ZkError> {
        let path = &set.path;
        let marker = path.child(&Marker::new(migration, attempt).to_string());
        let tree = self.tree(path.as_str()).await?;
        if !tree.contains_key(path.as_str()) {
            return Ok(Vec::new());
        }
        let mut deleted = Vec::new();
        let replicas = self.replicas_of(set).await?;
        for replica in &replicas {
            let metadata = format!("{}/metadata", path.replica(replica));
            if tree.contains_key(&metadata) {
                deleted.push(metadata);
            }
        }
        for replica in &replicas {
            let replica = path.replica(replica);
            let kept = ["is_active", "metadata"];
            folders(&tree, &replica, |name| !kept.contains(&name), &mut deleted);
            deleted.extend([format!("{replica}/is_active"), replica]);
        }
        let mut actions = self.markers(set, migration).await?;
        actions.push(Action::CreateNode(self.full(&marker)));
        actions.extend(self.deletes(deleted));
        let replicas = path.child("replicas");
        if tree.contains_key(&replicas) {
            actions.push(Action::DeleteNode(self.full(&replicas)));
        }
        let (dropped, lock) = (path.child("dropped"), path.child("dropped/lock"));
        let created = [&dropped, &lock].into_iter().filter(|node| !tree.contains_key(*node));
        actions.extend(created.map(|node| Action::CreateNode(self.full(node))));
        let is_marker = |name: &str| Marker::parse(name).is_some();
        let mut rest = Vec::new();
        let own = |name: &str| name == "replicas" || name == "dropped" || is_marker(name);
        folders(&tree, path.as_str(), |name| !own(name), &mut rest);
        rest.extend([lock, dropped, marker, path.to_string()]);
        actions.extend(self.deletes(rest));
        Ok(actions)
    }

    /// The markers of the migration that are there, each to be deleted.
    async fn markers(&self, set: &SetRef, migration: &MigrationName) -> Result<Vec<Action>, ZkError> {
        let children = self.children(set.path.as_str()).await?.unwrap_or_default();
        let is_own = |name: &&String| Marker::parse(name).is_some_and(|marker| marker.migration == *migration);
        let nodes = children.iter().filter(is_own).map(|name| set.path.child(name));
        Ok(self.deletes(nodes.collect()))
    }

    async fn replicas_of(&self, set: &SetRef) -> Result<Vec<String>, ZkError> {
        let mut names = self.children(&set.path.child("replicas")).await?.unwrap_or_default();
        names.sort();
        Ok(names)
    }

    /// Every node from `top` on with the names of its children.
    async fn tree(&self, top: &str) -> Result<HashMap<String, Vec<String>>, ZkError> {
        let mut tree = HashMap::new();
        let mut unseen = vec![top.to_owned()];
        while !unseen.is_empty() {
            let page = unseen.split_off(unseen.len().saturating_sub(PAGE));
            let lists = self.many_children(page.clone()).await?;
            for (node, names) in page.into_iter().zip(lists) {
                let Some(mut names) = names else { continue };
                names.sort();
                unseen.extend(names.iter().map(|name| format!("{node}/{name}")));
                tree.insert(node, names);
            }
        }
        Ok(tree)
    }

    fn deletes(&self, nodes: Vec<String>) -> Vec<Action> {
        nodes.iter().map(|node| Action::DeleteNode(self.full(node))).collect()
    }

    fn full(&self, path: &str) -> String {
        format!("{}{path}", self.place().chroot)
    }
}

/// The contents of a node's folders, then the folders: what is below goes first.
fn folders(tree: &HashMap<String, Vec<String>>, node: &str, is_wanted: impl Fn(&str) -> bool, into: &mut Vec<String>) {
    let names = tree.get(node).map(Vec::as_slice).unwrap_or_default();
    let wanted: Vec<String> = names
        .iter()
        .filter(|name| is_wanted(name))
        .map(|name| format!("{node}/{name}"))
        .collect();
    for folder in &wanted {
        below(tree, folder, into);
    }
    into.extend(wanted);
}

fn below(tree: &HashMap<String, Vec<String>>, node: &str, into: &mut Vec<String>) {
    for name in tree.get(node).into_iter().flatten() {
        let child = format!("{node}/{name}");
        below(tree, &child, into);
        into.push(child);
    }
}
