//! The agent's stream against a coordinator that the test plays.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod coordinator;

use std::sync::atomic::Ordering;

use coordinator::{Agent, Coordinator, FAILS, Line, PANICS, Start, detach, soon};
use rekeeper_proto::v1::{self, event, from_agent, from_coordinator};

fn numbers(events: &[v1::Event]) -> Vec<(u64, u64)> {
    events.iter().map(|e| (e.sequence, e.attempt)).collect()
}

#[tokio::test]
async fn what_is_not_acknowledged_is_sent_again_after_a_reconnect() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(&coordinator.url, folder.path(), Start::default());
    let mut first = coordinator.welcomed(1, "run").await;
    let mut events = Vec::new();
    for attempt in 1..=3 {
        first.order(attempt).await;
        events.push(first.event().await);
    }
    assert_eq!(numbers(&events), [(1, 1), (2, 2), (3, 3)]);
    first.acknowledge(1).await;
    // The acknowledgement is known to have arrived when what follows it was obeyed.
    first.order(4).await;
    assert_eq!(first.event().await.attempt, 4);
    drop(first);

    let mut second = coordinator.welcomed(1, "run").await;
    let events = [second.event().await, second.event().await, second.event().await];
    assert_eq!(numbers(&events), [(1, 2), (2, 3), (3, 4)]);
    assert_eq!(second.hello.attempts[0].attempt, 4);
    assert_eq!(agent.host.runs(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_command_that_is_sent_twice_runs_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(
        &coordinator.url,
        folder.path(),
        Start {
            gate_open: false,
            ..Start::default()
        },
    );
    let mut connection = coordinator.welcomed(1, "run").await;
    connection.order(1).await;
    connection.order(1).await;
    connection.order(2).await;
    assert!(matches!(connection.message().await, Some(from_agent::Kind::Doing(_))));
    agent.host.open_gate();
    let mut attempts = [connection.event().await.attempt, connection.event().await.attempt];
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 2]);
    // Both events wait for their acknowledgement: still nothing runs again.
    connection.order(2).await;
    connection.order(3).await;
    assert_eq!(connection.event().await.attempt, 3);
    let mut runs = agent.host.runs();
    runs.sort_unstable();
    assert_eq!(runs, [1, 2, 3]);
}

#[tokio::test]
async fn steps_go_on_while_the_coordinator_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(
        &coordinator.url,
        folder.path(),
        Start {
            gate_open: false,
            ..Start::default()
        },
    );
    let mut first = coordinator.welcomed(1, "run").await;
    first.order(1).await;
    assert!(matches!(first.message().await, Some(from_agent::Kind::Doing(_))));
    drop(first);
    let mut second = coordinator.welcomed(2, "other run").await;
    // What it is at is told again, and the order that is repeated does not begin it anew.
    assert!(matches!(second.message().await, Some(from_agent::Kind::Doing(_))));
    second.order(1).await;
    agent.host.open_gate();
    assert_eq!(numbers(&[second.event().await]), [(1, 1)]);
    assert_eq!(agent.host.runs(), [1]);
}

#[tokio::test]
async fn a_lower_token_and_a_copy_of_the_coordinator_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(&coordinator.url, folder.path(), Start::default());
    let mut obeyed = coordinator.welcomed(5, "run").await;
    obeyed.order(1).await;
    obeyed.event().await;
    obeyed.acknowledge(1).await;
    drop(obeyed);
    // One that orders nothing leaves no trace: it cannot lock the right one out.
    drop(coordinator.welcomed(9, "knows too little").await);
    for (token, run) in [(4, "run"), (5, "other")] {
        let mut refused = coordinator.connection().await;
        assert_eq!((refused.hello.seen_token, refused.hello.seen_run.as_str()), (5, "run"));
        refused.welcome(token, run).await;
        refused.order(2).await;
        assert!(refused.ended().await, "token {token} of {run}");
    }
    assert_eq!(agent.host.runs(), [1]);
    agent.begin_stop();
    agent.stopped().await;
    // The next agent on this state folder knows it too.
    let next = Start {
        host: "ch-2",
        ..Start::default()
    };
    let agent = Agent::start(&coordinator.url, folder.path(), next);
    let mut refused = coordinator.connection().await;
    while refused.hello.host != "ch-2" {
        refused = coordinator.connection().await;
    }
    refused.welcome(4, "run").await;
    refused.order(2).await;
    assert!(refused.ended().await);
    let mut obeyed = coordinator.welcomed(5, "run").await;
    obeyed.order(3).await;
    assert_eq!(obeyed.event().await.attempt, 3);
    assert_eq!(agent.host.runs(), [3]);
}

