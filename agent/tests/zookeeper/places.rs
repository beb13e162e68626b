//! Places: roots, sessions, witnesses.

use std::path::Path;
use std::time::{Duration, Instant};

use rekeeper_agent::zookeeper::{
    Access, CleanError, Connections, Ensembles, Outcome, WitnessFound, ZkError, ZooKeeper,
};
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::step::Witness;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::proxy::{Fault, Proxy};
use crate::support::server;
use crate::{delete, exists, fence, place, start, through};

#[tokio::test]
async fn a_root_that_is_missing_is_said_and_one_that_is_there_is_entered() {
    let (direct, _) = start("/chroot/deep/t").await;
    let config = |root: &str| {
        format!(
            "<clickhouse><zookeeper><node><host>127.0.0.1</host><port>{}</port></node><root>{root}</root></zookeeper>\
             </clickhouse>",
            server::port()
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.xml");
    std::fs::write(&file, config("/chroot/deep")).unwrap();
    let ensembles = Ensembles::read(&file).unwrap();
    let there = ensembles.place("default").unwrap();
    let zookeeper = ZooKeeper::connect(&there, &ensembles.access(&there)).await.unwrap();
    fence(&zookeeper, "/t", 1).await.unwrap();
    delete(&zookeeper, "/t", 2).await.unwrap();
    assert!(!exists(&direct, "/chroot/deep/t").await && exists(&direct, "/chroot/deep").await);

    std::fs::write(&file, config("/chroot/nowhere")).unwrap();
    let nowhere = Ensembles::read(&file).unwrap().place("default").unwrap();
    let error = ZooKeeper::connect(&nowhere, &Access::default()).await.unwrap_err();
    assert!(matches!(error, ZkError::NoChroot { .. }));
    assert!(error.to_string().contains("the root /chroot/nowhere of"));
    assert!(Ensembles::read(Path::new("/no/such/config.xml")).is_err());
}

/// ClickHouse Keeper's `<keeper_server><password>`, at each handshake: KeeperTCPHandler.cpp, `receiveHandshake`.
#[tokio::test]
async fn a_keeper_that_demands_a_password_gets_it_and_another_is_said() {
    if server::is_keeper("the test has a stand-in of its own, in front of ZooKeeper") {
        return;
    }
    let keeper = demanding(*b"secret\0\0\0\0\0\0\0\0\0\0").await;
    let config = |password: &str| {
        format!(
            "<clickhouse><zookeeper><node><host>127.0.0.1</host><port>{keeper}</port></node>{password}</zookeeper>\
             </clickhouse>"
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.xml");
    for (password, enters) in [
        ("<password>secret</password>", true),
        ("<password>Secret</password>", false),
        ("", false),
    ] {
        std::fs::write(&file, config(password)).unwrap();
        let ensembles = Ensembles::read(&file).unwrap();
        let place = ensembles.place("default").unwrap();
        let connected = ZooKeeper::connect(&place, &ensembles.access(&place)).await;
        match connected {
            Ok(_) => assert!(enters, "entered with {password:?}"),
            Err(error) => {
                let text = error.to_string();
                assert!(
                    !enters && text.contains("<password>") && !text.contains("ecret"),
                    "{text}"
                );
            }
        }
    }
}

/// A port that passes those on to ZooKeeper that shake hands with the password, and ends the others' connections.
async fn demanding(password: [u8; 16]) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Length, version, transaction, timeout, session, and the length of the password before it; then one byte.
                let mut handshake = [0; 49];
                let read = client.read_exact(&mut handshake).await;
                if read.is_err() || handshake[32..48] != password {
                    return;
                }
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", server::port()))
                    .await
                    .unwrap();
                server.write_all(&handshake).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

/// At a follower of ClickHouse Keeper only pings and writes keep a session alive: ClickHouse #111102.
#[tokio::test]
async fn a_session_that_only_reads_lives() {
    let access = Access {
        session_timeout: Duration::from_secs(1),
        ..Access::default()
    };
    let zookeeper = ZooKeeper::connect(&place(follower().await), &access).await.unwrap();
    let (path, begun) = (ZkPath::parse("/nothing/here").unwrap(), Instant::now());
    while begun.elapsed() < 2 * UNHEARD {
        assert!(zookeeper.path_absent(&path).await.unwrap());
    }
}

/// When a follower ends the connection of a session of which its leader hears nothing.
const UNHEARD: Duration = Duration::from_secs(3);

/// A port that passes on to ZooKeeper, and ends a connection on which there was no ping for long.
async fn follower() -> u16 {
    const PING: [u8; 4] = 11_i32.to_be_bytes();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", server::port()))
                    .await
                    .unwrap();
                let ((mut asked, mut answer), (mut answers, mut ask)) = (client.into_split(), server.into_split());
                let back = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut answer).await });
                let mut heard = Instant::now();
                while let Ok(length) = asked.read_u32().await
                    && heard.elapsed() < UNHEARD
                {
                    let mut frame = vec![0; usize::try_from(length).unwrap()];
                    if asked.read_exact(&mut frame).await.is_err() {
                        break;
                    }
                    if frame[4..8] == PING {
                        heard = Instant::now();
                    }
                    ask.write_u32(length).await.unwrap();
                    ask.write_all(&frame).await.unwrap();
                }
                back.abort();
            });
        }
    });
    port
}

