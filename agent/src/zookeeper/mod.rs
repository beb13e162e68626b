//! ZooKeeper: what is read from it, how a table's nodes are fenced and deleted, and how a place is proved.
//!
//! [`Ensembles`] come from ClickHouse's own configuration, [`Connections`] keeps one session per place, and
//! [`ZooKeeper`] is the cheap handle that everything is a method of. No SQL, no decision about a set: whether a set is
//! settled is [`crate::rules::settle`]'s business, when to delete it is the coordinator's.

mod clean;
mod connection;
mod dropped;
mod ensembles;
mod error;
mod facts;
mod fence;
mod foreign;
mod freeze;
mod gate;
mod holds;
mod keeper;
mod log_entry;
mod marker;
mod may_delete;
mod owners;
mod plant;
mod rehearse;
mod replicas;
mod request;
mod rights;
mod snapshot;
mod software;
mod stage;
mod sweep;
mod tls;
mod versions;
mod walk;
mod witness;
mod xml;

pub use connection::{Connections, ZooKeeper};
pub use dropped::ReferenceNow;
pub use ensembles::{Access, BadEnsembles, Ensembles};
pub use error::{CleanError, Outcome, ZkError};
pub use log_entry::parse_log_entry;
pub use marker::Marker;
pub use may_delete::may_begin;
pub use owners::Owner;
pub use plant::PlantError;
pub use replicas::{RestoredReplica, RestoredState};
pub use software::software;
pub use stage::Stage;
pub use tls::TlsFiles;
pub use versions::DefinitionNodes;
pub(crate) use walk::WalkError;
pub use walk::ZNode;
pub use witness::WitnessFound;
