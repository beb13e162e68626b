//! One small cluster of the project's test rig, driven from Rust; gone when it is dropped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rekeeper_agent::clickhouse::{Access, ClickHouse, Tag};
use rekeeper_agent::rules::union::decide;
use rekeeper_agent::state::State;
use rekeeper_agent::steps::{Context, RestartCommand, ServerPlaces};
use rekeeper_agent::zookeeper::{Connections, Ensembles, ZooKeeper};
use rekeeper_shared::domain::document::{Packed, PartSetOfRecord, pack};
use rekeeper_shared::domain::ids::{MigrationName, TableName};
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::step::{SetRef, TableRef, Witness};
use rekeeper_shared::domain::unsettled::Allowed;

/// Holds a cluster and does to its hosts what a line `host method` says, until standard input is closed.
const DRIVER: &str = "
import json, sys
sys.path.insert(0, sys.argv[1])
from rig import Cluster
with Cluster(shards=1, replicas=int(sys.argv[2])) as cluster:
    hosts = [{'name': h.name, 'url': h.url, 'config': str(h.active_config), 'directory': str(h.directory)} for h in cluster.hosts]
    print(json.dumps(hosts), flush=True)
    for line in sys.stdin:
        name, method = line.split()
        getattr(cluster.host(name), method)()
        print('done', flush=True)
";

#[derive(serde::Deserialize, Clone)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) config: PathBuf,
    pub(crate) directory: PathBuf,
}

pub(crate) struct Rig {
    driver: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    python: String,
    pub(crate) hosts: Vec<Host>,
    pub(crate) states: tempfile::TempDir,
    pub(crate) connections: Connections,
}

fn rig_folder() -> PathBuf {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/rig");
    std::env::var_os("REKEEPER_RIG").map_or_else(|| beside.into(), PathBuf::from)
}

