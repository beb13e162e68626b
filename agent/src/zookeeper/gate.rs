//! A gate: a node at the path of a table that has none there. As long as it stands, the RESTORE of a first replica has moved
//! the table's parts away, and does not make others of them yet (createTableIfNotExists looks a thousand times, and gives
//! up). It outlives its agent: were it ephemeral, it would go in the very middle of a RESTORE that goes on without one.

use rekeeper_shared::domain::place::ZkPath;

use super::connection::ZooKeeper;
use super::error::ZkError;

/// What tells a gate from everything else that may be at a path.
const CONTENT: &str = "rekeeper: its RESTORE waits for readers";

impl ZooKeeper {
    /// Shuts the gate; false when something is at the path.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn shut_gate(&self, path: &ZkPath) -> Result<bool, ZkError> {
        for (end, _) in path.as_str().match_indices('/').skip(1) {
            let ancestor = &path.as_str()[..end];
            // Not by create alone, which is refused where the agent may not create anything.
            if self.stat(ancestor).await?.is_none() {
                self.create(ancestor, "").await?;
            }
        }
        self.create(path.as_str(), CONTENT).await
    }

    /// Opens the gate, whichever agent has shut it. A table that is at the path stays.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn open_gate(&self, path: &ZkPath) -> Result<(), ZkError> {
        if let Some((data, _)) = self.data(path.as_str()).await?
            && data == CONTENT.as_bytes()
        {
            // A table that was made since has nodes below it, and is not deleted.
            self.remove(path.as_str()).await?;
        }
        Ok(())
    }
}
