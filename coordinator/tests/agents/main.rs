//! The agents' streams, over real connections on loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod driver;
mod evidence;
mod retries;
mod wire;
mod words;

use std::time::{Duration, Instant};

use rekeeper_coordinator::agents::{FromAgents, NotInspected};
use rekeeper_coordinator::limits::Limits;
use rekeeper_proto::convert::event::numbered;
use rekeeper_proto::v1::{self, from_agent, from_coordinator};
use rekeeper_shared::PROTOCOL_VERSION;
use rekeeper_shared::domain::document;
use rekeeper_shared::domain::inventory::{Around, HostInventory};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Command, SeenToken};

use wire::{Agent, Coordinator, cable, command, event, hello, host, say_event, soon};

#[tokio::test]
async fn hello_is_welcomed_events_are_acknowledged_and_goodbye_is_told_from_loss() {
    let mut coordinator = Coordinator::start().await;
    let hello_1 = hello("h1", "s1");
    let mut agent = Agent::connect(coordinator.address, hello_1.clone()).await.unwrap();
    assert_eq!((agent.welcome.token, agent.welcome.run.as_str()), (5, "own"));
    assert_eq!(agent.welcome.message_bytes, Limits::default().message_bytes as u64);
    let connected = coordinator.hear_connected().await;
    assert_eq!((&connected.hello, &connected.ahead), (&hello_1, &None));
    assert_eq!(coordinator.handle.connected(), std::slice::from_ref(&connected));
    let connection = connected.connection;

    assert!(coordinator.handle.send(&host("h1"), connection, command("m")));
    let from_coordinator::Kind::Command(received) = agent.next().await.unwrap() else {
        panic!()
    };
    assert_eq!(Command::try_from(received).unwrap(), command("m"));

    agent
        .say(from_agent::Kind::Doing(v1::Doing {
            migration: "m".into(),
            attempt: 1,
            text: "restarting".into(),
        }))
        .await;
    agent.say(say_event(1, event())).await;
    assert!(matches!(coordinator.hear().await, FromAgents::Doing { text, .. } if text == "restarting"));
    let expected = FromAgents::Event {
        host: host("h1"),
        connection,
        sequence: 1,
        event: event(),
    };
    assert_eq!(coordinator.hear().await, expected);
    coordinator.handle.acknowledge(&host("h1"), connection, 1);
    let acknowledged = from_coordinator::Kind::Acknowledged(v1::Acknowledged { sequence: 1 });
    assert_eq!(agent.next().await.unwrap(), acknowledged);

    agent.say(from_agent::Kind::Goodbye(v1::Goodbye {})).await;
    assert_eq!(coordinator.hear_gone().await, (connection, true));
    assert!(!coordinator.handle.send(&host("h1"), connection, command("m")));
    assert_eq!(coordinator.handle.connected(), []);

    let (agent, connection) = coordinator.agent(hello("h1", "s1")).await;
    drop(agent);
    assert_eq!(coordinator.hear_gone().await, (connection, false));
}

