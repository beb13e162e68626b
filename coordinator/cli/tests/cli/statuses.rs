//! What a migration is told of: status, problems, events, export.

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::people::view::StatusView;

use crate::fake::{Canned, Fake};
use crate::run::{rekeeper, run, run_command, snapshot};
use crate::{documents, with_status};

#[test]
fn status_of_one() {
    let fake = with_status(documents::failed());
    let ran = run(&fake, &["status", "m1"]).exits(1);
    assert_eq!(ran.stderr, "");
    snapshot("status", &ran.stdout);
    let json = run(&fake, &["status", "m1", "-o", "json"]).exits(1).stdout;
    snapshot("status-json", &json);
    assert_eq!(serde_json::from_str::<StatusView>(&json).unwrap(), documents::failed());
    let yaml = run(&fake, &["status", "m1", "-o", "yaml"]).exits(1).stdout;
    snapshot("status-yaml", &yaml);
    assert_eq!(
        serde_saphyr::from_str::<StatusView>(&yaml).unwrap(),
        documents::failed()
    );

    for fine in [documents::completed(), documents::running(), documents::planned()] {
        run(&with_status(fine), &["status", "m1"]).exits(0);
    }
    // Problems count also where others go on.
    run(&with_status(documents::many(100)), &["status", "m1"]).exits(1);
}

#[test]
fn parts_that_were_set_aside_stand_as_what_they_are() {
    let mut view = documents::completed();
    let ran = run(&with_status(view.clone()), &["status", "m1"]).exits(0);
    assert!(!ran.stdout.contains("set aside"), "{}", ran.stdout);
    view.tables[0].set_aside = Some(3);
    let ran = run(&with_status(view), &["status", "m1"]).exits(0);
    assert!(ran.stdout.contains("(3 set aside)"), "{}", ran.stdout);
    assert!(ran.stdout.contains("not on the record"), "{}", ran.stdout);
}

#[test]
fn status_of_very_many_tables_stays_readable() {
    let view = documents::many(10_000);
    let fake = with_status(view.clone());
    let ran = run(&fake, &["status", "m1"]).exits(1);
    assert!(ran.stdout.lines().count() < 200, "{}", ran.stdout);
    assert!(ran.stdout.contains("... and 9950 more; -o json lists all"));
    assert!(
        ran.stdout.lines().all(|line| line.chars().count() <= 80),
        "{}",
        ran.stdout
    );
    let json = run(&fake, &["status", "m1", "-o", "json"]).exits(1).stdout;
    assert_eq!(serde_json::from_str::<StatusView>(&json).unwrap(), view);
}

/// Columns stay columns, and nothing reaches the terminal that it would obey.
#[test]
fn names_of_every_kind() {
    let view = documents::unicode();
    let fake = with_status(view.clone());
    let mut all = String::new();
    for arguments in [
        &["status", "m1"][..],
        &["status", "m1", "-o", "json"],
        &["status", "m1", "-o", "yaml"],
        &["problems", "m1"],
        &["export", "m1"],
    ] {
        let ran = run_command(rekeeper(&fake.url(), arguments));
        let seen = |c: char| c == '\n' || !rekeeper_shared::tools::unseen::is_unseen(c);
        assert!(
            ran.stdout.chars().all(seen) && ran.stderr.chars().all(seen),
            "{arguments:?}"
        );
        match arguments.last() {
            Some(&"json") => assert_eq!(serde_json::from_str::<StatusView>(&ran.stdout).unwrap(), view),
            Some(&"yaml") => assert_eq!(serde_saphyr::from_str::<StatusView>(&ran.stdout).unwrap(), view),
            _ => all.push_str(&format!("$ rekeeper {}\n{}\n", arguments.join(" "), ran.stdout)),
        }
    }
    snapshot("unicode", &all);
}

#[test]
fn status_of_all() {
    let fake = Fake::new(Canned {
        lines: documents::lines(),
        ..Canned::default()
    });
    snapshot("status-all", &run(&fake, &["status"]).exits(0).stdout);
    snapshot(
        "status-all-json",
        &run(&fake, &["status", "-o", "json"]).exits(0).stdout,
    );
    run(&fake, &["status", "--watch"]).exits(0);
    fake.with(|canned| canned.lines.clear());
    assert_eq!(
        run(&fake, &["status", "-o", "json"])
            .exits(0)
            .says("no migration yet")
            .stdout,
        "[]\n"
    );
}

#[test]
fn problems() {
    let fake = with_status(documents::failed());
    let ran = run(&fake, &["problems", "m1"]).exits(0);
    snapshot("problems", &ran.stdout);
    snapshot(
        "problems-json",
        &run(&fake, &["problems", "m1", "-o", "json"]).exits(0).stdout,
    );
    let ran = run(&with_status(documents::away()), &["problems", "m1"]).exits(0);
    snapshot("problems-away", &ran.stdout);
    let none = with_status(documents::completed());
    run(&none, &["problems", "m1"])
        .exits(0)
        .prints_nothing()
        .says("no problems");
    assert_eq!(run(&none, &["problems", "m1", "-o", "json"]).exits(0).stdout, "[]\n");
}

