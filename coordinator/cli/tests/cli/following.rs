//! `start`, `status --watch` and `events --follow` where no terminal is.

use std::time::Duration;

use rekeeper_shared::people::view::{Phase, State, StatusView, TableStatus};
use rustix::process::Signal;

use crate::documents;
use crate::fake::{Canned, Fake};
use crate::run::{Running, rekeeper, run, snapshot};

fn with_statuses<const N: usize>(statuses: [StatusView; N]) -> Fake {
    Fake::new(Canned {
        statuses: statuses.into(),
        notice: "migration m1 is started".into(),
        ..Canned::default()
    })
}

#[test]
fn start_follows_to_the_end() {
    let fake = with_statuses([
        documents::running(),
        documents::running(),
        documents::even(State::Running, Phase::Clean, TableStatus::Detached),
        documents::completed(),
    ]);
    let ran = run(&fake, &["start", "m1"]).exits(0);
    snapshot("start-completed", &ran.stdout);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines[0], "migration m1 is started");
    // Each begins with the time.
    let told: Vec<&str> = lines[1..].iter().map(|line| &line[22..]).collect();
    assert_eq!(
        told,
        [
            "RUNNING detach: 2 INIT, 0 DETACHED, 0 ZK_CLEANED, 0 RESTORED; waiting for: SYSTEM SYNC REPLICA shop.orders \
             on ch-01-2, 12 s, until 01:10:00Z",
            "RUNNING clean: 0 INIT, 2 DETACHED, 0 ZK_CLEANED, 0 RESTORED; waiting for: SYSTEM SYNC REPLICA shop.orders \
             on ch-01-2, 12 s, until 01:10:00Z",
            "COMPLETED done: 0 INIT, 0 DETACHED, 0 ZK_CLEANED, 2 RESTORED",
        ]
    );
    assert_eq!(
        fake.with(|canned| canned.calls.clone()),
        ["StartRequest { name: \"m1\", until: \"\" }"]
    );
}

#[test]
fn start_until_a_barrier_ends_paused() {
    let fake = with_statuses([documents::running(), documents::paused_at_detached()]);
    let ran = run(&fake, &["start", "m1", "--until", "detached", "-o", "json"])
        .exits(0)
        .says("rekeeper start m1");
    assert_eq!(
        serde_json::from_str::<StatusView>(&ran.stdout).unwrap(),
        documents::paused_at_detached()
    );
    assert_eq!(
        fake.with(|canned| canned.calls.clone()),
        ["StartRequest { name: \"m1\", until: \"detached\" }"]
    );
}

#[test]
fn start_tells_each_problem_and_exits_1() {
    let fake = with_statuses([documents::failed()]);
    let ran = run(&fake, &["start", "m1", "--yes"])
        .exits(1)
        .says("NOT_SETTLED  1 table on 2 hosts\n")
        .says("fix: ")
        .says("rekeeper retry m1");
    snapshot("start-failed", &ran.stdout);
    let ran = run(&fake, &["start", "m1", "-o", "yaml"]).exits(1);
    assert_eq!(
        serde_saphyr::from_str::<StatusView>(&ran.stdout).unwrap(),
        documents::failed()
    );

    let aborted = StatusView {
        state: State::Aborted,
        ..documents::planned()
    };
    run(&with_statuses([aborted]), &["start", "m1"]).exits(0);
}

#[test]
fn a_signal_ends_the_following_and_nothing_else() {
    for signal in [Signal::INT, Signal::TERM] {
        let fake = with_statuses([documents::running()]);
        let running = Running::new(rekeeper(&fake.url(), &["start", "m1"]));
        running.until_said("waiting for: ");
        running.signal(signal);
        running
            .wait()
            .exits(0)
            .prints_nothing()
            .says("left; migration m1 is not touched");
        assert_eq!(fake.with(|canned| canned.calls.len()), 1, "only the start");
    }
}

