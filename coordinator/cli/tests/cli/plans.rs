//! Hosts, plans and dry runs.

use rekeeper_shared::people::rehearsal::DryRunView;
use rekeeper_shared::people::view::PlanView;

use crate::documents;
use crate::fake::{Canned, Fake};
use crate::run::{rekeeper, run, run_command, snapshot};

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
fn a_wiped_zookeeper_is_one_blocker_of_all_tables() {
    let view = documents::wiped(5);
    let fake = Fake::new(Canned {
        plan: Some(view.clone()),
        ..Canned::default()
    });
    let told = run(&fake, &["plan", "m1"]).exits(3).stdout;
    snapshot("plan-wiped", &told);
    assert_eq!(told.matches("REPLICA_UNKNOWN").count(), 1, "{told}");
    let json = run(&fake, &["plan", "m1", "-o", "json"]).exits(3).stdout;
    assert_eq!(serde_json::from_str::<PlanView>(&json).unwrap(), view);
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
