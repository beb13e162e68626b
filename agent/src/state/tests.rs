use rekeeper_shared::domain::document::pack;
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::step::SeenToken;

use super::*;

fn table(uuid: &str) -> TableRef {
    TableRef {
        name: TableName::new("d", "t"),
        uuid: uuid.into(),
        path: ZkPath::parse("/t").unwrap(),
        replica_name: "r1".into(),
    }
}

fn manifest(uuid: &str, detached_before: &[&str]) -> Packed {
    pack(&Manifest {
        migration: "m".parse().unwrap(),
        host: "h".parse().unwrap(),
        table: TableName::new("d", "t"),
        uuid: uuid.into(),
        replica_name: "r1".into(),
        parts: vec![],
        detached_before: detached_before.iter().map(|s| (*s).to_owned()).collect(),
        checksums: std::collections::BTreeMap::new(),
        outdated: std::collections::BTreeMap::new(),
        settings: rekeeper_shared::domain::document::FormerSettings::default(),
        version: 0,
    })
    .unwrap()
}

fn token(token: u64, run: &str) -> SeenToken {
    SeenToken { token, run: run.into() }
}

#[test]
fn two_agents_cannot_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = State::open(&folder.path().join("state")).unwrap();
    assert!(matches!(
        State::open(&folder.path().join("state")),
        Err(StateError::Taken(_))
    ));
    drop(first);
    State::open(&folder.path().join("state")).unwrap();
}

#[test]
fn only_the_newest_coordinator_is_obeyed_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    state.obey(&token(3, "a")).unwrap();
    state.note_attempt(&"m".parse().unwrap(), 7).unwrap();
    state.note_attempt(&"m".parse().unwrap(), 5).unwrap();
    drop(state);
    let state = State::open(folder.path()).unwrap();
    assert_eq!(state.seen(), token(3, "a"));
    assert_eq!(state.attempts(), [("m".parse().unwrap(), 7)]);
    state.obey(&token(3, "a")).unwrap();
    assert!(matches!(state.obey(&token(2, "a")), Err(Refusal::Older { .. })));
    assert!(matches!(state.obey(&token(3, "b")), Err(Refusal::OtherRun(3))));
    state.obey(&token(4, "b")).unwrap();
    assert!(matches!(state.obey(&token(3, "a")), Err(Refusal::Older { .. })));
}

#[test]
fn a_token_that_would_lock_every_later_coordinator_out_is_not_noted() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    state.obey(&token(3, "a")).unwrap();
    for far in [u64::MAX, 1_000_004] {
        let refused = state.obey(&token(far, "b")).unwrap_err();
        assert!(matches!(refused, Refusal::TooFar { seen: 3, .. }), "{refused}");
        assert!(refused.to_string().contains("move coordinator.json"), "{refused}");
    }
    assert_eq!(state.seen(), token(3, "a"));
    state.obey(&token(4, "c")).unwrap();
    state.obey(&token(1_000_004, "d")).unwrap();
}

#[test]
fn a_manifest_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    let (migration, uuid) = ("m".parse().unwrap(), "0a-1");
    assert_eq!(state.manifest(&migration, &table(uuid)).unwrap(), None);
    let written = manifest(uuid, &[]);
    state.write_manifest(&migration, &table(uuid), &written).unwrap();
    state.write_manifest(&migration, &table(uuid), &written).unwrap();
    let other = manifest(uuid, &["all_0_0_0"]);
    assert!(matches!(
        state.write_manifest(&migration, &table(uuid), &other),
        Err(StateError::Differs(_))
    ));
    assert_eq!(state.manifest(&migration, &table(uuid)).unwrap(), Some(written));
}

#[test]
fn damage_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    let (migration, uuid) = ("m".parse().unwrap(), "0a-1");
    state
        .write_manifest(&migration, &table(uuid), &manifest(uuid, &[]))
        .unwrap();
    let file = folder.path().join("migrations/m/0a-1.manifest");
    std::fs::write(&file, b"").unwrap();
    for failed in [
        state.manifest(&migration, &table(uuid)).map(drop),
        state.write_manifest(&migration, &table(uuid), &manifest(uuid, &[])),
    ] {
        let error = failed.unwrap_err();
        assert!(error.to_string().contains("0a-1.manifest"), "{error}");
    }
    drop(state);
    std::fs::write(folder.path().join("coordinator.json"), b"{").unwrap();
    let error = State::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("coordinator.json"), "{error}");
}

#[test]
fn a_restart_is_ordered_once() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    let migration = "m".parse().unwrap();
    let first = state.restart_note(&migration, 4).unwrap();
    let ready = state.note_restart_ready(&migration, 4).unwrap();
    assert_eq!(ready.ordered_at, first.ordered_at);
    assert_eq!(state.note_restart_ready(&migration, 4).unwrap(), ready);
    assert_eq!(state.restart_note(&migration, 4).unwrap(), ready);
}

#[test]
fn a_damaged_note_of_held_merges_holds_all_the_same_and_no_other_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    let migration: MigrationName = "m".parse().unwrap();
    for uuid in ["0a-1", "0a-2", "0a-3"] {
        state.hold_merges(&migration, &table(uuid)).unwrap();
    }
    let note = |uuid: &str| folder.path().join(format!("migrations/m/{uuid}.held"));
    // Lost while the agent runs: it goes by what it has in memory.
    std::fs::remove_file(note("0a-3")).unwrap();
    assert!(state.holds_merges(&migration, &table("0a-3")));
    state.hold_merges(&migration, &table("0a-3")).unwrap();
    drop(state);

    std::fs::write(note("0a-1"), b"torn").unwrap();
    let state = State::open(folder.path()).unwrap();
    let held = || -> Vec<(String, bool)> {
        let held = state.held_merges().into_iter();
        held.map(|held| (held.stem, held.table.is_some())).collect()
    };
    let expected = [("0a-1", false), ("0a-2", true), ("0a-3", true)].map(|(stem, known)| (stem.to_owned(), known));
    assert_eq!(held(), expected);
    // The next step on the table writes it anew, or takes it away.
    state.hold_merges(&migration, &table("0a-1")).unwrap();
    assert!(held().iter().all(|(_, known)| *known));
    std::fs::write(note("0a-2"), b"torn").unwrap();
    state.let_merges_go(&migration, &table("0a-2")).unwrap();
    drop(state);
    let state = State::open(folder.path()).unwrap();
    assert!(!state.holds_merges(&migration, &table("0a-2")) && state.holds_merges(&migration, &table("0a-1")));
}

