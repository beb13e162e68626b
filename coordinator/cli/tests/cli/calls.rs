//! Calls as such: nobody there, refusals, who calls, answers that are none.

use rekeeper_proto::reason::Reason;
use tonic::Code;

use crate::fake::{Canned, Fake};
use crate::run::{rekeeper, run, run_command};
use crate::{NOWHERE, documents, with_status};

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
fn the_reason_crosses_the_wire_and_the_words_do_not_matter() {
    for (reason, message, exit) in [
        (Reason::Blocked, "two agents on one server", 3),
        (Reason::State, "blocked: no, it has ended", 2),
    ] {
        let fake = Fake::new(Canned {
            reason: Some((reason, message.into())),
            ..Canned::default()
        });
        for arguments in [
            &["start", "m1"][..],
            &["pause", "m1"],
            &["events", "m1"],
            &["status", "m1"],
        ] {
            run(&fake, arguments).exits(exit).prints_nothing().says(message);
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
    run(&fake, &["skip", "m1", "--host", "h", "--table", "d.t"]).exits(0);
    assert_eq!(
        fake.with(|canned| canned.calls.clone()),
        [
            "pause m1",
            "abort m1",
            "resume m1",
            "RetryRequest { name: \"m1\", table: \"\", host: \"\" }",
            "RetryRequest { name: \"m1\", table: \"d.t\", host: \"h\" }",
            "SkipRequest { name: \"m1\", table: \"d.t\", host: \"\" }",
            "SkipRequest { name: \"m1\", table: \"\", host: \"h\" }",
            "SkipRequest { name: \"m1\", table: \"d.t\", host: \"h\" }"
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