#[test]
fn what_many_tables_suffer_from_is_said_once_and_kept_whole_for_scripts() {
    let view = documents::one_cause(5);
    let fake = with_status(view.clone());
    let told = run(&fake, &["problems", "m1"]).exits(0).stdout;
    snapshot("problems-one-cause", &told);
    assert_eq!(told.matches("see who did").count(), 1, "{told}");
    assert_eq!(told.matches("is there again").count(), 1, "{told}");
    let status = run(&fake, &["status", "m1"]).exits(1).stdout;
    assert_eq!(status.matches("see who did").count(), 1, "{status}");
    let watched = run(&fake, &["status", "m1", "--watch"]).exits(1).stdout;
    let line = "RESTORE_FAILED  5 tables on 2 hosts: /clickhouse/tables/01/t0 is there";
    assert_eq!(watched.matches("RESTORE_FAILED").count(), 2, "{watched}");
    assert!(watched.contains(line), "{watched}");
    let json = run(&fake, &["problems", "m1", "-o", "json"]).exits(0).stdout;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(rows.len(), 10);
    for (row, table) in rows.iter().zip(&view.tables) {
        let problem = table.problem.as_ref().unwrap();
        assert_eq!(
            (&row["message"], &row["fix"]),
            (&problem.message.as_str().into(), &problem.fix.as_str().into())
        );
    }
}

/// The remedy is the coordinator's own: what else looks like one stands deeper, or is marked in each line as a quotation.
#[test]
fn what_an_agent_says_is_quoted() {
    let view = documents::evil();
    let fake = with_status(view.clone());
    let told = run(&fake, &["problems", "m1"]).exits(0).stdout;
    snapshot("problems-said", &told);
    let fixes: Vec<&str> = told.lines().filter(|line| line.starts_with("    fix")).collect();
    assert_eq!(fixes.len(), 1, "{told}");
    assert!(
        fixes[0].starts_with("    fix: see the message (ZooKeeper, ACLs)"),
        "{told}"
    );
    let status = run(&fake, &["status", "m1"]).exits(1).stdout;
    assert!(status.contains(&told), "{status}");
    let json = run(&fake, &["problems", "m1", "-o", "json"]).exits(0).stdout;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    for (row, table) in rows.iter().zip(&view.tables) {
        let problem = table.problem.as_ref().unwrap();
        assert_eq!(row["fix"], Code::CleanFailed.fix());
        assert_eq!(
            (row["said"].as_str(), row["said_by"].as_str()),
            (problem.said.as_deref(), Some("ch-01-1"))
        );
    }
}

#[test]
fn what_is_tried_again_says_why() {
    let fake = with_status(documents::tried_again(5));
    let told = run(&fake, &["status", "m1"]).exits(0).stdout;
    snapshot("status-tried-again", &told);
    assert_eq!(told.matches("has no session").count(), 1, "{told}");
    // On a screen before all that goes well.
    fake.with(|canned| canned.statuses = [documents::tried_again(5), documents::completed()].into());
    let watched = run(&fake, &["status", "m1", "--watch"]).exits(0).stdout;
    assert!(
        watched.contains("\nFailed, and tried again: 5 steps\nZOOKEEPER_AWAY  sync of shop.t0 on ch-01-1"),
        "{watched}"
    );
}

#[test]
fn events() {
    let fake = Fake::new(Canned {
        events: documents::events(),
        statuses: [documents::completed()].into(),
        ..Canned::default()
    });
    snapshot("events", &run(&fake, &["events", "m1"]).exits(0).stdout);
    snapshot(
        "events-json",
        &run(&fake, &["events", "m1", "-o", "json"]).exits(0).stdout,
    );
    snapshot(
        "events-yaml",
        &run(&fake, &["events", "m1", "-o", "yaml"]).exits(0).stdout,
    );
    // The migration has ended, so there is nothing more to wait for.
    snapshot("events", &run(&fake, &["events", "m1", "--follow"]).exits(0).stdout);
}

#[test]
fn export_is_the_reference_tools_file() {
    let fake = with_status(documents::failed());
    let ran = run(&fake, &["export", "m1"]).exits(0);
    snapshot("export", &ran.stdout);
    let documents: Vec<Vec<serde_json::Value>> = ran
        .stdout
        .split("---\n")
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect();
    assert_eq!(documents.len(), 2);
    assert_eq!(
        documents[0],
        [
            serde_json::json!({"db": "shop", "table": documents::NASTY, "status": 1, "zk_path": "/clickhouse/tables/01/nasty"}),
            serde_json::json!({"db": "shop", "table": "orders", "status": 4, "zk_path": "/clickhouse/tables/01/orders"}),
        ]
    );
}
