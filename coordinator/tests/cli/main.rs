//! The operator's command line as people and scripts meet it: the real binary against canned documents.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod documents;
mod fake;
mod following;
mod on_terminal;
mod output;
mod report;
mod run;

use rekeeper_shared::rehearsal::DryRunView;
use rekeeper_shared::view::{PlanView, StatusView};
use tonic::Code;

use crate::fake::{Canned, Fake};
use crate::run::{rekeeper, run, run_command, snapshot};

const NOWHERE: &str = "http://127.0.0.1:1";

fn with_status(status: StatusView) -> Fake {
    Fake::new(Canned {
        statuses: [status].into(),
        notice: "ordered".into(),
        ..Canned::default()
    })
}

#[test]
fn help_of_every_command() {
    for command in [
        "",
        "hosts",
        "plan",
        "start",
        "status",
        "pause",
        "resume",
        "retry",
        "skip",
        "abort",
        "problems",
        "report",
        "events",
        "explain",
        "export",
        "completions",
        "man",
    ] {
        let arguments: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let ran = run_command(rekeeper(NOWHERE, &arguments)).exits(0);
        assert_eq!(ran.stderr, "");
        snapshot(
            &format!("help-{}", if command.is_empty() { "rekeeper" } else { command }),
            &ran.stdout,
        );
    }
}

#[test]
fn wrong_usage_exits_2_before_anybody_is_asked() {
    for arguments in [
        &[][..],
        &["no-such-command"],
        &["plan"],
        &["plan", "../x"],
        &["plan", "m1", "--restart", "sometimes"],
        &["plan", "m1", "--table", ""],
        &["plan", "m1", "--host", "a b"],
        &["plan", "m1", "--allow", "NO_SUCH_CODE"],
        &["plan", "m1", "--allow", "PATCH_PARTS"],
        &["start", "m1", "--until", "tomorrow"],
        &["skip", "m1"],
        &["status", "-o", "xml"],
        &["explain", "NO_SUCH_CODE"],
        &["hosts", "--coordinator", "http://10.0.0.1:7443"],
        &["hosts", "--coordinator", "https://127.0.0.1:7443"],
        &["hosts", "--coordinator", "nonsense"],
        &["hosts", "--ca", "ca.crt"],
        &["hosts", "--cert", "own.crt"],
        &["hosts", "--key", "own.key"],
    ] {
        let ran = run_command(rekeeper(NOWHERE, arguments)).exits(2).prints_nothing();
        assert!(!ran.stderr.is_empty(), "{arguments:?}");
    }
    run_command(rekeeper("https://coordinator:7443", &["hosts"]))
        .exits(2)
        .says("--ca: missing");
    run_command(rekeeper("http://coordinator:7443", &["hosts"]))
        .exits(2)
        .says("loopback");
}

#[test]
fn an_unreachable_coordinator_exits_4() {
    let commands: [&[&str]; 13] = [
        &["hosts"],
        &["plan", "m1"],
        &["start", "m1"],
        &["status"],
        &["status", "m1"],
        &["pause", "m1"],
        &["resume", "m1"],
        &["retry", "m1"],
        &["abort", "m1"],
        &["problems", "m1"],
        &["report", "m1"],
        &["events", "m1"],
        &["export", "m1"],
    ];
    for arguments in commands {
        run_command(rekeeper(NOWHERE, arguments))
            .exits(4)
            .prints_nothing()
            .says("the coordinator at http://127.0.0.1:1 cannot be reached: Connection refused");
    }
}

#[test]
fn refusals_become_exit_codes() {
    for (code, message, exit, said) in [
        (
            Code::InvalidArgument,
            "--table shop.* matches nothing",
            2,
            "rekeeper: --table shop.* matches nothing\n",
        ),
        (
            Code::NotFound,
            "there is no migration \"m1\"",
            2,
            "rekeeper: there is no migration \"m1\"\n",
        ),
        (
            Code::AlreadyExists,
            "there is a migration \"m1\"",
            2,
            "rekeeper: there is a migration \"m1\"\n",
        ),
        (
            Code::FailedPrecondition,
            "blocked: ZERO_COPY",
            3,
            "rekeeper: blocked: ZERO_COPY\n",
        ),
        (Code::FailedPrecondition, "it has ended", 2, "rekeeper: it has ended\n"),
        (
            Code::PermissionDenied,
            "not you",
            4,
            "rekeeper: the coordinator refused this caller: not you\n",
        ),
        (
            Code::Unauthenticated,
            "who?",
            4,
            "rekeeper: the coordinator refused this caller: who?\n",
        ),
        (Code::Unavailable, "starting", 4, "cannot be reached: starting\n"),
        (
            Code::Internal,
            "disk\u{1b}[2J full",
            1,
            "rekeeper: disk\\u{1b}[2J full\n",
        ),
    ] {
        let fake = Fake::new(Canned {
            refusal: Some((code, message.into())),
            ..Canned::default()
        });
        for arguments in [
            &["plan", "m1"][..],
            &["start", "m1"],
            &["status", "m1"],
            &["events", "m1"],
            &["report", "m1"],
        ] {
            run(&fake, arguments).exits(exit).prints_nothing().says(said);
        }
    }
}

