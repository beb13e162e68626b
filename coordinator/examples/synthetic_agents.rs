//! Agents of hosts that do not exist, for the benchmark of the coordinator's memory (tests/benches/memory.py): they
//! speak the real protocol, tell of as many tables and parts as they are asked to, and do every step at once.
//!
//!     synthetic_agents http://127.0.0.1:PORT HOSTS TABLES PARTS

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use rekeeper_proto::MAX_MESSAGE_BYTES;
use rekeeper_proto::convert::event::numbered;
use rekeeper_proto::v1::agents_client::AgentsClient;
use rekeeper_proto::v1::{self, from_agent, from_coordinator};
use rekeeper_shared::PROTOCOL_VERSION;
use rekeeper_shared::domain::account::RestoreAccount;
use rekeeper_shared::domain::account::{Account, Fate};
use rekeeper_shared::domain::document::{
    Manifest, ManifestPart, Packed, PartNode, PartSetOfRecord, ReplicaSnapshot, SetSnapshot, digest, pack,
};
use rekeeper_shared::domain::ids::{HostName, MigrationName, TableName};
use rekeeper_shared::domain::inventory::{
    Around, Disk, HostInventory, PartsGroup, PathFacts, ReplicaFacts, TableInventory, ZookeeperFacts,
};
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::step::{
    Command, Done, Event, Hello, Order, Outcome, Restored, SeenToken, SetRef, TableRef,
};
use rekeeper_shared::domain::union::Union;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How large everything is.
#[derive(Debug, Clone, Copy)]
struct Size {
    hosts: usize,
    tables: usize,
    parts: usize,
}

const ROWS: u64 = 1_000;
const BYTES: u64 = 1 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [coordinator, hosts, tables, parts] = arguments.as_slice() else {
        bail!("synthetic_agents COORDINATOR HOSTS TABLES PARTS");
    };
    let size = Size {
        hosts: hosts.parse()?,
        tables: tables.parse()?,
        parts: parts.parse()?,
    };
    let agents = (0..size.hosts).map(|number| tokio::spawn(attend(coordinator.clone(), number, size)));
    for ended in futures::future::join_all(agents).await {
        ended??;
    }
    Ok(())
}

/// One agent, until its stream ends.
async fn attend(coordinator: String, number: usize, size: Size) -> anyhow::Result<()> {
    let agent = Arc::new(Agent {
        host: host(number)?,
        number,
        size,
    });
    let mut client = AgentsClient::connect(coordinator)
        .await?
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (outgoing, messages) = mpsc::channel(64);
    let say = |kind| v1::FromAgent { kind: Some(kind) };
    outgoing
        .send(say(from_agent::Kind::Hello(agent.hello().into())))
        .await?;
    let mut incoming = client.attend(ReceiverStream::new(messages)).await?.into_inner();
    let mut sequence = 0;
    while let Some(message) = incoming.message().await? {
        let answer = match message.kind {
            Some(from_coordinator::Kind::Inspect(inspect)) => from_agent::Kind::Inspected(v1::Inspected {
                request: inspect.request,
                inventory: beside(&agent, |agent| Ok(pack(&agent.inventory()?)?.bytes)).await?,
                error: String::new(),
            }),
            Some(from_coordinator::Kind::Command(command)) => {
                let command = Command::try_from(command)?;
                let (migration, attempt) = (command.migration.clone(), command.attempt);
                let step = Some(command.order.kind());
                let (done, document) = beside(&agent, move |agent| agent.step(&command)).await?;
                sequence += 1;
                let event = Event {
                    migration,
                    attempt,
                    step,
                    outcome: Outcome::Done(done),
                    document,
                };
                from_agent::Kind::Event(numbered(sequence, event))
            }
            _ => continue,
        };
        outgoing.send(say(answer)).await?;
    }
    Ok(())
}

/// Beside the runtime, whose threads answer the coordinator's pings meanwhile.
async fn beside<T: Send + 'static>(
    agent: &Arc<Agent>,
    work: impl FnOnce(&Agent) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let agent = Arc::clone(agent);
    tokio::task::spawn_blocking(move || work(&agent)).await?
}