impl Rig {
    pub(crate) fn start(replicas: usize) -> Self {
        let folder = rig_folder();
        let setup = Command::new(folder.join("setup.sh"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(setup.status.success(), "the test rig cannot be set up");
        let printed = String::from_utf8(setup.stdout).unwrap();
        let python = printed.lines().last().unwrap().to_owned();
        let mut driver = Command::new(&python)
            .args(["-c", DRIVER])
            .arg(&folder)
            .arg(replicas.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = driver.stdin.take();
        let mut answers = BufReader::new(driver.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let hosts = serde_json::from_str(&line).unwrap();
        Self {
            driver,
            orders,
            answers,
            python,
            hosts,
            states: tempfile::tempdir().unwrap(),
            connections: Connections::new(),
        }
    }

    /// `start`, `stop` or `kill` a host.
    pub(crate) fn order(&mut self, host: usize, method: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{} {method}", self.hosts[host].name).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{method}");
    }

    /// Replaces the fault rules of a host.
    pub(crate) fn faults(&self, host: usize, rules: &str) {
        let file = self.hosts[host].directory.join("faults.json");
        let new = file.with_extension("new");
        std::fs::write(&new, rules).unwrap();
        std::fs::rename(&new, &file).unwrap();
    }

    /// The statements that clients have sent to a host.
    pub(crate) fn statements(&self, host: usize) -> Vec<String> {
        let log = std::fs::read_to_string(self.hosts[host].directory.join("queries.jsonl")).unwrap();
        let records = log
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let starts = records.filter(|record| record["event"] == "start");
        starts
            .map(|record| record["sql"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn restart_command(&self, host: usize) -> RestartCommand {
        let script = rig_folder().join("rig.py").display().to_string();
        let directory = self.hosts[host].directory.display().to_string();
        RestartCommand {
            command: vec![self.python.clone(), script, "restart".into(), directory],
            timeout: Duration::from_secs(60),
        }
    }

    pub(crate) fn access(&self, host: usize) -> Access {
        Access {
            url: self.hosts[host].url.clone(),
            trust: None,
            user: "default".into(),
            password: None,
        }
    }

    /// What an agent of the host works with; its state folder is the same at every call.
    pub(crate) fn context(&self, state: &State, host: usize, attempt: u64) -> Context {
        let migration = migration();
        Context {
            clickhouse: ClickHouse::new(&self.access(host)).tagged(Tag::attempt(&migration, attempt)),
            zookeeper: ServerPlaces::new(self.hosts[host].config.clone(), self.connections.clone()),
            state: state.clone(),
            host: self.hosts[host].name.parse().unwrap(),
            migration,
            attempt,
            export_limit: 1 << 30,
            report: Arc::new(|text| println!("doing: {text}")),
        }
    }

    pub(crate) fn state(&self, host: usize) -> State {
        State::open(&self.states.path().join(&self.hosts[host].name)).unwrap()
    }

    /// Executes a statement as a user would.
    pub(crate) async fn sql(&self, host: usize, sql: &str) {
        let client = clickhouse::Client::default().with_url(&self.hosts[host].url);
        client
            .query_raw(sql)
            .execute()
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// The only value of a query, as a number.
    pub(crate) async fn number(&self, host: usize, sql: &str) -> u64 {
        let client = clickhouse::Client::default().with_url(&self.hosts[host].url);
        let sql = format!("SELECT assumeNotNull(toUInt64(({sql})))");
        client
            .query_raw(&sql)
            .fetch_one()
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// The session that the host's configuration leads to.
    pub(crate) async fn zookeeper(&self, host: usize) -> ZooKeeper {
        let ensembles = Ensembles::read(&self.hosts[host].config).unwrap();
        let place = ensembles.place("default").unwrap();
        self.connections.get(&place, &ensembles.access(&place)).await.unwrap()
    }

    /// What a plan knows of a table of a host.
    pub(crate) async fn table(&self, host: usize, name: &TableName) -> TableRef {
        let client = clickhouse::Client::default().with_url(&self.hosts[host].url);
        let (uuid, path, replica_name): (String, String, String) = client
            .query_raw(
                "SELECT toString(uuid), zookeeper_path, replica_name FROM system.replicas \
                 WHERE database = {d:String} AND table = {t:String}",
            )
            .param("d", &name.database)
            .param("t", &name.table)
            .fetch_one()
            .await
            .unwrap();
        TableRef {
            name: name.clone(),
            uuid,
            path: ZkPath::parse(&path).unwrap(),
            replica_name,
        }
    }

    /// Records and deletes the nodes of a table that is detached everywhere.
    pub(crate) async fn clean(&self, table: &TableRef, replicas: &[&str]) -> Packed {
        let zookeeper = self.zookeeper(0).await;
        let mut set = SetRef {
            place: zookeeper.place().clone(),
            path: table.path.clone(),
            replicas: replicas.iter().map(|name| (*name).to_owned()).collect(),
            allowed: Allowed::default(),
            recorded: false,
        };
        zookeeper.fence(&set, &migration(), 1).await.unwrap();
        let snapshot = zookeeper.snapshot(&table.path).await.unwrap().unwrap();
        set.recorded = true;
        zookeeper.delete(&set, &migration(), 2, &|_| ()).await.unwrap();
        let record = PartSetOfRecord {
            migration: migration(),
            attempt: 1,
            union: decide(&snapshot, &[]).unwrap(),
            snapshot,
        };
        pack(&record).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Its end of the cluster: everything goes.
        drop(self.orders.take());
        let _ = self.driver.wait();
    }
}

pub(crate) fn migration() -> MigrationName {
    "move".parse().unwrap()
}

pub(crate) fn witness(table: &TableRef) -> Witness {
    Witness {
        ensemble: "default".into(),
        path: table.path.clone(),
        node: "rekeeper-move-witness".into(),
        content: "drawn at random".into(),
        replicas: vec![(table.replica_name.clone(), table.uuid.clone())],
    }
}
