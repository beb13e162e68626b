//! `rekeeper-agent znodes`, the real program, on exports that a record made.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rekeeper_shared::domain::document::digest;
use zookeeper_client::{Acls, Client, CreateMode};

use super::export::files;
use super::support::server;
use super::support::table::{PART, put, put_all, tree};
use super::{Agent, names, recorded, table, write_config};

struct Exported {
    agent: Agent,
    zookeeper: Client,
    path: String,
    file: PathBuf,
    nodes: usize,
}

/// A table of more nodes than are put back at a time, one of them ephemeral, exported.
async fn exported(name: &str) -> Exported {
    let (agent, path) = (Agent::start(), format!("/znodes/{name}"));
    let zookeeper = table(&path).await;
    let many = (0..1_200).map(|n| (format!("{path}/blocks/0_{n}"), format!("{n}").into_bytes()));
    put_all(&zookeeper, many.collect()).await;
    let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    zookeeper
        .create(&format!("{path}/temp/lock"), b"", &ephemeral)
        .await
        .unwrap();
    recorded(&agent.attempt(1), &path).await;
    let file = files(&agent).pop().unwrap();
    let yaml = "coordinator: http://127.0.0.1:1\ninsecure: true\nhost: ch-1\nstate_dir: state\n\
                clickhouse: {url: 'http://127.0.0.1:1', config: config.xml}\n";
    std::fs::write(agent.folder.path().join("agent.yaml"), yaml).unwrap();
    let nodes = names(&zookeeper, &path).await.len();
    Exported {
        agent,
        zookeeper,
        path,
        file,
        nodes,
    }
}

struct Answer {
    code: i32,
    out: String,
    err: String,
}

