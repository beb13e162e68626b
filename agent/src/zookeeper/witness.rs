//! The node by which the servers of a set prove that they are configured for the same place.

use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::step::Witness;
use zookeeper_client::Error as ClientError;

use super::connection::ZooKeeper;
use super::error::ZkError;

/// What a server's place says of a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WitnessFound {
    /// It is there, as it was written.
    Matches,
    /// It is not there: another place, or nobody wrote it.
    Absent,
    /// Something else is there.
    Differs {
        /// What the node holds.
        found: String,
    },
}

impl ZooKeeper {
    /// Writes the witness, directly under the chroot. One that an earlier attempt left with another content is
    /// replaced: its name belongs to the migration.
    ///
    /// # Errors
    /// [`ZkError::Refused`] for a name that is not Rekeeper's, or ZooKeeper's failure.
    pub async fn write_witness(&self, witness: &Witness) -> Result<(), ZkError> {
        let path = witness_path(witness)?;
        if self.create(&path, &witness.content).await? {
            return Ok(());
        }
        match self.read_witness(witness).await? {
            WitnessFound::Matches => Ok(()),
            WitnessFound::Absent | WitnessFound::Differs { .. } => {
                self.set(&path, &witness.content).await?;
                Ok(())
            }
        }
    }

    /// Reads the witness.
    ///
    /// # Errors
    /// As for [`Self::write_witness`].
    pub async fn read_witness(&self, witness: &Witness) -> Result<WitnessFound, ZkError> {
        let path = witness_path(witness)?;
        Ok(match self.data(&path).await? {
            None => WitnessFound::Absent,
            Some((bytes, _)) if bytes == witness.content.as_bytes() => WitnessFound::Matches,
            Some((bytes, _)) => WitnessFound::Differs {
                found: String::from_utf8_lossy(&bytes).into_owned(),
            },
        })
    }

    /// Takes the witness away; one that is not there is taken away already.
    ///
    /// # Errors
    /// As for [`Self::write_witness`].
    pub async fn remove_witness(&self, witness: &Witness) -> Result<(), ZkError> {
        self.remove(&witness_path(witness)?).await?;
        Ok(())
    }

    /// Whether nothing is at a path.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn path_absent(&self, path: &ZkPath) -> Result<bool, ZkError> {
        Ok(self.stat(path.as_str()).await?.is_none())
    }
}

/// No free path comes from the wire: one component, and one of Rekeeper's own.
fn witness_path(witness: &Witness) -> Result<String, ZkError> {
    let node = &witness.node;
    if node.starts_with("rekeeper-") && !node.contains('/') {
        Ok(format!("/{node}"))
    } else {
        Err(ZkError::Refused {
            operation: "use as a witness",
            path: node.clone(),
            source: ClientError::BadArguments(&"its name must begin with 'rekeeper-' and hold no '/'"),
        })
    }
}
