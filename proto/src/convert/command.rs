//! Commands.

use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::step::{Command, Order, Role, SetRef, TableRef, Witness};
use rekeeper_shared::domain::unsettled::Allowed;

use super::{BadMessage, parse, required};
use crate::v1::{self, command};

impl From<Command> for v1::Command {
    fn from(command: Command) -> Self {
        let order = match command.order {
            Order::Sync(table) => command::Order::Sync(table.into()),
            Order::Freeze(set) => command::Order::Freeze(set.into()),
            Order::Detach(table) => command::Order::Detach(table.into()),
            Order::Reattach(table) => command::Order::Reattach(table.into()),
            Order::Settle(set) => command::Order::Settle(set.into()),
            Order::Record(set) => command::Order::Record(set.into()),
            Order::Attest { table, set, record } => command::Order::Attest(v1::Attest {
                table: Some(table.into()),
                set: Some(set.into()),
                record: Some(record.into()),
            }),
            Order::Clean(set) => command::Order::Clean(set.into()),
            Order::Release(set) => command::Order::Release(set.into()),
            Order::Restart => command::Order::Restart(v1::Restart {}),
            Order::Witness(witness) => command::Order::Witness(witness.into()),
            Order::Attach {
                table,
                witness,
                record,
                manifest,
            } => command::Order::Attach(v1::Attach {
                table: Some(table.into()),
                witness: Some(witness.into()),
                record: Some(record.into()),
                manifest_digest: manifest.as_ref().map_or_else(String::new, |m| m.digest.clone()),
                manifest: manifest.and_then(sent),
            }),
            Order::Restore {
                table,
                role,
                manifest,
                witness,
                merges_keep_rows,
                keep_order,
                replicas,
            } => {
                let (record, before) = match role {
                    Role::Reference => (None, Vec::new()),
                    Role::Follower { record, before } => (Some(record), before),
                };
                command::Order::Restore(v1::Restore {
                    table: Some(table.into()),
                    manifests_before: before.into_iter().map(Into::into).collect(),
                    manifest_digest: manifest.digest.clone(),
                    manifest: sent(manifest),
                    witness: Some(witness.into()),
                    merges_keep_rows,
                    keep_order,
                    replicas,
                    record: record.map(Into::into),
                })
            }
            Order::Clear(table) => command::Order::Clear(table.into()),
            Order::Finish(table) => command::Order::Finish(table.into()),
        };
        Self {
            migration: command.migration.into(),
            attempt: command.attempt,
            order: Some(order),
        }
    }
}

impl TryFrom<v1::Command> for Command {
    type Error = BadMessage;

    fn try_from(wire: v1::Command) -> Result<Self, BadMessage> {
        let order = match required("order", wire.order)? {
            command::Order::Sync(table) => Order::Sync(table.try_into()?),
            command::Order::Freeze(set) => Order::Freeze(set.try_into()?),
            command::Order::Detach(table) => Order::Detach(table.try_into()?),
            command::Order::Reattach(table) => Order::Reattach(table.try_into()?),
            command::Order::Settle(set) => Order::Settle(set.try_into()?),
            command::Order::Record(set) => Order::Record(set.try_into()?),
            command::Order::Attest(attest) => Order::Attest {
                table: required("attest.table", attest.table)?.try_into()?,
                set: required("attest.set", attest.set)?.try_into()?,
                record: required("attest.record", attest.record)?.into(),
            },
            command::Order::Clean(set) => Order::Clean(set.try_into()?),
            command::Order::Release(set) => Order::Release(set.try_into()?),
            command::Order::Restart(v1::Restart {}) => Order::Restart,
            command::Order::Witness(witness) => Order::Witness(witness.try_into()?),
            command::Order::Attach(attach) => Order::Attach {
                table: required("attach.table", attach.table)?.try_into()?,
                witness: required("attach.witness", attach.witness)?.try_into()?,
                record: required("attach.record", attach.record)?.into(),
                manifest: (!attach.manifest_digest.is_empty())
                    .then(|| received(attach.manifest_digest, attach.manifest)),
            },
            command::Order::Restore(restore) => Order::Restore {
                table: required("restore.table", restore.table)?.try_into()?,
                role: match restore.record {
                    None => Role::Reference,
                    Some(record) => Role::Follower {
                        record: record.into(),
                        before: restore.manifests_before.into_iter().map(Into::into).collect(),
                    },
                },
                manifest: received(restore.manifest_digest, restore.manifest),
                witness: required("restore.witness", restore.witness)?.try_into()?,
                merges_keep_rows: restore.merges_keep_rows,
                keep_order: restore.keep_order,
                replicas: restore.replicas,
            },
            command::Order::Clear(table) => Order::Clear(table.try_into()?),
            command::Order::Finish(table) => Order::Finish(table.try_into()?),
        };
        Ok(Self {
            migration: parse("migration", &wire.migration)?,
            attempt: wire.attempt,
            order,
        })
    }
}