#[test]
fn every_call_says_who_calls() {
    let fake = with_status(documents::completed());
    run(&fake, &["status", "m1"]).exits(0);
    let mut command = rekeeper(&fake.url(), &["pause", "m1"]);
    command.env_remove("USER").env("LOGNAME", "jörg b");
    run_command(command).exits(0);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim();
    assert_eq!(
        fake.with(|canned| canned.callers.clone()),
        [format!("ann@{host}"), format!("j?rg?b@{host}")]
    );
}

#[test]
fn hosts() {
    let fake = Fake::new(Canned {
        hosts: documents::hosts(),
        ..Canned::default()
    });
    snapshot("hosts", &run(&fake, &["hosts"]).exits(0).stdout);
    let json = run(&fake, &["hosts", "-o", "json"]).exits(0).stdout;
    snapshot("hosts-json", &json);
    snapshot("hosts-yaml", &run(&fake, &["hosts", "-o", "yaml"]).exits(0).stdout);
    let mut command = rekeeper(&fake.url(), &["hosts"]);
    command.env("REKEEPER_OUTPUT", "json");
    assert_eq!(run_command(command).exits(0).stdout, json);
    fake.with(|canned| canned.hosts.clear());
    assert_eq!(
        run(&fake, &["hosts", "-o", "json"]).exits(0).says("no agent").stdout,
        "[]\n"
    );
}

#[test]
fn who_was_refused_in_the_handshake() {
    let fake = Fake::new(Canned {
        hosts: documents::hosts(),
        refusals: documents::refusals(),
        ..Canned::default()
    });
    snapshot("hosts-and-refused", &run(&fake, &["hosts"]).exits(0).stdout);
    snapshot("hosts-refused", &run(&fake, &["hosts", "--refused"]).exits(0).stdout);
    let json = run(&fake, &["hosts", "--refused", "-o", "json"]).exits(0).stdout;
    snapshot("hosts-refused-json", &json);
    fake.with(|canned| canned.refusals.clear());
    let none = run(&fake, &["hosts", "--refused", "-o", "json"]);
    assert_eq!(none.exits(0).says("nobody was refused").stdout, "[]\n");
}

#[test]
fn plan() {
    let fake = Fake::new(Canned {
        plan: Some(documents::plan(false)),
        ..Canned::default()
    });
    let arguments = [
        "plan",
        "m1",
        "--database",
        "shop",
        "--table",
        "a.*",
        "--table",
        "b.`x y`",
        "--exclude",
        "c",
        "--disk",
        "s3",
        "--host",
        "ch-01-1",
        "--restart",
        "never",
        "--allow",
        "LOST_PARTS:shop.orders",
        "--allow",
        "ZERO_COPY",
    ];
    let ran = run(&fake, &arguments).exits(0).says("rekeeper start m1");
    snapshot("plan", &ran.stdout);
    assert_eq!(
        fake.with(|canned| canned.calls.clone()),
        [
            "PlanRequest { name: \"m1\", databases: [\"shop\"], tables: [\"a.*\", \"b.`x y`\"], exclude: [\"c\"], \
          disk: \"s3\", hosts: [\"ch-01-1\"], restart_never: true, allow: [\"LOST_PARTS:shop.orders\", \"ZERO_COPY\"] }"
        ]
    );
    let json = run(&fake, &["plan", "m1", "-o", "json"]).exits(0).stdout;
    snapshot("plan-json", &json);
    assert_eq!(serde_json::from_str::<PlanView>(&json).unwrap(), documents::plan(false));
    let yaml = run(&fake, &["plan", "m1", "-o", "yaml"]).exits(0).stdout;
    assert_eq!(
        serde_saphyr::from_str::<PlanView>(&yaml).unwrap(),
        documents::plan(false)
    );
}

