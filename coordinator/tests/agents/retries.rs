//! What people are told of a step that failed and is tried again, and what a pause is counted for.

use std::time::Duration;

use rekeeper_coordinator::progress::OperatorOrder;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Event, Failure, Outcome, StepKind};

use super::driver::{Whole, acknowledged, done, migration, ordered};
use super::wire::{Agent, say_event};

async fn fails(agent: &mut Agent, sequence: u64, attempt: u64, why: &str) {
    let event = Event {
        migration: migration(),
        attempt,
        step: None,
        outcome: Outcome::Failed(Failure::passing(Code::ZookeeperAway, why)),
        document: None,
    };
    agent.say(say_event(sequence, event)).await;
    acknowledged(agent, sequence).await;
}

#[tokio::test]
async fn a_step_that_is_tried_again_says_why_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, mut second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    let other = ordered(&mut second, StepKind::Sync).await;
    done(&second, 1, other, Done::Plain).await;
    let attempt = ordered(&mut first, StepKind::Sync).await;
    fails(&mut first, 1, attempt, "no session").await;
    let attempt = ordered(&mut first, StepKind::Sync).await;
    let retries = whole.driver.status(&migration()).await.unwrap().retries;
    assert_eq!(
        (retries.len(), retries[0].next_seconds),
        (1, None),
        "it is under way: {retries:?}"
    );
    fails(&mut first, 2, attempt, "still no session").await;
    let told = whole.driver.status(&migration()).await.unwrap();
    let [retry] = &told.retries[..] else {
        panic!("{:?}", told.retries);
    };
    assert_eq!(
        (retry.step.as_str(), retry.host.as_str(), retry.target.as_str()),
        ("sync", "h1", "d.t")
    );
    assert_eq!((retry.failures, retry.most, retry.code), (2, 4, Code::ZookeeperAway));
    assert_eq!(retry.reason, "still no session");
    assert!(
        retry.next_seconds.is_some_and(|next| (1..=5).contains(&next)),
        "{retry:?}"
    );
    let waiting = told.waiting_for.unwrap();
    let said = "sync of d.t: it failed (ZOOKEEPER_AWAY: still no session), and is tried again in ";
    assert!(waiting.starts_with(said), "{waiting}");
    whole.end().await;

    let whole = Whole::start(folder.path()).await;
    let retries = whole.driver.status(&migration()).await.unwrap().retries;
    assert_eq!(
        (retries.len(), retries[0].failures, retries[0].next_seconds),
        (1, 2, Some(0))
    );
    assert_eq!(retries[0].reason, "still no session");
    // At once, and then it is over.
    let mut first = whole.agent("h1", attempt).await;
    let attempt = ordered(&mut first, StepKind::Sync).await;
    done(&first, 1, attempt, Done::Plain).await;
    acknowledged(&mut first, 1).await;
    assert_eq!(whole.driver.status(&migration()).await.unwrap().retries, []);
}

#[tokio::test]
async fn a_step_that_ends_while_it_is_paused_is_not_counted_as_the_pace() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, mut second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    for agent in [&mut first, &mut second] {
        let attempt = ordered(agent, StepKind::Sync).await;
        done(agent, 1, attempt, Done::Plain).await;
    }
    let attempt = ordered(&mut first, StepKind::Detach).await;
    whole
        .driver
        .order(&migration(), "anna".into(), OperatorOrder::Pause)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let measured = async || whole.driver.status(&migration()).await.unwrap().waves[0].measured_seconds;
    assert_eq!(measured().await, Some(0));
    done(&first, 2, attempt, Done::Plain).await;
    acknowledged(&mut first, 2).await;
    assert_eq!(measured().await, Some(0));
}