/// A document that is more than a digest.
fn sent(document: Packed) -> Option<v1::Document> {
    (!document.bytes.is_empty()).then(|| document.into())
}

/// The document of that digest, without bytes when another one or none came.
fn received(digest: String, document: Option<v1::Document>) -> Packed {
    let document = document.map(Packed::from).filter(|document| document.digest == digest);
    document.unwrap_or(Packed {
        digest,
        bytes: Vec::new(),
    })
}

fn path(text: &str) -> Result<ZkPath, BadMessage> {
    ZkPath::parse(text).map_err(|e| BadMessage {
        field: "zookeeper_path",
        what: format!("not acceptable: {e}"),
    })
}

impl From<TableRef> for v1::Table {
    fn from(table: TableRef) -> Self {
        Self {
            database: table.name.database,
            table: table.name.table,
            uuid: table.uuid,
            zookeeper_path: table.path.into(),
            replica_name: table.replica_name,
        }
    }
}

impl TryFrom<v1::Table> for TableRef {
    type Error = BadMessage;

    fn try_from(table: v1::Table) -> Result<Self, BadMessage> {
        Ok(Self {
            path: path(&table.zookeeper_path)?,
            name: TableName {
                database: table.database,
                table: table.table,
            },
            uuid: table.uuid,
            replica_name: table.replica_name,
        })
    }
}

impl From<SetRef> for v1::Set {
    fn from(set: SetRef) -> Self {
        let Place {
            ensemble,
            nodes,
            secure,
            chroot,
        } = set.place;
        Self {
            place: Some(v1::Place {
                ensemble,
                nodes,
                secure,
                chroot,
            }),
            zookeeper_path: set.path.into(),
            replicas: set.replicas,
            allow_lost_parts: set.allowed.lost_parts,
            allow_mutations: set.allowed.mutations,
            allow_diverged: set.allowed.diverged,
            allow_foreign_nodes: set.allowed.foreign_nodes,
            recorded: set.recorded,
        }
    }
}

impl TryFrom<v1::Set> for SetRef {
    type Error = BadMessage;

    fn try_from(set: v1::Set) -> Result<Self, BadMessage> {
        let v1::Place {
            ensemble,
            nodes,
            secure,
            chroot,
        } = required("set.place", set.place)?;
        Ok(Self {
            place: Place {
                ensemble,
                nodes,
                secure,
                chroot,
            },
            path: path(&set.zookeeper_path)?,
            replicas: set.replicas,
            allowed: Allowed {
                lost_parts: set.allow_lost_parts,
                mutations: set.allow_mutations,
                diverged: set.allow_diverged,
                foreign_nodes: set.allow_foreign_nodes,
            },
            recorded: set.recorded,
        })
    }
}

