//! What every store must hold, whatever it is built on. [`suite!`] makes the tests of one.

use futures::FutureExt as _;
use rekeeper_coordinator::store::{Store, StoreError};
use rekeeper_shared::domain::document;
use rekeeper_shared::domain::ids::MigrationName;

use super::support::{append, open, open_error, plan, record, save, some_document};

/// The tests of a store: `suite!(module, Store)`. Its processes are told which store they are of by the module.
macro_rules! suite {
    ($module:ident, $store:ty) => {
        mod $module {
            $crate::conformance::tests! { $store:
                conformance::no_store_is_made_below_a_folder_that_is_not_there,
                conformance::what_was_written_is_read_back,
                conformance::what_cannot_be_written_leaves_the_rest_alone,
                conformance::each_opening_takes_a_higher_token_and_only_one_is_open,
                conformance::an_append_that_nobody_waits_for_is_written,
                conformance::writes_keep_the_order_of_the_calls,
                conformance::a_document_is_kept_once_and_for_all_who_name_it,
                conformance::a_document_is_read_beside_its_caller,
            }

            #[tokio::test]
            #[ignore = "a process that other tests start"]
            async fn process_that_appends() {
                $crate::killed::process_that_appends::<$store>().await;
            }

            const PROCESS: &str = concat!(stringify!($module), "::process_that_appends");

            #[tokio::test]
            async fn what_was_acknowledged_survives_sigkill() {
                $crate::killed::what_was_acknowledged_survives_sigkill::<$store>(PROCESS).await;
            }

            #[tokio::test]
            async fn after_a_write_that_failed_nothing_is_taken_any_more() {
                $crate::killed::after_a_write_that_failed_nothing_is_taken_any_more::<$store>(PROCESS).await;
            }
        }
    };
}

macro_rules! tests {
    ($store:ty: $($room:ident::$rule:ident,)*) => {
        $(#[tokio::test]
        async fn $rule() {
            $crate::$room::$rule::<$store>().await;
        })*
    };
}

pub(crate) use {suite, tests};

/// On a volume that is not mounted it would be there, and be gone when the volume is.
pub(crate) async fn no_store_is_made_below_a_folder_that_is_not_there<S: Store>() {
    let folder = tempfile::tempdir().unwrap();
    let error = open_error::<S>(&folder.path().join("nope/deep/coord"));
    assert!(error.to_string().contains("nope/deep/coord"), "{error}");
    assert!(!folder.path().join("nope").exists());
}

pub(crate) async fn what_was_written_is_read_back<S: Store>() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = S::open(&folder.path().join("new")).unwrap();
    save(&store, "b").await.unwrap();
    save(&store, "a").await.unwrap();
    assert_eq!(store.plans().await.unwrap(), [plan("b"), plan("a")]);

    let packed = some_document(1);
    let mut with_document = append("a", 2);
    with_document.document = Some(packed.clone());
    let group = vec![append("a", 1), append("b", 7), with_document];
    let written = store.append(group).await.unwrap();
    assert_eq!(written.iter().map(|w| w.seq).collect::<Vec<_>>(), [1, 1, 2]);
    humantime::parse_rfc3339(&written[0].time).unwrap();
    assert_eq!(written[0].time.len(), "2026-01-01T00:00:00.000Z".len());

    let a: MigrationName = "a".parse().unwrap();
    let all = store.records(&a, 0, 10).await.unwrap();
    assert_eq!(
        all.iter().map(|s| s.record.clone()).collect::<Vec<_>>(),
        [record(1), record(2)]
    );
    assert_eq!(all[1].time, written[2].time);
    assert_eq!(store.records(&a, 1, 10).await.unwrap(), all[1..]);
    assert_eq!(store.records(&a, 0, 1).await.unwrap(), all[..1]);

    assert_eq!(store.document(&packed.digest).await.unwrap(), Some(packed));
    assert_eq!(store.document("none").await.unwrap(), None);
}