#[test]
fn a_blocked_plan_is_printed_and_exits_3() {
    let fake = Fake::new(Canned {
        plan: Some(documents::plan(true)),
        ..Canned::default()
    });
    let ran = run(&fake, &["plan", "m1"])
        .exits(3)
        .says("blocked: 1 blocker; nothing was saved");
    snapshot("plan-blocked", &ran.stdout);
    let json = run(&fake, &["plan", "m1", "-o", "json"]).exits(3).stdout;
    assert_eq!(serde_json::from_str::<PlanView>(&json).unwrap().blockers.len(), 1);
}

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
        let seen = |c: char| c == '\n' || !rekeeper_shared::unseen::is_unseen(c);
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
fn orders_print_the_notice_to_stderr() {
    let fake = with_status(documents::running());
    run(&fake, &["pause", "m1"]).exits(0).prints_nothing().says("ordered\n");
    run(&fake, &["abort", "m1"]).exits(0).prints_nothing().says("ordered\n");
    run(&fake, &["resume", "m1"])
        .exits(0)
        .prints_nothing()
        .says("ordered\n")
        .says("rekeeper start m1");
    run(&fake, &["retry", "m1"])
        .exits(0)
        .prints_nothing()
        .says("ordered\n")
        .says("rekeeper start m1");
    run(&fake, &["retry", "m1", "--table", "d.t", "--host", "h"]).exits(0);
    run(&fake, &["skip", "m1", "--table", "d.t"])
        .exits(0)
        .prints_nothing()
        .says("ordered\n");
    run(&fake, &["skip", "m1", "--host", "h"])
        .exits(0)
        .prints_nothing()
        .says("ordered\n");
    run(&fake, &["skip", "m1", "--host", "h", "--table", "d.t"]).exits(2);
    assert_eq!(
        fake.with(|canned| canned.calls.clone()),
        [
            "pause m1",
            "abort m1",
            "resume m1",
            "RetryRequest { name: \"m1\", table: \"\", host: \"\" }",
            "RetryRequest { name: \"m1\", table: \"d.t\", host: \"h\" }",
            "SkipRequest { name: \"m1\", table: \"d.t\", host: \"\" }",
            "SkipRequest { name: \"m1\", table: \"\", host: \"h\" }"
        ]
    );
}

#[test]
fn dry_run() {
    let fake = Fake::new(Canned {
        steps: documents::steps(),
        ..Canned::default()
    });
    let arguments = ["start", "m1", "--dry-run", "--until", "zk-cleaned"];
    let ran = run(&fake, &arguments).exits(0).says("nothing was changed");
    snapshot("dry-run", &ran.stdout);
    let json = run(&fake, &["start", "m1", "--dry-run", "-o", "json"]).exits(0).stdout;
    snapshot("dry-run-json", &json);
    let view: DryRunView = serde_json::from_str(&json).unwrap();
    assert_eq!(
        view.hosts.into_iter().flat_map(|host| host.steps).collect::<Vec<_>>(),
        documents::steps()
    );
    // Only this was asked: nothing is started, and nothing is confirmed.
    assert_eq!(
        fake.with(|canned| canned.calls.clone()),
        [
            "dry run StartRequest { name: \"m1\", until: \"zk-cleaned\" }",
            "dry run StartRequest { name: \"m1\", until: \"\" }"
        ]
    );
    fake.with(|canned| canned.steps.clear());
    run(&fake, &["start", "m1", "--dry-run"])
        .exits(0)
        .prints_nothing()
        .says("nothing would be ordered of migration m1 now");
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
fn completions_and_man_pages_know_every_command() {
    let commands = ["plan", "start", "skip", "abort", "problems", "explain"];
    for shell in ["bash", "zsh", "fish"] {
        let script = run_command(rekeeper(NOWHERE, &["completions", shell])).exits(0).stdout;
        assert!(commands.iter().all(|command| script.contains(command)), "{shell}");
        assert!(script.contains("dry-run"), "{shell}");
    }
    run_command(rekeeper(NOWHERE, &["completions", "cmd"]))
        .exits(2)
        .prints_nothing();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    run_command(rekeeper(NOWHERE, &["man", path])).exits(0).prints_nothing();
    for command in commands {
        let page = std::fs::read_to_string(folder.path().join(format!("rekeeper-{command}.1"))).unwrap();
        assert!(page.contains(command));
    }
    assert!(folder.path().join("rekeeper.1").exists());
    run_command(rekeeper(NOWHERE, &["man", "/no/such/folder"]))
        .exits(2)
        .says("/no/such/folder is no folder");
}

#[test]
fn explain_asks_nobody() {
    let one = run_command(rekeeper("https://unusable", &["explain", "lost_parts"])).exits(0);
    snapshot("explain", &one.stdout);
    let json = run_command(rekeeper(NOWHERE, &["explain", "LOST_PARTS", "-o", "json"])).exits(0);
    snapshot("explain-json", &json.stdout);
    let all = run_command(rekeeper(NOWHERE, &["explain", "-o", "json"]))
        .exits(0)
        .stdout;
    let all: Vec<serde_json::Value> = serde_json::from_str(&all).unwrap();
    assert_eq!(all.len(), rekeeper_shared::problem::Code::ALL.len());
    let list = run_command(rekeeper(NOWHERE, &["explain"])).exits(0).stdout;
    assert!(
        rekeeper_shared::problem::Code::ALL
            .iter()
            .all(|code| list.contains(code.as_str()))
    );
    assert!(list.lines().all(|line| line.chars().count() <= 80));
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

#[test]
fn a_closed_pipe_is_no_failure() {
    let fake = with_status(documents::many(10_000));
    let mut command = rekeeper(&fake.url(), &["status", "m1", "-o", "json"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_document_of_another_release_is_no_answer() {
    let fake = Fake::new(Canned {
        odd_hosts: Some("[{\"host\": 1}]".into()),
        ..Canned::default()
    });
    run(&fake, &["hosts"])
        .exits(1)
        .prints_nothing()
        .says("a list of hosts that this release of rekeeper cannot read: ");
}
