//! What is said without a coordinator: help, usage, explanations, completions.

use crate::NOWHERE;
use crate::run::{rekeeper, run_command, snapshot};

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
    assert_eq!(all.len(), rekeeper_shared::domain::problem::Code::ALL.len());
    let list = run_command(rekeeper(NOWHERE, &["explain"])).exits(0).stdout;
    assert!(
        rekeeper_shared::domain::problem::Code::ALL
            .iter()
            .all(|code| list.contains(code.as_str()))
    );
    assert!(list.lines().all(|line| line.chars().count() <= 80));
}