#[tokio::test]
async fn a_stop_is_told_by_a_goodbye() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(&coordinator.url, folder.path(), Start::default());
    let mut connection = coordinator.welcomed(1, "run").await;
    connection.order(1).await;
    connection.event().await;
    agent.begin_stop();
    let said = loop {
        match connection.message().await {
            Some(from_agent::Kind::Doing(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(said, Some(from_agent::Kind::Goodbye(_))), "{said:?}");
    drop(connection);
    agent.stopped().await;
}

#[tokio::test]
async fn a_dead_line_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let line = Line::to(&coordinator.url).await;
    let agent = Agent::start(&line.url, folder.path(), Start::default());
    let mut first = coordinator.welcomed(1, "run").await;
    first.order(1).await;
    assert_eq!(numbers(&[first.event().await]), [(1, 1)]);
    line.go_dead();
    let mut second = coordinator.welcomed(1, "run").await;
    assert_eq!(numbers(&[second.event().await]), [(1, 1)]);
    assert_eq!(agent.host.runs(), [1]);
}

#[tokio::test]
async fn a_panic_and_a_failure_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let _agent = Agent::start(
        &coordinator.url,
        folder.path(),
        Start {
            at_a_time: 1,
            ..Start::default()
        },
    );
    let mut connection = coordinator.welcomed(1, "run").await;
    for (attempt, retry) in [(PANICS, false), (FAILS, true)] {
        connection.order(attempt).await;
        let answer = connection.event().await;
        assert_eq!(answer.attempt, attempt);
        let Some(event::Outcome::Failed(failed)) = answer.outcome else {
            panic!("attempt {attempt} has not failed")
        };
        assert_eq!((failed.code.as_str(), failed.retry), ("DETACH_FAILED", retry));
    }
    // The table is free again after a panic.
    connection.order_of(PANICS + 1, PANICS).await;
    assert!(matches!(
        connection.event().await.outcome,
        Some(event::Outcome::Done(_))
    ));
}

#[tokio::test]
async fn a_command_that_cannot_be_understood_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(&coordinator.url, folder.path(), Start::default());
    let mut connection = coordinator.welcomed(1, "run").await;
    let command = v1::Command {
        migration: "m".into(),
        attempt: 4,
        order: None,
    };
    connection.send(from_coordinator::Kind::Command(command)).await;
    let answer = connection.event().await;
    let Some(event::Outcome::Failed(failed)) = answer.outcome else {
        panic!("it was not refused")
    };
    assert_eq!((answer.attempt, failed.code.as_str()), (4, "COMMAND_REFUSED"));
    assert!(agent.host.runs().is_empty());
}

#[tokio::test]
async fn no_more_at_a_time_than_configured() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(
        &coordinator.url,
        folder.path(),
        Start {
            at_a_time: 1,
            ..Start::default()
        },
    );
    let mut connection = coordinator.welcomed(1, "run").await;
    for attempt in 1..=40 {
        connection.order(attempt).await;
    }
    for _ in 1..=40 {
        connection.event().await;
    }
    // Eight look at their tables for each that may burden the server.
    let most = agent.host.most_at_once.load(Ordering::SeqCst);
    assert!((2..=8).contains(&most), "{most}");
}

