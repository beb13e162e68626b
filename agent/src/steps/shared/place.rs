//! ZooKeeper as the server is configured for it at this moment. The only file of the steps that knows how ZooKeeper is
//! reached.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::rules::accounting::Dropped;
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, Witness};

use crate::words::in_full;
use crate::zookeeper::{
    Connections, DefinitionNodes, Ensembles, Owner, ReferenceNow, RestoredState, WitnessFound, ZkError, ZooKeeper,
};

/// The places of the server's current configuration; the file is read again at each use, since a hook may change it.
#[derive(Debug, Clone)]
pub struct ServerPlaces {
    config: PathBuf,
    connections: Connections,
}

impl ServerPlaces {
    /// The places that `config`, ClickHouse's own (preprocessed) configuration file, names.
    #[must_use]
    pub fn new(config: PathBuf, connections: Connections) -> Self {
        Self { config, connections }
    }

    /// What the file says now.
    fn ensembles(&self, code: Code) -> Result<Ensembles, Failure> {
        // A hook or the server may be writing the file right now: both do, one after the other, at every restart.
        Ensembles::read(&self.config).map_err(|e| Failure::passing(code, in_full(&e)))
    }

    /// The place of the ensemble of that name.
    pub(in crate::steps) fn place(&self, ensemble: &str, code: Code) -> Result<Place, Failure> {
        self.place_in(&self.ensembles(code)?, ensemble, code)
    }

    fn place_in(&self, ensembles: &Ensembles, ensemble: &str, code: Code) -> Result<Place, Failure> {
        ensembles.place(ensemble).ok_or_else(|| {
            Failure::lasting(
                code,
                format!("{} names no ZooKeeper ensemble {ensemble}", self.config.display()),
            )
        })
    }

    /// The session with the ensemble of that name.
    pub(in crate::steps) async fn at(&self, ensemble: &str, code: Code) -> Result<ZooKeeper, Failure> {
        // Once: place and credentials are those of one file.
        let ensembles = self.ensembles(code)?;
        let place = self.place_in(&ensembles, ensemble, code)?;
        let access = ensembles.access(&place);
        self.connections
            .get_patiently(&place, &access)
            .await
            .map_err(failed(code))
    }

    /// The session with a place of the plan, which may not be in the configuration any more; the credentials are the
    /// current ones.
    pub(in crate::steps) async fn planned(&self, place: &Place, code: Code) -> Result<ZooKeeper, Failure> {
        let ensembles = self.ensembles(code)?;
        let access = ensembles.access(place);
        self.connections
            .get_patiently(place, &access)
            .await
            .map_err(failed(code))
    }

    /// The server's place is the one where the witness is.
    pub(in crate::steps) async fn check_witness(&self, witness: &Witness) -> Result<(), Failure> {
        let code = Code::WitnessFailed;
        let zookeeper = self.at(&witness.ensemble, code).await?;
        let differs = |what: String| {
            Failure::lasting(
                Code::PlaceDiffers,
                format!("at {}, which this server is configured for, {what}", zookeeper.place()),
            )
        };
        match zookeeper.read_witness(witness).await.map_err(failed(code))? {
            WitnessFound::Matches => Ok(()),
            WitnessFound::Absent => Err(differs(format!("there is no witness node {}", witness.node))),
            WitnessFound::Differs { found } => Err(differs(format!(
                "the witness node {} says {found:?} instead of {:?}",
                witness.node, witness.content
            ))),
        }
    }

    /// Whether nothing is at the table's path.
    pub(in crate::steps) async fn is_absent(&self, witness: &Witness) -> Result<bool, Failure> {
        let code = Code::WitnessFailed;
        let zookeeper = self.at(&witness.ensemble, code).await?;
        zookeeper.path_absent(&witness.path).await.map_err(failed(code))
    }

    /// Whose replicas are registered at the table's path.
    pub(in crate::steps) async fn owners(&self, ensemble: &str, path: &ZkPath) -> Result<Vec<Owner>, Failure> {
        let code = Code::RestoreFailed;
        let zookeeper = self.at(ensemble, code).await?;
        zookeeper.owners(path).await.map_err(failed(code))
    }

    /// The nodes at the table's path; none when there is nothing.
    pub(in crate::steps) async fn restored_state(
        &self,
        ensemble: &str,
        path: &ZkPath,
    ) -> Result<Option<RestoredState>, Failure> {
        let code = Code::RestoreFailed;
        let zookeeper = self.at(ensemble, code).await?;
        zookeeper.restored_state(path).await.map_err(|error| match error {
            ZkError::NotATable { .. } => Failure::lasting(Code::PathExists, in_full(&error)),
            error => failed(code)(error),
        })
    }