/// The agent of one host. Every host has a replica of every table.
struct Agent {
    host: HostName,
    number: usize,
    size: Size,
}

impl Agent {
    fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            agent_version: "0".into(),
            host: self.host.clone(),
            server_id: self.host.to_string(),
            clickhouse_version: "26.9.2.1".into(),
            seen: SeenToken::default(),
            attempts: Vec::new(),
            parallel_detach: 8,
            parallel_restore: 16,
        }
    }

    fn inventory(&self) -> anyhow::Result<HostInventory> {
        Ok(HostInventory {
            host: self.host.clone(),
            clickhouse_version: "26.9.2.1".into(),
            can_restart: true,
            tables: (0..self.size.tables)
                .map(|table| self.table(table))
                .collect::<Result<_, _>>()?,
            around: Around {
                disks: vec![Disk {
                    name: "default".into(),
                    free: 1 << 50,
                    unwritable: None,
                }],
                ..Around::default()
            },
        })
    }

    fn table(&self, table: usize) -> anyhow::Result<TableInventory> {
        let definition = digest(b"definition");
        let replicas = (0..self.size.hosts).map(|host| ReplicaFacts {
            name: replica(host),
            active: true,
            definition: definition.clone(),
            other_version: None,
        });
        let parts = self.size.parts as u64;
        Ok(TableInventory {
            name: name(table),
            uuid: format!("00000000-0000-4000-{:04}-{table:012}", self.number),
            engine: "ReplicatedMergeTree".into(),
            database_engine: "Atomic".into(),
            place: Some(place()),
            zookeeper_path: path(table)?.to_string(),
            replica_name: replica(self.number),
            readonly: false,
            exception: String::new(),
            lost_part_count: 0,
            disks: vec!["default".into()],
            parts,
            rows: parts * ROWS,
            bytes: parts * BYTES,
            contents: vec![PartsGroup {
                number: 0,
                hash: table as u64,
                bytes: parts * BYTES,
            }],
            patch_parts: 0,
            collisions: Vec::new(),
            mutations: Vec::new(),
            zero_copy: false,
            bytes_on: vec![("default".into(), parts * BYTES)],
            stuck: Vec::new(),
            not_granted: Vec::new(),
            restart_changes: Vec::new(),
            written_by: Vec::new(),
            zookeeper: ZookeeperFacts::Present(PathFacts {
                czxid: table as i64 + 1,
                ctime: 1,
                definition: definition.clone(),
                replicas: replicas.collect(),
                forbidden: Vec::new(),
                no_admin: false,
                foreign: Vec::new(),
                version: Some(0),
            }),
        })
    }

    /// What comes of a step that is done at once, and its document.
    fn step(&self, command: &Command) -> anyhow::Result<(Done, Option<Packed>)> {
        Ok(match &command.order {
            Order::Settle(_) => (Done::Settled(Vec::new()), None),
            Order::Record(set) => {
                let packed = pack(&self.record(command, set))?;
                let done = Done::Recorded {
                    digest: Some(packed.digest.clone()),
                    unsettled: Vec::new(),
                    order: set.replicas.clone(),
                    one_by_one: false,
                    export: None,
                };
                (done, Some(packed))
            }
            Order::Clean(_) => {
                let znodes = (self.size.hosts * (self.size.parts + 20)) as u64;
                (Done::Cleaned { znodes, export: None }, None)
            }
            Order::Restart => {
                let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
                (Done::Restarted { at }, None)
            }
            Order::Attest { .. } => (Done::Plain, None),
            Order::Attach { table, .. } => {
                let manifest = self.manifest(&command.migration, table);
                let packed = pack(&manifest)?;
                let done = Done::Attached {
                    digest: packed.digest.clone(),
                    parts: manifest.parts.len() as u64,
                    rows: manifest.rows(),
                };
                (done, Some(packed))
            }
            Order::Restore { table, role, .. } => {
                let manifest = self.manifest(&command.migration, table);
                let account = RestoreAccount {
                    migration: command.migration.clone(),
                    host: self.host.clone(),
                    manifest: pack(&manifest)?.digest,
                    reference: matches!(role, rekeeper_shared::domain::step::Role::Reference),
                    account: Account {
                        fates: self.fates(&manifest),
                    },
                    attached_again: Vec::new(),
                    unclear: Vec::new(),
                    set_aside: Vec::new(),
                    folders: Vec::new(),
                };
                let packed = pack(&account)?;
                let done = Done::Restored {
                    counts: Restored {
                        active: manifest.parts.len() as u64,
                        ..Restored::default()
                    },
                    account: packed.digest.clone(),
                };
                (done, Some(packed))
            }
            _ => (Done::Plain, None),
        })
    }

    fn record(&self, command: &Command, set: &SetRef) -> PartSetOfRecord {
        let parts: Vec<PartNode> = (0..self.size.parts)
            .map(|part| PartNode {
                name: part_name(part),
                digest: hash(&set.path, part),
                hash: Some(hash(&set.path, part)),
            })
            .collect();
        let replicas = set.replicas.iter().map(|name| ReplicaSnapshot {
            name: name.clone(),
            active: false,
            lost: false,
            metadata: "metadata format version: 1\n".into(),
            columns: "columns format version: 1\n".into(),
            log_pointer: Some(self.size.parts as i64),
            mutation_pointer: String::new(),
            lost_part_count: 0,
            queue: Vec::new(),
            parts: parts.clone(),
        });
        PartSetOfRecord {
            migration: command.migration.clone(),
            attempt: command.attempt,
            snapshot: SetSnapshot {
                place: set.place.clone(),
                path: set.path.clone(),
                czxid: 1,
                metadata: "metadata format version: 1\n".into(),
                columns: "columns format version: 1\n".into(),
                version: 0,
                log_end: self.size.parts as i64,
                mutations: Vec::new(),
                replicas: replicas.collect(),
            },
            union: Union {
                order: set.replicas.clone(),
                shares: Vec::new(),
            },
        }
    }

    fn manifest(&self, migration: &MigrationName, table: &TableRef) -> Manifest {
        Manifest {
            migration: migration.clone(),
            host: self.host.clone(),
            table: table.name.clone(),
            uuid: table.uuid.clone(),
            replica_name: table.replica_name.clone(),
            parts: (0..self.size.parts)
                .map(|part| ManifestPart {
                    name: part_name(part),
                    partition_id: "all".into(),
                    rows: ROWS,
                    hash: hash(&table.path, part),
                })
                .collect(),
            detached_before: Vec::new(),
            checksums: std::collections::BTreeMap::new(),
            outdated: std::collections::BTreeMap::new(),
            settings: rekeeper_shared::domain::document::FormerSettings::default(),
            version: 0,
        }
    }

    fn fates(&self, manifest: &Manifest) -> Vec<(String, Fate)> {
        let active = |(part, name): (usize, &str)| (name.to_owned(), Fate::Active { name: part_name(part) });
        manifest
            .parts
            .iter()
            .map(|part| &*part.name)
            .enumerate()
            .map(active)
            .collect()
    }
}

fn host(number: usize) -> anyhow::Result<HostName> {
    format!("ch-01-{:02}", number + 1).parse().context("host name")
}

fn replica(number: usize) -> String {
    format!("r{:02}", number + 1)
}

fn name(table: usize) -> TableName {
    TableName::new("shop", format!("orders_{table:05}"))
}

fn path(table: usize) -> anyhow::Result<ZkPath> {
    ZkPath::parse(&format!("/clickhouse/tables/01/shop/orders_{table:05}")).context("path")
}

fn place() -> Place {
    Place {
        ensemble: "default".into(),
        nodes: vec!["zk-1:2181".into(), "zk-2:2181".into(), "zk-3:2181".into()],
        secure: false,
        chroot: String::new(),
    }
}

fn part_name(part: usize) -> String {
    format!("all_{part}_{part}_0")
}

/// A hash as long as ClickHouse's, another one for each part of each table, so that nothing packs better than it would.
fn hash(path: &ZkPath, part: usize) -> String {
    digest(format!("{path} {part}").as_bytes())[..32].to_owned()
}