pub(crate) async fn what_cannot_be_written_leaves_the_rest_alone<S: Store>() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = S::open(folder.path()).unwrap();
    save(&store, "a").await.unwrap();
    // Queued together, so that some of them share a transaction.
    let (good, again, unknown, last) = (
        store.append(vec![append("a", 1)]),
        save(&store, "a"),
        store.append(vec![append("a", 99), append("no", 1)]),
        store.append(vec![append("a", 2)]),
    );
    assert!(matches!(again.await, Err(StoreError::NameTaken(name)) if name.as_str() == "a"));
    assert!(matches!(unknown.await, Err(StoreError::UnknownMigration(name)) if name.as_str() == "no"));
    assert_eq!(good.await.unwrap()[0].seq, 1);
    assert_eq!(last.await.unwrap()[0].seq, 2, "a group that was refused took no number");
}

pub(crate) async fn each_opening_takes_a_higher_token_and_only_one_is_open<S: Store>() {
    let folder = tempfile::tempdir().unwrap();
    let (first, opened) = S::open(folder.path()).unwrap();
    assert_eq!(opened.token, 1);
    let refused = S::open(folder.path()).err().unwrap();
    assert!(matches!(refused, StoreError::InUse(_)), "{refused}");
    assert!(
        refused.to_string().contains("in use by another coordinator"),
        "{refused}"
    );
    drop(first);
    let (_second, again) = S::open(folder.path()).unwrap();
    assert_eq!(again.token, 2, "the opening that was refused took no token");
    assert_ne!(again.run, opened.run);
    assert_eq!(again.past, [(1, opened.run)].into());
}

pub(crate) async fn an_append_that_nobody_waits_for_is_written<S: Store>() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = S::open(folder.path()).unwrap();
    save(&store, "a").await.unwrap();
    drop(store.append(vec![append("a", 1)]));
    drop(store);
    let (store, _) = S::open(folder.path()).unwrap();
    assert_eq!(store.records(&"a".parse().unwrap(), 0, 10).await.unwrap().len(), 1);
}

/// Two that wait for their answers in another order, and one that does not wait.
pub(crate) async fn writes_keep_the_order_of_the_calls<S: Store>() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = S::open(folder.path()).unwrap();
    // The plan of a migration, then its records, before anything is answered.
    let saved = save(&store, "a");
    let first = store.append(vec![append("a", 1)]);
    drop(store.append(vec![append("a", 2)]));
    let third = store.append(vec![append("a", 3)]);
    assert_eq!(third.await.unwrap()[0].seq, 3);
    assert_eq!(first.await.unwrap()[0].seq, 1);
    saved.await.unwrap();
    let stored = store.records(&"a".parse().unwrap(), 0, 10).await.unwrap();
    let records: Vec<_> = stored.into_iter().map(|stored| stored.record).collect();
    assert_eq!(records, [record(1), record(2), record(3)]);
}

/// Two records name the same document; the second finds it there.
pub(crate) async fn a_document_is_kept_once_and_for_all_who_name_it<S: Store>() {
    let folder = tempfile::tempdir().unwrap();
    let packed = some_document(7);
    {
        let (store, _) = S::open(folder.path()).unwrap();
        for name in ["a", "b"] {
            save(&store, name).await.unwrap();
            let mut named = append(name, 1);
            named.document = Some(packed.clone());
            store.append(vec![named]).await.unwrap();
        }
    }
    let store = open::<S>(folder.path()).unwrap();
    assert_eq!(store.document(&packed.digest).await.unwrap(), Some(packed));
}

/// One who reads a large document is polled beside others, as in the driver's task.
pub(crate) async fn a_document_is_read_beside_its_caller<S: Store>() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = S::open(folder.path()).unwrap();
    save(&store, "a").await.unwrap();
    let large = document::pack(&(0..2_000_000_u64).collect::<Vec<_>>()).unwrap();
    let mut named = append("a", 1);
    named.document = Some(large.clone());
    store.append(vec![named]).await.unwrap();
    let mut read = store.document(&large.digest);
    let mut turns = 0;
    let found = loop {
        match (&mut read).now_or_never() {
            Some(found) => break found.unwrap(),
            None => turns += 1,
        }
        // What is ordered meanwhile is written down.
        store.append(vec![append("a", turns)]).await.unwrap();
    };
    assert_eq!(found, Some(large));
    assert!(turns > 0, "the caller had to wait for the whole read");
}