#[tokio::test]
async fn two_steps_on_one_table_never_run_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let closed = Start {
        gate_open: false,
        ..Start::default()
    };
    let agent = Agent::start(&coordinator.url, folder.path(), closed);
    let mut connection = coordinator.welcomed(1, "run").await;
    connection.order_of(1, 1).await;
    connection.doing(1).await;
    connection.order_of(2, 1).await;
    connection.order_of(3, 3).await;
    // The third began, so the second could have.
    connection.doing(3).await;
    assert_eq!(agent.host.runs(), [1, 3]);
    agent.host.open_gate();
    for _ in 1..=3 {
        connection.event().await;
    }
    assert_eq!(agent.host.runs(), [1, 3, 2]);
}

#[tokio::test]
async fn an_order_that_a_newer_one_has_overtaken_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(
        &coordinator.url,
        folder.path(),
        Start {
            ready: false,
            ..Start::default()
        },
    );
    let mut connection = coordinator.welcomed(1, "run").await;
    connection.order_of(8, 1).await;
    connection.order_of(7, 1).await;
    // Once an attempt is on disk, its step begins as soon as it may.
    while connection.hello.attempts.is_empty() {
        drop(connection);
        connection = coordinator.welcomed(1, "run").await;
    }
    let inspect = from_coordinator::Kind::Inspect(v1::Inspect { request: 3 });
    connection.send(inspect).await;
    let answer = connection.message().await;
    assert!(matches!(&answer, Some(from_agent::Kind::Inspected(i)) if i.request == 3 && i.inventory == b"inventory"));
    // Nothing runs while statements of a former agent do.
    assert!(agent.host.runs().is_empty());
    agent.host.be_ready();
    let (one, other) = (connection.event().await, connection.event().await);
    let refused = if one.attempt == 7 { one } else { other };
    assert!(matches!(refused.outcome, Some(event::Outcome::Failed(f)) if f.code == "COMMAND_REFUSED"));
    assert_eq!(agent.host.runs(), [8]);
}

#[tokio::test]
async fn a_question_what_a_command_would_change_is_no_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(&coordinator.url, folder.path(), Start::default());
    let mut connection = coordinator.welcomed(1, "run").await;
    let question = |request, command| from_coordinator::Kind::Rehearse(v1::Rehearse { request, command });
    connection.send(question(1, Some(detach(8, 1).into()))).await;
    let answer = connection.message().await;
    assert!(matches!(&answer, Some(from_agent::Kind::Rehearsed(r)) if r.request == 1 && r.actions == b"attempt 8"));
    connection.send(question(2, None)).await;
    let answer = connection.message().await;
    assert!(matches!(&answer, Some(from_agent::Kind::Rehearsed(r)) if r.request == 2 && !r.error.is_empty()));
    assert!(agent.host.runs().is_empty());
    // Neither the attempt nor the coordinator was noted as one that is obeyed.
    drop(connection);
    let connection = coordinator.welcomed(1, "run").await;
    assert!(connection.hello.attempts.is_empty() && connection.hello.seen_token == 0);
}

#[tokio::test]
async fn the_agent_waits_for_a_coordinator_that_is_not_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let agent = Agent::start(&url, folder.path(), Start::default());
    agent.begin_stop();
    soon("the agent to stop", agent.stopped()).await;
}

#[tokio::test]
async fn what_the_coordinator_would_not_take_is_told_to_be_too_large() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let _agent = Agent::start(&coordinator.url, folder.path(), Start::default());
    let mut connection = coordinator.connection().await;
    connection.welcome_with(1, "run", 4).await;
    connection.order(1).await;
    let event = connection.event().await;
    let Some(event::Outcome::Failed(failure)) = event.outcome else {
        panic!("{event:?}");
    };
    assert_eq!((event.attempt, failure.code.as_str()), (1, "EVENT_TOO_LARGE"));
    assert!(failure.message.contains("limits.message_bytes"), "{failure:?}");
    connection
        .send(from_coordinator::Kind::Inspect(v1::Inspect { request: 3 }))
        .await;
    let answer = connection.message().await;
    assert!(
        matches!(&answer, Some(from_agent::Kind::Inspected(i)) if i.inventory.is_empty() && i.error.contains("limits.message_bytes")),
        "{answer:?}"
    );
}