impl From<Witness> for v1::Witness {
    fn from(witness: Witness) -> Self {
        Self {
            ensemble: witness.ensemble,
            zookeeper_path: witness.path.into(),
            node: witness.node,
            content: witness.content,
            replicas: (witness.replicas.into_iter())
                .map(|(name, uuid)| v1::WitnessReplica { name, uuid })
                .collect(),
        }
    }
}

impl TryFrom<v1::Witness> for Witness {
    type Error = BadMessage;

    fn try_from(witness: v1::Witness) -> Result<Self, BadMessage> {
        if witness.node.is_empty() || witness.node.contains('/') {
            return Err(BadMessage {
                field: "witness.node",
                what: format!("{:?}, and no node name", witness.node),
            });
        }
        Ok(Self {
            ensemble: witness.ensemble,
            path: path(&witness.zookeeper_path)?,
            node: witness.node,
            content: witness.content,
            replicas: (witness.replicas.into_iter())
                .map(|replica| (replica.name, replica.uuid))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TableRef {
        TableRef {
            name: TableName::new("d", "it's"),
            uuid: "u".into(),
            path: ZkPath::parse("/t/1").unwrap(),
            replica_name: "r1".into(),
        }
    }

    fn set() -> SetRef {
        SetRef {
            place: Place {
                ensemble: "default".into(),
                nodes: vec!["a:1".into()],
                secure: true,
                chroot: "/x".into(),
            },
            path: ZkPath::parse("/t/1").unwrap(),
            replicas: vec!["r1".into(), "r2".into()],
            allowed: Allowed {
                lost_parts: true,
                mutations: false,
                diverged: true,
                foreign_nodes: true,
            },
            recorded: true,
        }
    }

    fn witness() -> Witness {
        Witness {
            ensemble: "default".into(),
            path: ZkPath::parse("/t/1").unwrap(),
            node: "w".into(),
            content: "c".into(),
            replicas: vec![("r1".into(), "u1".into())],
        }
    }

    fn orders() -> Vec<Order> {
        let (table, set, witness) = (table(), set(), witness());
        let packed = Packed {
            digest: "d".into(),
            bytes: vec![1, 2],
        };
        let lost = Packed {
            digest: "lost".into(),
            bytes: vec![],
        };
        let restore = |role| Order::Restore {
            table: table.clone(),
            role,
            manifest: lost.clone(),
            witness: witness.clone(),
            merges_keep_rows: true,
            keep_order: true,
            replicas: vec!["r1".into()],
        };
        vec![
            Order::Sync(table.clone()),
            Order::Detach(table.clone()),
            Order::Reattach(table.clone()),
            Order::Freeze(set.clone()),
            Order::Settle(set.clone()),
            Order::Record(set.clone()),
            Order::Clean(set.clone()),
            Order::Release(set.clone()),
            Order::Attest {
                table: table.clone(),
                set,
                record: packed.clone(),
            },
            Order::Restart,
            Order::Witness(witness.clone()),
            Order::Attach {
                table: table.clone(),
                witness: witness.clone(),
                record: packed.clone(),
                manifest: Some(packed.clone()),
            },
            restore(Role::Reference),
            restore(Role::Follower {
                record: packed.clone(),
                before: vec![packed],
            }),
            Order::Clear(table.clone()),
            Order::Finish(table),
        ]
    }

    #[test]
    fn every_order_crosses_the_wire_unchanged() {
        for order in orders() {
            let command = Command {
                migration: "m1".parse().unwrap(),
                attempt: 7,
                order,
            };
            assert_eq!(Command::try_from(v1::Command::from(command.clone())).unwrap(), command);
        }
    }

    #[test]
    fn a_path_that_is_none_is_refused() {
        let mut wire = v1::Command::from(Command {
            migration: "m1".parse().unwrap(),
            attempt: 1,
            order: orders().remove(6),
        });
        if let Some(command::Order::Clean(set)) = &mut wire.order {
            set.zookeeper_path = "/".into();
        }
        assert_eq!(Command::try_from(wire).unwrap_err().field, "zookeeper_path");
    }
}