#[tokio::test]
async fn an_ensemble_that_does_not_answer_or_speaks_no_tls_is_said_soon() {
    if server::is_keeper("one whose port speaks no TLS ends the connection otherwise") {
        return;
    }
    let nowhere = place(1);
    let begun = Instant::now();
    let error = ZooKeeper::connect(&nowhere, &Access::default()).await.unwrap_err();
    assert!(error.may_pass() && error.outcome() == Outcome::NotApplied, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(11));
    let mut plain = place(server::port());
    plain.secure = true;
    let error = ZooKeeper::connect(&plain, &Access::default()).await.unwrap_err();
    assert!(error.to_string().contains("is this its port for TLS?"), "{error}");
}

#[tokio::test]
async fn a_session_is_shared_until_it_ends_and_nothing_is_sent_while_it_is_cut() {
    let (_, _) = start("/pool/t").await;
    let proxy = Proxy::start(server::port(), Fault::CrashBefore(1)).await;
    let access = Access {
        session_timeout: Duration::from_secs(1),
        ..Access::default()
    };
    let connections = Connections::new();
    let place = place(proxy.port);
    let first = connections.get(&place, &access).await.unwrap();
    let path = ZkPath::parse("/pool/t").unwrap();
    assert!(!first.path_absent(&path).await.unwrap());
    let error = fence(&first, "/pool/t", 1).await.unwrap_err();
    let CleanError::ZooKeeper(error) = error else {
        panic!("{error}")
    };
    assert!(error.may_pass(), "{error}");
    assert!(first.path_absent(&path).await.is_err());
    assert!(first.is_ended());
    // The proxy accepts nobody any more: the pool tries anew instead of handing out the dead session.
    assert!(matches!(
        connections.get(&place, &access).await,
        Err(ZkError::Unreachable { .. })
    ));
}

/// As when it elects another leader, or is restarted.
#[tokio::test]
async fn an_ensemble_that_is_away_is_waited_for() {
    let away = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = away.local_addr().unwrap();
    drop(away);
    let (connections, place) = (Connections::new(), place(address.port()));
    let access = Access {
        session_timeout: Duration::from_secs(20),
        ..Access::default()
    };
    // An inspection tells at once.
    assert!(matches!(
        connections.get(&place, &access).await,
        Err(ZkError::Unreachable { .. })
    ));
    let back = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(("127.0.0.1", server::port()))
                .await
                .unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    };
    let zookeeper = tokio::select! {
        connected = connections.get_patiently(&place, &access) => connected.unwrap(),
        () = back => panic!("it listens no more"),
    };
    assert!(!zookeeper.is_ended());
}

#[tokio::test]
async fn a_witness_proves_a_place() {
    let zookeeper = through(server::port()).await;
    let mut witness = Witness {
        ensemble: "default".into(),
        path: ZkPath::parse("/witness/t").unwrap(),
        node: "rekeeper-witness-move-1-0".into(),
        content: "nonce".into(),
        replicas: vec![],
    };
    assert_eq!(zookeeper.read_witness(&witness).await.unwrap(), WitnessFound::Absent);
    for _ in 0..2 {
        zookeeper.write_witness(&witness).await.unwrap();
        assert_eq!(zookeeper.read_witness(&witness).await.unwrap(), WitnessFound::Matches);
    }
    witness.content = "another".into();
    let found = zookeeper.read_witness(&witness).await.unwrap();
    assert_eq!(found, WitnessFound::Differs { found: "nonce".into() });
    zookeeper.write_witness(&witness).await.unwrap();
    assert_eq!(zookeeper.read_witness(&witness).await.unwrap(), WitnessFound::Matches);
    for _ in 0..2 {
        zookeeper.remove_witness(&witness).await.unwrap();
        assert_eq!(zookeeper.read_witness(&witness).await.unwrap(), WitnessFound::Absent);
    }
    for node in ["clickhouse", "rekeeper-a/b"] {
        witness.node = node.into();
        assert!(zookeeper.write_witness(&witness).await.is_err(), "{node}");
    }
    assert!(zookeeper.path_absent(&witness.path).await.unwrap());
}