fn run(arguments: &[&str]) -> Answer {
    let mut program = Command::new(env!("CARGO_BIN_EXE_rekeeper-agent"));
    let output = program.args(arguments).stdin(Stdio::null()).output().unwrap();
    Answer {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Exported {
    fn znodes(&self, more: &[&str]) -> Answer {
        run(&[&["znodes", self.file.to_str().unwrap()], more].concat())
    }

    fn put_back(&self, at: &str, more: &[&str]) -> Answer {
        let config = self.agent.folder.path().join("agent.yaml");
        let put_back = ["--put-back-at", at, "--config", config.to_str().unwrap()];
        self.znodes(&[&put_back, more].concat())
    }
}

#[tokio::test]
async fn it_lists_and_verifies() {
    let export = exported("listed").await;
    let listed = export.znodes(&[]);
    assert_eq!(listed.code, 0, "{}", listed.err);
    assert_eq!(listed.out.lines().count(), export.nodes + 1);
    let part = format!(
        "{:>9}  {:>7}  {}/replicas/r1/parts/all_0_0_0",
        PART.len(),
        0,
        export.path
    );
    assert!(listed.out.lines().any(|line| line == part), "{}", listed.out);
    assert!(
        listed
            .err
            .contains(&format!("znodes of {} (ensemble default", export.path))
    );
    assert!(listed.err.contains(&format!("{} znodes", export.nodes)) && listed.err.contains("whole"));

    let json = export.znodes(&["-o", "json"]);
    let lines = json
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let lines: Vec<_> = lines.collect();
    assert_eq!((json.code, lines.len()), (0, export.nodes));
    let log = lines
        .iter()
        .find(|node| node["path"] == format!("{}/blocks/0_1199", export.path))
        .unwrap();
    assert_eq!(
        (log["text"].as_str(), log["size"].as_u64(), log["version"].as_i64()),
        (Some("1199"), Some(4), Some(0))
    );
    assert_eq!(log["acl"][0], "world:anyone:cdrwa");

    let verified = export.znodes(&["--verify"]);
    assert_eq!((verified.code, verified.err.as_str()), (0, ""));
    assert!(verified.out.contains("whole, sha256"), "{}", verified.out);
    let json: serde_json::Value = serde_json::from_str(&export.znodes(&["--verify", "-o", "json"]).out).unwrap();
    assert_eq!(
        (json["header"]["migration"].as_str(), json["sum"]["nodes"].as_u64()),
        (Some("m"), Some(export.nodes as u64))
    );
}

#[tokio::test]
async fn what_is_damaged_is_said_and_never_put_back() {
    let export = exported("damaged").await;
    let whole = std::fs::read(&export.file).unwrap();
    std::fs::write(&export.file, &whole[..whole.len() - 9]).unwrap();
    for answer in [
        export.znodes(&["--verify"]),
        export.znodes(&[]),
        export.znodes(&["-o", "json"]),
        export.put_back("/inspect/damaged", &[]),
    ] {
        assert_eq!(answer.code, 1, "{}", answer.err);
        assert!(answer.err.contains("is no whole export of znodes"), "{}", answer.err);
    }
    assert!(export.zookeeper.check_stat("/inspect/damaged").await.unwrap().is_none());
    let missing = run(&["znodes", "/no/such.znodes", "--verify"]);
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("cannot be read: No such file"), "{}", missing.err);
}

#[tokio::test]
async fn nodes_are_put_back_at_another_path() {
    let export = exported("back").await;
    let contents = |nodes: std::collections::BTreeMap<String, (Vec<u8>, i64)>, path: &str| {
        let below = |(node, (data, _)): (String, (Vec<u8>, i64))| (node.strip_prefix(path).unwrap().to_owned(), data);
        nodes.into_iter().map(below).collect::<Vec<_>>()
    };
    let before = contents(tree(&export.zookeeper, &export.path).await, &export.path);
    let answer = export.put_back("/inspect/deep/back", &[]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(
        answer
            .out
            .contains("1 of them were ephemeral and are persistent now: /inspect/deep/back/temp/lock")
    );
    assert!(
        answer.out.contains("zkCli.sh deleteall /inspect/deep/back"),
        "{}",
        answer.out
    );
    let after = tree(&export.zookeeper, "/inspect/deep/back").await;
    assert_eq!(contents(after, "/inspect/deep/back"), before);
    let (_, stat) = export.zookeeper.get_data("/inspect/deep/back/temp/lock").await.unwrap();
    assert_eq!(stat.ephemeral_owner, 0);

    // Below the root that the server is configured for now.
    put(&export.zookeeper, "/new-root-of-znodes", b"").await;
    write_config(export.agent.folder.path(), server::port(), "/new-root-of-znodes");
    let answer = export.put_back("/i", &["-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(
        (json["path"].as_str(), json["were_ephemeral"][0].as_str()),
        (Some("/i"), Some("/i/temp/lock"))
    );
    assert_eq!(
        names(&export.zookeeper, "/new-root-of-znodes/i").await.len(),
        export.nodes
    );
}

#[tokio::test]
async fn nodes_are_never_put_back_where_a_table_is_or_anything_else() {
    let export = exported("refused").await;
    put(&export.zookeeper, "/inspect/there", b"precious").await;
    let below = format!("{}/below", export.path);
    // What the agent notes of a table of its host; nothing is at its path now.
    let known = r#"[{"name": {"database": "d", "table": "other"}, "uuid": "u", "path": "/tables/other",
                     "replica_name": "r1", "place": null}]"#;
    let sum = digest(format!("known-tables.json\n{known}").as_bytes());
    let known = format!("rekeeper note 1 {sum}\n{known}\n");
    std::fs::write(export.agent.folder.path().join("state/known-tables.json"), known).unwrap();
    let before = tree(&export.zookeeper, "/znodes/refused").await;
    for (at, says) in [
        (export.path.as_str(), "is the path that the znodes are from"),
        (&below, "lies above or below it"),
        ("/znodes", "lies above or below it"),
        ("/inspect/there", "exists: choose a path"),
        ("/tables/other", "the table d.other of this host"),
        ("/tables/other/x", "the table d.other of this host"),
        ("relative", "is not a usable ZooKeeper path"),
        ("/", "is not a usable ZooKeeper path"),
    ] {
        let answer = export.put_back(at, &[]);
        assert_eq!(answer.code, 2, "{at}: {}", answer.err);
        assert!(answer.err.contains(says), "{at}: {}", answer.err);
    }
    // Under another root the path is that of the table, which may be there, or is to be.
    put(&export.zookeeper, "/other-root-of-znodes", b"").await;
    write_config(export.agent.folder.path(), server::port(), "/other-root-of-znodes");
    let answer = export.put_back(&export.path, &[]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert_eq!(tree(&export.zookeeper, "/znodes/refused").await, before);
    assert_eq!(names(&export.zookeeper, "/other-root-of-znodes").await.len(), 1);
    assert_eq!(names(&export.zookeeper, "/inspect/there").await.len(), 1);
    let without = export.znodes(&["--put-back-at", "/inspect/x"]);
    assert_eq!(without.code, 2, "{}", without.err);
    assert_eq!(run(&[]).code, 2);
}
