//! What is in a file before the first node of a set is deleted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rekeeper_agent::export::Reader;
use rekeeper_agent::steps::Context;
use rekeeper_agent::steps::set::{clean, record, release};
use rekeeper_agent::zookeeper::ZNode;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Exported, Failure};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use super::support::proxy::{Fault, Proxy};
use super::support::server;
use super::support::table::{make, put, put_all, tree};
use super::{Agent, names, recorded, set, table, write_config};

/// The exports, whole or not, that a host has.
pub(super) fn files(agent: &Agent) -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir(agent.folder.path().join("state/migrations/m")) else {
        return Vec::new();
    };
    let files = folder.map(|entry| entry.unwrap().path());
    files
        .filter(|file| file.display().to_string().contains(".znodes"))
        .collect()
}

fn read(file: &Path) -> BTreeMap<String, ZNode> {
    let mut reader = Reader::open(file).unwrap();
    let mut found = BTreeMap::new();
    while let Some(node) = reader.node().unwrap() {
        found.insert(node.path.clone(), node);
    }
    found
}

async fn cleaned(context: &Context, path: &str) -> Result<(u64, Option<Exported>), Failure> {
    match clean(context, &set(path, true)).await?.done {
        Done::Cleaned { znodes, export } => Ok((znodes, export)),
        other => panic!("{other:?}"),
    }
}

/// Leaves the right to read a node to this client alone, or gives it back to everybody.
async fn let_read(zookeeper: &Client, node: &str, allowed: bool) {
    zookeeper.auth("digest", b"tests:secret").await.unwrap();
    let all = Acl::new(Permission::ALL, AuthId::anyone());
    let but_read = Permission::CREATE | Permission::DELETE | Permission::ADMIN;
    let hidden = [
        Acl::new(but_read, AuthId::anyone()),
        Acl::new(Permission::ALL, AuthId::authed()),
    ];
    let acls = if allowed { &[all][..] } else { &hidden[..] };
    zookeeper.set_acl(node, acls, None).await.unwrap();
}

#[tokio::test]
async fn every_node_is_in_a_file_before_the_first_is_deleted() {
    let (agent, path) = (Agent::start(), "/exports/whole");
    let zookeeper = table(path).await;
    let many = (0..3_000).map(|n| (format!("{path}/blocks/0_{n}"), format!("{n}").into_bytes()));
    put_all(&zookeeper, many.collect()).await;
    let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let lock = format!("{path}/temp/lock");
    zookeeper.create(&lock, b"", &ephemeral).await.unwrap();
    recorded(&agent.attempt(1), path).await;
    let before = tree(&zookeeper, path).await;

    let (_, export) = cleaned(&agent.attempt(2), path).await.unwrap();
    let export = export.unwrap();
    let file = PathBuf::from(&export.file);
    assert_eq!(files(&agent), std::slice::from_ref(&file));
    assert!(file.display().to_string().contains("exports_whole."), "{file:?}");
    let found = read(&file);
    let contents = found
        .iter()
        .map(|(path, node)| (path.clone(), (node.data.clone(), node.mzxid)));
    // The marker is that of the attempt that exported.
    assert_eq!(contents.collect::<BTreeMap<_, _>>(), before);
    assert_eq!(
        (export.nodes, export.bytes),
        (before.len() as u64, file.metadata().unwrap().len())
    );
    assert_ne!(found[&lock].ephemeral_owner, 0);
    assert_eq!(found[path].acl, ["world:anyone:cdrwa"]);
    let header = Reader::open(&file).unwrap().header().clone();
    assert_eq!((header.path.as_str(), header.attempt), (path, 1));
    assert_eq!((header.migration.as_str(), header.host.as_str()), ("m", "ch-1"));
}