#[tokio::test]
async fn an_agent_that_connects_again_replaces_its_old_connection() {
    let mut coordinator = Coordinator::start().await;
    let (mut old, first) = coordinator.agent(hello("h1", "s1")).await;
    // Its server is down now, so that it does not know which one it is.
    let mut new = Agent::connect(coordinator.address, hello("h1", "")).await.unwrap();
    assert_eq!(coordinator.hear_gone().await, (first, false));
    let second = coordinator.hear_connected().await.connection;
    assert!(second > first);
    assert_eq!(old.refused().await.code(), tonic::Code::Aborted);
    assert!(!coordinator.handle.send(&host("h1"), first, command("old")));
    coordinator.handle.acknowledge(&host("h1"), first, 1);
    assert!(coordinator.handle.send(&host("h1"), second, command("new")));
    let from_coordinator::Kind::Command(received) = new.next().await.unwrap() else {
        panic!()
    };
    assert_eq!(received.migration, "new");
    assert_eq!(coordinator.handle.connected().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_host_a_connection_is_over_before_the_next_is_told_of() {
    let mut coordinator = Coordinator::start().await;
    let (mut agent, mut last) = coordinator.agent(hello("h1", "s1")).await;
    for _ in 0..200 {
        agent.say(say_event(1, event())).await;
        let new = Agent::connect(coordinator.address, hello("h1", "s1")).await.unwrap();
        let gone = match coordinator.hear().await {
            FromAgents::Event { connection, .. } => {
                assert_eq!(connection, last);
                coordinator.hear_gone().await
            }
            FromAgents::Gone {
                connection, goodbye, ..
            } => (connection, goodbye),
            other => panic!("{other:?}"),
        };
        assert_eq!(gone, (last, false));
        last = coordinator.hear_connected().await.connection;
        agent = new;
    }
}

#[tokio::test]
async fn two_agents_of_one_server_or_one_name_are_refused_and_noted() {
    let mut coordinator = Coordinator::start().await;
    let (_agent, connection) = coordinator.agent(hello("h1", "s1")).await;
    for (other, word) in [
        (hello("h1", "s2"), "under the host name h1"),
        (hello("h2", "s1"), "under the host name h1"),
    ] {
        let refused = Agent::connect(coordinator.address, other.clone()).await.err().unwrap();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains(word), "{refused}");
        let noted = coordinator.handle.refused();
        let note = noted.iter().find(|refused| refused.host == other.host).unwrap();
        assert_eq!(
            (note.code, note.message.as_str()),
            (Some(Code::AgentDuplicate), refused.message())
        );
    }
    assert!(
        coordinator.handle.send(&host("h1"), connection, command("m")),
        "the first one is left alone"
    );
    // The name is free again for the right server.
    let (_agent, _) = coordinator.agent(hello("h2", "s2")).await;
    let noted: Vec<_> = coordinator
        .handle
        .refused()
        .into_iter()
        .map(|refused| refused.host)
        .collect();
    assert_eq!(noted, [host("h1")]);
}

#[tokio::test]
async fn another_protocol_is_refused_and_noted() {
    let coordinator = Coordinator::start().await;
    let mut other = hello("h1", "s1");
    other.protocol = PROTOCOL_VERSION + 1;
    let refused = Agent::connect(coordinator.address, other).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("install the same release"), "{refused}");
    assert_eq!(coordinator.handle.refused()[0].code, Some(Code::AgentProtocol));

    let goodbye = from_agent::Kind::Goodbye(v1::Goodbye {});
    let refused = Agent::begin(coordinator.address, goodbye).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let mut nameless: v1::Hello = hello("h1", "s1").into();
    nameless.host = "../h1".into();
    let refused = Agent::begin(coordinator.address, from_agent::Kind::Hello(nameless))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("field host"), "{refused}");
}

