//! What a plan costs grows with the number of its tables and hosts, and not faster: ten times as much is planned in the
//! same run, and may take a little more than ten times as long. Built for release it plans 100,000 tables.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/cluster.rs"]
mod cluster;

use std::time::{Duration, Instant};

use rekeeper_coordinator::plan::{Circumstances, build};
use rekeeper_shared::domain::plan::PlanRequest;

use cluster::{Size, cluster, name};

/// Ten times as much takes so many times as long at most: n log n and what memory costs, and far from the hundred of a
/// loop in a loop.
const AT_MOST: f64 = 40.0;
/// The smaller plan of the two; optimised or not, it takes long enough to be measured.
const TABLES: usize = if cfg!(debug_assertions) { 300 } else { 10_000 };

fn takes(size: Size, request: &PlanRequest) -> Duration {
    let inventories = cluster(size);
    let name = "m".parse().unwrap();
    let begin = Instant::now();
    let draft = build(&name, request, &inventories, Circumstances::default()).unwrap();
    let view = draft.view();
    let took = begin.elapsed();
    let planned: usize = view.replica_sets.iter().map(|set| set.replicas.len()).sum();
    assert!(planned > 0 && view.blockers.is_empty() == size.sound && draft.differences_from(&draft.plan).is_empty());
    println!("{size:?}: {took:?} for {planned} table replicas");
    took
}

/// The time of the larger plan, in times of the smaller one: the quickest of several, which nothing disturbed.
fn ratio(small: Size, large: Size, request: &PlanRequest) -> f64 {
    let once = (0..3).map(|_| takes(small, request)).min().unwrap();
    let times = || takes(large, request).as_secs_f64() / once.as_secs_f64();
    match times() {
        // Something may have disturbed it.
        ratio if (AT_MOST..2.0 * AT_MOST).contains(&ratio) => times(),
        ratio => ratio,
    }
}

#[test]
fn many_tables_are_planned_in_a_time_that_grows_as_they_do() {
    let of = |tables| Size {
        shards: 1,
        tables,
        sound: false,
    };
    let ratio = ratio(of(TABLES), of(10 * TABLES), &PlanRequest::default());
    assert!(ratio < AT_MOST, "ten times the tables took {ratio:.1} times as long");
}

#[test]
fn many_sound_tables_are_planned_in_a_time_that_grows_as_they_do() {
    let of = |tables| Size {
        shards: 1,
        tables,
        sound: true,
    };
    let ratio = ratio(of(TABLES), of(10 * TABLES), &PlanRequest::default());
    assert!(ratio < AT_MOST, "ten times the tables took {ratio:.1} times as long");
}

#[test]
fn many_hosts_are_planned_in_a_time_that_grows_as_they_do() {
    let of = |shards| Size {
        shards,
        tables: 10,
        sound: false,
    };
    let ratio = ratio(of(TABLES / 20), of(TABLES / 2), &PlanRequest::default());
    assert!(ratio < AT_MOST, "ten times the hosts took {ratio:.1} times as long");
}

#[test]
fn many_names_are_looked_for_in_a_time_that_grows_as_they_do() {
    let of = |tables| Size {
        shards: 1,
        tables,
        sound: false,
    };
    let request = |tables: usize| PlanRequest {
        tables: (0..tables).map(|number| name(number).to_string()).collect(),
        exclude: vec!["db1.table_*9".into(), "db?.*a*e_*77*".into()],
        ..PlanRequest::default()
    };
    let (small, large) = (of(TABLES / 3), of(10 * TABLES / 3));
    let once = (0..3).map(|_| takes(small, &request(small.tables))).min().unwrap();
    let ratio = takes(large, &request(large.tables)).as_secs_f64() / once.as_secs_f64();
    assert!(ratio < AT_MOST, "ten times the names took {ratio:.1} times as long");
}