#[tokio::test]
async fn a_half_deleted_tree_replaces_no_export() {
    let (agent, path) = (Agent::start(), "/exports/half");
    // The first multis take the marker over and delete the metadata of the replicas.
    for n in [3, 5, 7] {
        let zookeeper = table(path).await;
        recorded(&agent.attempt(n as u64), path).await;
        let file = files(&agent).pop().unwrap();
        let before = std::fs::read(&file).unwrap();
        let proxy = Proxy::start(server::port(), Fault::CrashBefore(n)).await;
        let crashing = Agent::start();
        // Another host, that had not exported it, is the one to begin with the deletion, and crashes.
        let mut through = set(path, true);
        through.place.nodes = vec![format!("127.0.0.1:{}", proxy.port)];
        let context = crashing.attempt(20);
        tokio::select! {
            done = clean(&context, &through) => panic!("{done:?}"),
            () = proxy.reached() => {}
        }
        assert_eq!(files(&crashing).len(), 1, "it has one of its own");
        assert_eq!(read(&files(&crashing)[0]).len(), read(&file).len());
        assert!(
            zookeeper
                .check_stat(&format!("{path}/replicas/r1/metadata"))
                .await
                .unwrap()
                .is_none()
        );

        let (_, export) = cleaned(&agent.attempt(30), path).await.unwrap();
        assert_eq!(export.unwrap().file, file.display().to_string());
        assert_eq!(std::fs::read(&file).unwrap(), before);
        std::fs::remove_file(file).unwrap();
    }
    // A host that has none goes on all the same, and does not make one of what is left.
    let zookeeper = table(path).await;
    recorded(&agent.attempt(40), path).await;
    zookeeper
        .delete(&format!("{path}/replicas/r2/metadata"), None)
        .await
        .unwrap();
    let other = Agent::start();
    let (_, export) = cleaned(&other.attempt(50), path).await.unwrap();
    assert_eq!((export, files(&other).len()), (None, 0));
}

#[tokio::test]
async fn a_set_that_was_let_go_is_exported_anew() {
    let (agent, path) = (Agent::start(), "/exports/again");
    let zookeeper = table(path).await;
    recorded(&agent.attempt(1), path).await;
    release(&agent.attempt(2), &set(path, true)).await.unwrap();
    put(&zookeeper, &format!("{path}/temp/since"), b"new").await;
    // Recorded by another host, so that this one has only what is not true any more.
    let other = Agent::start();
    recorded(&other.attempt(3), path).await;
    let (_, export) = cleaned(&agent.attempt(4), path).await.unwrap();
    let found = read(Path::new(&export.unwrap().file));
    assert_eq!(found[&format!("{path}/temp/since")].data, b"new");
    assert!(!found.contains_key(&format!("{path}/rekeeper-m-1")));
}

/// Neither Record nor Clean goes on without an export, and nothing is deleted.
#[tokio::test]
async fn what_cannot_be_exported_is_not_deleted() {
    let (agent, path) = (Agent::start(), "/exports/refused");
    let zookeeper = table(path).await;
    let small = |attempt| Context {
        export_limit: 300,
        ..agent.attempt(attempt)
    };
    let is = |failure: Failure, code: Code, says: &[&str]| {
        let text = failure.problem.message;
        assert_eq!((failure.problem.code, failure.retry), (code, false), "{text}");
        assert!(says.iter().all(|says| text.contains(says)), "{text}");
    };
    let too_large = [" bytes, and znodes_export_limit_bytes in agent.yaml", "allows 300"];
    let node = format!("{path}/blocks");
    let unreadable = [&format!("read {node}"), "<identity>"];

    let before = names(&zookeeper, path).await;
    let failure = record(&small(1), &set(path, false)).await.unwrap_err();
    is(failure, Code::ExportTooLarge, &too_large);
    let_read(&zookeeper, &node, false).await;
    let failure = record(&agent.attempt(1), &set(path, false)).await.unwrap_err();
    is(failure, Code::ExportFailed, &unreadable);
    assert_eq!(names(&zookeeper, path).await, before, "it is let go again");

    let_read(&zookeeper, &node, true).await;
    let other = Agent::start();
    recorded(&other.attempt(2), path).await;
    let before = names(&zookeeper, path).await.len();
    let failure = clean(&small(3), &set(path, true)).await.unwrap_err();
    is(failure, Code::ExportTooLarge, &too_large);
    let_read(&zookeeper, &node, false).await;
    let failure = clean(&agent.attempt(4), &set(path, true)).await.unwrap_err();
    is(failure, Code::ExportFailed, &unreadable);
    assert_eq!(names(&zookeeper, path).await.len(), before);
    assert_eq!(files(&agent).len(), 0);
    let_read(&zookeeper, &node, true).await;
    release(&other.attempt(5), &set(path, true)).await.unwrap();
}