#[test]
fn a_coordinator_that_is_lost_and_comes_back() {
    let mut fake = with_statuses([documents::running()]);
    let running = Running::new(rekeeper(&fake.url(), &["start", "m1"]));
    running.until_said("waiting for: ");
    fake.stop();
    running.until_said("coordinator lost, trying again for 60 s: ");
    fake.with(|canned| canned.statuses = [documents::completed()].into());
    fake.start();
    running.wait().exits(0).says("coordinator is back after ");
}

#[test]
fn a_coordinator_that_is_lost_can_be_left() {
    let mut fake = with_statuses([documents::running()]);
    let running = Running::new(rekeeper(&fake.url(), &["start", "m1"]));
    running.until_said("waiting for: ");
    fake.stop();
    running.until_said("coordinator lost");
    running.signal(Signal::INT);
    running.wait().exits(0);
}

#[test]
fn a_coordinator_that_came_back_without_the_migration_ends_the_following() {
    let mut fake = with_statuses([documents::running()]);
    let running = Running::new(rekeeper(&fake.url(), &["start", "m1"]));
    running.until_said("waiting for: ");
    fake.stop();
    running.until_said("coordinator lost");
    fake.with(|canned| canned.statuses.clear());
    fake.start();
    running.wait().exits(2).says("there is no migration");
}

#[test]
#[ignore = "takes a minute"]
fn a_coordinator_that_stays_lost_is_given_up() {
    let mut fake = with_statuses([documents::running()]);
    let running = Running::new(rekeeper(&fake.url(), &["start", "m1"]));
    running.until_said("waiting for: ");
    fake.stop();
    std::thread::sleep(Duration::from_secs(50));
    running.wait().exits(4).says("still lost").says("did not come back");
}

#[test]
fn watch_without_a_terminal_prints_snapshots() {
    let fake = with_statuses([documents::running(), documents::running(), documents::failed()]);
    let ran = run(&fake, &["status", "m1", "--watch"]).exits(1);
    snapshot("watch", &ran.stdout);

    let fake = with_statuses([documents::running(), documents::completed()]);
    let ran = run(&fake, &["status", "m1", "--watch", "-o", "json"]).exits(0);
    let documents: Vec<StatusView> = serde_json::Deserializer::from_str(&ran.stdout)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(documents, [documents::running(), documents::completed()]);
}

#[test]
fn watch_never_prints_ten_thousand_tables() {
    let fake = with_statuses([documents::many(10_000), documents::completed()]);
    let ran = run(&fake, &["status", "m1", "--watch"]).exits(0);
    assert!(ran.stdout.lines().count() < 60, "{}", ran.stdout);
    let (first, _) = ran.stdout.split_once("\nMigration m1: COMPLETED").unwrap();
    snapshot("watch-many", first);
    // No colour, no cursor: it is no terminal.
    assert!(!ran.stdout.contains('\u{1b}'));
}

#[test]
fn watch_can_be_left() {
    let fake = with_statuses([documents::running()]);
    let running = Running::new(rekeeper(&fake.url(), &["status", "m1", "--watch"]));
    running.until_printed("RUNNING");
    running.signal(Signal::INT);
    running.wait().exits(0).says("left");
}

#[test]
fn followed_events_are_printed_once_also_if_the_coordinator_was_lost() {
    let mut fake = with_statuses([documents::running()]);
    fake.with(|canned| canned.events = documents::events()[..2].to_vec());
    let running = Running::new(rekeeper(&fake.url(), &["events", "m1", "--follow", "-o", "json"]));
    running.until_printed("\"seq\":2");
    fake.stop();
    running.until_said("coordinator lost");
    fake.with(|canned| {
        canned.events = documents::events();
        canned.statuses = [documents::completed()].into();
    });
    fake.start();
    let ran = running.wait().exits(0).says("coordinator is back");
    snapshot("events-json", &ran.stdout);
}