#[test]
fn a_damaged_note_is_told_with_its_file_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    let migration: MigrationName = "m".parse().unwrap();
    let (restore, restart) = (
        folder.path().join("migrations/m/0a-1.restore"),
        folder.path().join("migrations/m/7.restart"),
    );
    state
        .write_restore_note(&migration, &table("0a-1"), &RestoreNote::default())
        .unwrap();
    state.restart_note(&migration, 7).unwrap();
    for file in [&restore, &restart] {
        let content = std::fs::read_to_string(file).unwrap();
        std::fs::write(file, content.replace("null", "nul1")).unwrap();
    }
    let errors = [
        state.restore_note(&migration, &table("0a-1")).unwrap_err(),
        state.restart_note(&migration, 7).unwrap_err(),
    ];
    for (error, file) in errors.iter().zip([restore, restart]) {
        let remedy = error.remedy().unwrap();
        let away = format!("mv '{0}' '{0}.damaged'; then rekeeper retry m", file.display());
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
        assert!(remedy.starts_with(&away), "{remedy}");
    }
}

/// What an agent has in its own folder, and what a migration of any name could be called.
const NAMES: [&str; 6] = [
    "coordinator.json",
    "coordinator.json.new",
    "known-tables.json",
    "known-tables.json.new",
    "lock",
    "migrations",
];

#[test]
fn a_migration_of_any_name_harms_nothing_else_in_the_folder() {
    for name in NAMES {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let migration: MigrationName = name.parse().unwrap();
        state.hold_merges(&migration, &table("0a-1")).unwrap();
        state.write_record(&migration, 4, &manifest("0a-1", &[])).unwrap();
        state.obey(&token(1, "a")).unwrap();
        state.note_attempt(&migration, 7).unwrap();
        drop(state);
        let state = State::open(folder.path()).unwrap();
        assert_eq!(state.attempts(), [(migration.clone(), 7)], "{name}");
        assert!(state.holds_merges(&migration, &table("0a-1")), "{name}");
        assert!(state.record(&migration, 4).unwrap().is_some(), "{name}");
        crate::known::Known::open(folder.path()).unwrap();
    }
}

/// The folder of a migration as agents of before had it: beside the agent's own files.
fn as_before(folder: &Path, name: &str) {
    let aside = folder.join(".made");
    std::fs::rename(folder.join("migrations").join(name), &aside).unwrap();
    let all = folder.join("migrations");
    if std::fs::remove_dir(&all).is_err() {
        assert_ne!(name, "migrations");
    }
    std::fs::rename(aside, folder.join(name)).unwrap();
}

#[test]
fn an_agent_that_is_upgraded_in_the_middle_finds_its_notes_whatever_the_migration_is_called() {
    for name in NAMES
        .into_iter()
        .chain(["m"])
        .filter(|name| *name != "coordinator.json" && *name != "lock")
    {
        let folder = tempfile::tempdir().unwrap();
        let migration: MigrationName = name.parse().unwrap();
        let state = State::open(folder.path()).unwrap();
        state.obey(&token(3, "a")).unwrap();
        state.hold_merges(&migration, &table("0a-1")).unwrap();
        state.write_record(&migration, 4, &manifest("0a-1", &[])).unwrap();
        drop(state);
        as_before(folder.path(), name);
        std::fs::create_dir(folder.path().join("lost+found")).unwrap();
        std::fs::create_dir(folder.path().join("somebodys")).unwrap();
        std::fs::write(folder.path().join("somebodys/file"), b"x").unwrap();
        // Once more after that finds it as well.
        for _ in 0..2 {
            let state = State::open(folder.path()).unwrap();
            assert!(state.holds_merges(&migration, &table("0a-1")), "{name}");
            assert!(state.record(&migration, 4).unwrap().is_some(), "{name}");
            assert_eq!(state.seen(), token(3, "a"));
        }
        assert!(folder.path().join("lost+found").is_dir() && folder.path().join("somebodys/file").is_file());
        assert_eq!(folder.path().join(name).exists(), name == "migrations");
    }
}

#[test]
fn files_of_one_migration_in_both_places_are_not_decided() {
    let folder = tempfile::tempdir().unwrap();
    let (migration, state) = ("m".parse().unwrap(), State::open(folder.path()).unwrap());
    state.hold_merges(&migration, &table("0a-1")).unwrap();
    drop(state);
    std::fs::create_dir(folder.path().join("m")).unwrap();
    std::fs::write(folder.path().join("m/0a-2.held"), b"x").unwrap();
    let error = State::open(folder.path()).unwrap_err();
    assert!(matches!(&error, StateError::TwoFolders(..)), "{error}");
    let (old, new) = (folder.path().join("m"), folder.path().join("migrations/m"));
    assert!(
        error
            .to_string()
            .contains(&format!("both {} and {}", old.display(), new.display()))
    );
    assert!(old.join("0a-2.held").exists() && new.join("0a-1.held").exists());
}
