//! What somebody with a valid certificate can do to the coordinator by size and number: the real program, small clients,
//! and the most memory that it has had (VmHWM). It has about 20 MiB when nobody asks anything; what is allowed is far
//! from that and from what each attack took before it was refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/cluster.rs"]
mod cluster;
mod flood;
mod large;
mod program;

use std::time::Duration;

use rekeeper_proto::convert::event::numbered;
use rekeeper_proto::v1::{self, from_agent::Kind};
use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::step::{Done, Event, Outcome};
use tonic::Code;

use flood::{Caller, bomb, hello};
use program::{MIB, Program};

/// More than an honest load takes, and far below what each attack took: the least of them was 600 MiB.
const AT_MOST: u64 = 200 * MIB;

/// The answer to an inspection, of which nothing is wrong but what it has.
pub(crate) fn inspected(request: u64, inventory: Vec<u8>) -> Kind {
    let error = String::new();
    Kind::Inspected(v1::Inspected {
        request,
        inventory,
        error,
    })
}

fn event_with(document: Vec<u8>) -> Kind {
    Kind::Event(numbered(
        1,
        Event {
            migration: "nosuch".parse().unwrap(),
            attempt: 1,
            step: None,
            outcome: Outcome::Done(Done::Plain),
            document: Some(Packed {
                digest: "0".repeat(64),
                bytes: document,
            }),
        },
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_in_an_event_is_not_unpacked() {
    let mut program = Program::start().await;
    let agent = Caller::attend(&program, "h1").await.unwrap();
    agent.say(event_with(bomb())).await;
    program.settles().await;
    program.has_had_at_most(AT_MOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_that_nobody_asked_for_is_not_unpacked() {
    let mut program = Program::start().await;
    let mut agent = Caller::attend(&program, "h1").await.unwrap();
    // The latter would be the end of the connection, if anybody looked into it.
    for inventory in [bomb(), b"no inventory".to_vec()] {
        agent.say(inspected(1, inventory)).await;
    }
    program.settles().await;
    program.has_had_at_most(AT_MOST);
    let plan = tokio::spawn(program.plan("m"));
    let asked = tokio::time::timeout(Duration::from_secs(60), agent.is_inspected());
    asked.await.unwrap();
    plan.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_that_is_a_bomb_is_a_problem_of_its_host() {
    let mut program = Program::start().await;
    let mut agent = Caller::attend(&program, "h1").await.unwrap();
    let plan = tokio::spawn(program.plan("m"));
    let request = agent.is_inspected().await;
    agent.say(inspected(request, bomb())).await;
    let plan = tokio::time::timeout(Duration::from_secs(60), plan).await.unwrap();
    let view = plan.unwrap().unwrap();
    assert!(view.contains("h1") && view.contains("INSPECTION_FAILED"), "{view}");
    program.settles().await;
    program.has_had_at_most(AT_MOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_too_large_is_refused_with_words() {
    let mut program = Program::start().await;
    let refused = program.status("x".repeat(2 << 20)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("limits.call_bytes"), "{refused}");
    // Who goes on sending may see the connection end instead.
    let asked = (0..6).map(|_| program.status("x".repeat(250 << 20)));
    for answer in futures::future::join_all(asked).await {
        answer.unwrap_err();
    }
    program.settles().await;
    program.has_had_at_most(AT_MOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_agents_say_that_they_do_is_short_and_about_what_was_ordered() {
    let mut program = Program::start().await;
    for text in [10 << 20, 4_000] {
        let agent = Caller::attend(&program, "h1").await.unwrap();
        for attempt in 0..(4_000_000_000 / text as u64 / 4).min(100_000) {
            let (migration, text) = ("nosuch".to_owned(), "x".repeat(text));
            let said = agent
                .try_say(Kind::Doing(v1::Doing {
                    migration,
                    attempt,
                    text,
                }))
                .await;
            if said.is_err() {
                break;
            }
        }
        program.settles().await;
    }
    program.has_had_at_most(AT_MOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_agents_that_are_refused_little_is_kept() {
    let mut program = Program::start().await;
    for number in 0..40 {
        let mut said = hello(&format!("h{number}"));
        said.agent_version = "x".repeat(16 << 20);
        said.protocol = 0;
        let refused = Caller::begin(&program, said).await.err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("hello"), "{refused}");
    }
    program.settles().await;
    program.has_had_at_most(AT_MOST);
}