#[tokio::test]
async fn nothing_is_ordered_of_an_agent_that_has_seen_more() {
    let mut coordinator = Coordinator::start().await;
    let cases = [
        (6, "other", true),
        (5, "other", true),
        (5, "own", false),
        (4, "other", true),
        (4, "mine", false),
        // Of before runs were noted.
        (3, "other", false),
    ];
    for (token, run, is_ahead) in cases {
        let mut seen = hello("h1", "s1");
        seen.seen = SeenToken { token, run: run.into() };
        let agent = Agent::connect(coordinator.address, seen).await.unwrap();
        let connected = coordinator.hear_connected().await;
        assert_eq!(
            connected.ahead.is_some(),
            is_ahead,
            "{token} {run}: {:?}",
            connected.ahead
        );
        let sent = coordinator.handle.send(&host("h1"), connected.connection, command("m"));
        assert_eq!(sent, !is_ahead);
        drop(agent);
        coordinator.hear_gone().await;
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_understood_ends_the_stream_and_names_the_field() {
    let mut coordinator = Coordinator::start().await;
    let mut without_outcome = numbered(1, event());
    without_outcome.outcome = None;
    let cases = [
        (from_agent::Kind::Event(without_outcome), "field outcome"),
        (say_event(0, event()), "field sequence"),
        (from_agent::Kind::Hello(hello("h1", "s1").into()), "hello"),
    ];
    for (bad, word) in cases {
        let (mut agent, connection) = coordinator.agent(hello("h1", "s1")).await;
        agent.say(bad).await;
        let refused = agent.refused().await;
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(word), "{refused}");
        assert_eq!(coordinator.hear_gone().await, (connection, false));
    }
}

#[tokio::test]
async fn an_inventory_of_another_host_ends_the_stream() {
    let mut coordinator = Coordinator::start().await;
    let (mut agent, connection) = coordinator.agent(hello("h1", "s1")).await;
    let _asked = coordinator.handle.inspect(&host("h1"));
    let from_coordinator::Kind::Inspect(v1::Inspect { request }) = agent.next().await.unwrap() else {
        panic!()
    };
    let foreign = HostInventory {
        host: host("h2"),
        clickhouse_version: String::new(),
        can_restart: true,
        tables: vec![],
        around: Around::default(),
    };
    let (inventory, error) = (document::pack(&foreign).unwrap().bytes, String::new());
    agent
        .say(from_agent::Kind::Inspected(v1::Inspected {
            request,
            inventory,
            error,
        }))
        .await;
    let refused = agent.refused().await;
    assert!(refused.message().contains("field inventory.host"), "{refused}");
    assert_eq!(coordinator.hear_gone().await, (connection, false));
}

#[tokio::test]
async fn a_connection_can_be_refused_later() {
    let mut coordinator = Coordinator::start().await;
    let (mut agent, connection) = coordinator.agent(hello("h1", "s1")).await;
    coordinator
        .handle
        .refuse(&host("h1"), connection, "it has seen attempt 9");
    let refused = agent.refused().await;
    assert_eq!(
        (refused.code(), refused.message()),
        (tonic::Code::FailedPrecondition, "it has seen attempt 9")
    );
    assert_eq!(coordinator.hear_gone().await, (connection, false));
}

#[tokio::test]
async fn hosts_are_inspected() {
    let mut coordinator = Coordinator::start().await;
    let (mut agent, _) = coordinator.agent(hello("h1", "s1")).await;
    let inventory = HostInventory {
        host: host("h1"),
        clickhouse_version: "26.9".into(),
        can_restart: true,
        tables: vec![],
        around: Around::default(),
    };
    let answers = [
        (document::pack(&inventory).unwrap().bytes, "", Ok(inventory.clone())),
        (
            vec![],
            "no right to read",
            Err(NotInspected::Failed("no right to read".into())),
        ),
    ];
    for (packed, error, expected) in answers {
        let asked = coordinator.handle.inspect(&host("h1"));
        let from_coordinator::Kind::Inspect(inspect) = agent.next().await.unwrap() else {
            panic!()
        };
        agent
            .say(from_agent::Kind::Inspected(v1::Inspected {
                request: inspect.request,
                inventory: packed,
                error: error.into(),
            }))
            .await;
        assert_eq!(soon(asked).await, expected);
    }
    let asked = coordinator.handle.inspect(&host("h1"));
    drop(agent);
    assert_eq!(soon(asked).await, Err(NotInspected::Lost(host("h1"))));
    let nobody = coordinator.handle.inspect(&host("h9"));
    assert_eq!(soon(nobody).await, Err(NotInspected::NotConnected(host("h9"))));
}

#[tokio::test]
async fn an_agent_that_does_not_read_loses_its_connection_and_holds_nobody_up() {
    let mut coordinator = Coordinator::start().await;
    let (mut slow, slow_connection) = coordinator.agent(hello("slow", "s1")).await;
    let (mut quick, quick_connection) = coordinator.agent(hello("quick", "s2")).await;
    let mut sent = 0_u32;
    while coordinator
        .handle
        .send(&host("slow"), slow_connection, command(&"m".repeat(128)))
    {
        sent += 1;
        assert!(sent < 1_000_000, "the queue has no bound");
        tokio::task::yield_now().await;
    }
    assert_eq!(coordinator.hear_gone().await, (slow_connection, false));
    assert!(coordinator.handle.send(&host("quick"), quick_connection, command("m")));
    assert!(matches!(quick.next().await, Ok(from_coordinator::Kind::Command(_))));
    // Once it reads again it learns what happened, and connects anew.
    let refused = loop {
        if let Err(status) = slow.next().await {
            break status;
        }
    };
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    coordinator.agent(hello("slow", "s1")).await;
}

#[tokio::test]
async fn a_server_whose_streams_are_closed_can_stop() {
    let mut coordinator = Coordinator::start().await;
    let (mut agent, _) = coordinator.agent(hello("h1", "s1")).await;
    coordinator.stop.send(()).unwrap();
    coordinator.handle.close_all();
    assert_eq!(agent.refused().await.code(), tonic::Code::Unavailable);
    soon(coordinator.server).await.unwrap();
}

#[tokio::test]
async fn a_dead_peer_is_noticed() {
    let mut coordinator = Coordinator::start().await;
    let (address, cut) = cable(coordinator.address).await;
    let _agent = Agent::connect(address, hello("h1", "s1")).await.unwrap();
    let connection = coordinator.hear_connected().await.connection;
    let since = Instant::now();
    cut.send(()).unwrap();
    assert_eq!(coordinator.hear_gone().await, (connection, false));
    assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
}
