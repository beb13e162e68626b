//! The ZooKeeper module against a real ZooKeeper.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not see as tests"
)]

mod delete;
mod dropped;
mod fence;
mod flood;
mod foreign;
mod freeze;
mod interrupted;
mod places;
mod reading;
mod scale;
#[path = "../support/mod.rs"]
mod support;
mod versions;

use rekeeper_agent::zookeeper::{Access, CleanError, ZooKeeper};
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::step::SetRef;
use rekeeper_shared::domain::unsettled::Allowed;
use support::server;
use support::table::{client, make};
use zookeeper_client::{Acls, Client, CreateMode};

pub(crate) fn migration() -> MigrationName {
    "move-1".parse().unwrap()
}

pub(crate) fn place(port: u16) -> Place {
    Place {
        ensemble: "default".into(),
        nodes: vec![format!("127.0.0.1:{port}")],
        secure: false,
        chroot: String::new(),
    }
}

/// A session through a proxy, which the set's place then names as well.
pub(crate) async fn through(port: u16) -> ZooKeeper {
    ZooKeeper::connect(&place(port), &Access::default()).await.unwrap()
}

pub(crate) fn set(zookeeper: &ZooKeeper, path: &str, replicas: &[&str]) -> SetRef {
    SetRef {
        place: zookeeper.place().clone(),
        path: ZkPath::parse(path).unwrap(),
        replicas: replicas.iter().map(|r| (*r).to_owned()).collect(),
        allowed: Allowed::default(),
        recorded: true,
    }
}

/// The same, and whatever else is below the path may go with it.
pub(crate) fn with_all_below(set: SetRef) -> SetRef {
    let allowed = Allowed {
        foreign_nodes: true,
        ..set.allowed
    };
    SetRef { allowed, ..set }
}

pub(crate) async fn delete(zookeeper: &ZooKeeper, path: &str, attempt: u64) -> Result<u64, CleanError> {
    let set = set(zookeeper, path, &["r1", "r2"]);
    zookeeper.delete(&set, &migration(), attempt, &|_| {}).await
}

pub(crate) async fn fence(zookeeper: &ZooKeeper, path: &str, attempt: u64) -> Result<(), CleanError> {
    zookeeper
        .fence(&set(zookeeper, path, &["r1", "r2"]), &migration(), attempt)
        .await
}

pub(crate) async fn release(zookeeper: &ZooKeeper, path: &str, attempt: u64) -> Result<(), CleanError> {
    zookeeper
        .release(&set(zookeeper, path, &["r1", "r2"]), &migration(), attempt)
        .await
}

pub(crate) async fn exists(client: &Client, path: &str) -> bool {
    client.check_stat(path).await.unwrap().is_some()
}

pub(crate) async fn activate(client: &Client, path: &str, replica: &str) {
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let node = format!("{path}/replicas/{replica}/is_active");
    client.create(&node, b"UUID_'0'", &options).await.unwrap();
}

/// A direct client, a session of the module, and a table of two replicas that lies at `path`.
pub(crate) async fn start(path: &str) -> (Client, ZooKeeper) {
    let port = server::port();
    let direct = client().await;
    make(&direct, path, &["r1", "r2"], 3).await;
    (direct, through(port).await)
}