    /// The versions of a table's definition, at the ensemble of that name, with the session to change them.
    pub(in crate::steps) async fn definition_nodes(
        &self,
        ensemble: &str,
        path: &ZkPath,
    ) -> Result<(ZooKeeper, Option<DefinitionNodes>), Failure> {
        let code = Code::MetadataVersionDiffers;
        let zookeeper = self.at(ensemble, code).await?;
        let found = zookeeper.definition_nodes(path).await.map_err(failed(code))?;
        Ok((zookeeper, found))
    }

    /// The names of the parts that ZooKeeper has for a replica.
    pub(in crate::steps) async fn registered_parts(
        &self,
        ensemble: &str,
        path: &ZkPath,
        replica: &str,
    ) -> Result<HashSet<String>, Failure> {
        let code = Code::RestoreFailed;
        let zookeeper = self.at(ensemble, code).await?;
        let nodes = zookeeper.snapshot(path).await.map_err(failed(code))?;
        let mut replicas = nodes.into_iter().flat_map(|nodes| nodes.replicas);
        let own = replicas.find(|r| r.name == replica);
        Ok(own.into_iter().flat_map(|r| r.parts).map(|part| part.name).collect())
    }

    /// What the log of the table says was dropped, from the entry `from` on, and where to go on.
    pub(in crate::steps) async fn dropped_since(
        &self,
        ensemble: &str,
        path: &ZkPath,
        from: i64,
    ) -> Result<(Vec<Dropped>, i64), Failure> {
        let zookeeper = self.at(ensemble, Code::RestoreFailed).await?;
        let found = zookeeper.dropped_since(path, from).await;
        found.map_err(failed(Code::RestoreFailed))
    }

    /// What ZooKeeper has of the reference replica now.
    pub(in crate::steps) async fn reference_now(
        &self,
        ensemble: &str,
        path: &ZkPath,
        replica: &str,
    ) -> Result<Option<ReferenceNow>, Failure> {
        let zookeeper = self.at(ensemble, Code::RestoreFailed).await?;
        let found = zookeeper.reference_now(path, replica).await;
        found.map_err(failed(Code::RestoreFailed))
    }

    /// Whether the node of ClickHouse Keeper that the server runs gives sessions, if it runs one.
    ///
    /// # Errors
    /// Why it gives none.
    pub(in crate::steps) async fn own_keeper_serves(&self) -> Result<(), String> {
        let ensembles = Ensembles::read(&self.config).map_err(|e| in_full(&e))?;
        match ensembles.own_keeper() {
            Some(Ok((place, access))) => {
                let session = ZooKeeper::connect(place, access).await;
                session.map(drop).map_err(|e| in_full(&e))
            }
            // Nobody can ask it.
            Some(Err(_)) | None => Ok(()),
        }
    }

    /// Shuts the gate at the table's path; false when something is there.
    pub(in crate::steps) async fn shut_gate(&self, witness: &Witness) -> Result<bool, Failure> {
        let zookeeper = self.at(&witness.ensemble, Code::RestoreFailed).await?;
        zookeeper
            .shut_gate(&witness.path)
            .await
            .map_err(failed(Code::RestoreFailed))
    }

    /// Opens it.
    pub(in crate::steps) async fn open_gate(&self, ensemble: &str, path: &ZkPath) -> Result<(), Failure> {
        let zookeeper = self.at(ensemble, Code::RestoreFailed).await?;
        zookeeper.open_gate(path).await.map_err(failed(Code::RestoreFailed))
    }

    /// Takes the witness away.
    pub(in crate::steps) async fn remove_witness(&self, witness: &Witness) -> Result<(), Failure> {
        let zookeeper = self.at(&witness.ensemble, Code::WitnessFailed).await?;
        zookeeper
            .remove_witness(witness)
            .await
            .map_err(failed(Code::WitnessFailed))
    }
}

pub(in crate::steps) fn failed(code: Code) -> impl Fn(ZkError) -> Failure {
    move |error| error.into_failure(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "<clickhouse><zookeeper><node><host>zk</host><port>2181</port></node></zookeeper></clickhouse>";

    #[tokio::test]
    async fn a_file_that_is_being_written_is_read_again_later() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.xml");
        let places = ServerPlaces::new(config.clone(), Connections::new());
        let passes = async || {
            let failure = places.place("default", Code::WitnessFailed).unwrap_err();
            assert!(failure.retry, "{}", failure.problem);
            let failure = places.at("default", Code::WitnessFailed).await.unwrap_err();
            assert!(failure.retry, "{}", failure.problem);
        };
        passes().await; // Missing.
        std::fs::create_dir(&config).unwrap();
        passes().await; // Cannot be read.
        std::fs::remove_dir(&config).unwrap();
        for length in 0..WHOLE.len() {
            std::fs::write(&config, &WHOLE[..length]).unwrap();
            passes().await;
        }
        std::fs::write(&config, WHOLE).unwrap();
        assert_eq!(places.place("default", Code::WitnessFailed).unwrap().nodes, ["zk:2181"]);
        // Another name in a whole file does not come by waiting.
        assert!(!places.place("other", Code::WitnessFailed).unwrap_err().retry);
    }
}