/// Deleting a node is a right on its parent, and the plan asks only about some of them.
#[tokio::test]
async fn nodes_that_may_not_be_deleted_are_named_before_the_first_is() {
    let (agent, path) = (Agent::start(), "/exports/protected");
    let zookeeper = table(path).await;
    put(&zookeeper, &format!("{path}/zero_copy_s3/shared/part/lock"), b"").await;
    let before = names(&zookeeper, path).await;
    let node = format!("{path}/zero_copy_s3/shared/part");
    let but_delete = Permission::READ | Permission::CREATE | Permission::ADMIN;
    let acls = [Acl::new(but_delete, AuthId::anyone())];
    zookeeper.set_acl(&node, &acls, None).await.unwrap();
    let failure = record(&agent.attempt(1), &set(path, false)).await.unwrap_err();
    let text = failure.problem.message;
    assert_eq!(
        (failure.problem.code, failure.retry),
        (Code::AclDenied, false),
        "{text}"
    );
    assert!(text.contains(&format!("delete what is below {node}:")), "{text}");
    assert_eq!((names(&zookeeper, path).await, files(&agent).len()), (before, 0));
    let acls = [Acl::new(Permission::ALL, AuthId::anyone())];
    zookeeper.set_acl(&node, &acls, None).await.unwrap();
    recorded(&agent.attempt(2), path).await;
    cleaned(&agent.attempt(3), path).await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_written_leaves_the_set_as_it_is() {
    let (agent, path) = (Agent::start(), "/exports/full");
    let zookeeper = table(path).await;
    let before = names(&zookeeper, path).await;
    let file = agent
        .context
        .state
        .export_file(&agent.context.migration, &set(path, true));
    let beside = format!("{}.new", file.unwrap().display());
    // What is written to this device is lost, as on a disk that is full: it is not written through the link.
    std::os::unix::fs::symlink("/dev/full", &beside).unwrap();
    let failure = record(&agent.attempt(1), &set(path, false)).await.unwrap_err();
    let text = failure.problem.message;
    assert_eq!(failure.problem.code, Code::ExportFailed, "{text}");
    assert!(text.contains(".znodes"), "{text}");
    std::fs::remove_file(&beside).unwrap();
    assert_eq!(names(&zookeeper, path).await, before);
    recorded(&agent.attempt(2), path).await;
    cleaned(&agent.attempt(3), path).await.unwrap();
}

#[tokio::test]
async fn a_damaged_export_is_made_anew_as_long_as_nothing_is_deleted() {
    let (agent, path) = (Agent::start(), "/exports/damaged");
    let zookeeper = table(path).await;
    recorded(&agent.attempt(1), path).await;
    let file = files(&agent).pop().unwrap();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let nodes = names(&zookeeper, path).await.len();
    cleaned(&agent.attempt(2), path).await.unwrap();
    assert_eq!(read(&file).len(), nodes);
}

#[tokio::test]
async fn the_place_is_that_of_the_plan_also_with_a_root() {
    let agent = Agent::start();
    let zookeeper = super::client().await;
    make(&zookeeper, "/exports-root/t", &["r1", "r2"], 2).await;
    write_config(agent.folder.path(), server::port(), "/exports-root");
    let mut set = set("/t", false);
    set.place.chroot = "/exports-root".into();
    record(&agent.attempt(1), &set).await.unwrap();
    set.recorded = true;
    clean(&agent.attempt(2), &set).await.unwrap();
    let file = files(&agent).pop().unwrap();
    assert_eq!(Reader::open(&file).unwrap().header().place, set.place);
    assert!(read(&file).contains_key("/t/replicas/r2/metadata"));
    assert!(zookeeper.check_stat("/exports-root/t").await.unwrap().is_none());
}
