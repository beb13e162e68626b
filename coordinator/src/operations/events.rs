//! The events of a migration, as people see them.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::plan::Plan;
use rekeeper_shared::domain::step::{Done, Exported, Outcome};
use rekeeper_shared::people::view::EventView;
use tokio::sync::mpsc::{self, error::SendTimeoutError};
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{AskAgents, Error, Operations, Pieces};
use crate::driver::{OperatorError, name_of};
use crate::progress::{Intent, OperatorOrder, Record};
use crate::store::{Store, Stored};

/// How many records are read at once, and how many events wait for their reader.
const PAGE: usize = 1_000;
/// How a follower looks whether there is more, and how long it may take nothing.
const PACE: Pace = Pace {
    between: Duration::from_millis(500),
    patience: Duration::from_secs(30),
};

#[derive(Debug, Clone, Copy)]
struct Pace {
    /// From one look to the next: each is a question to the driver and to the store, which have other things to do.
    between: Duration,
    /// Who takes nothing for so long is let go.
    patience: Duration,
}

impl<S: Store, A: AskAgents> Operations<S, A> {
    /// Every event after a number; with `follow` also those to come, until the migration has ended.
    ///
    /// # Errors
    /// There is no such migration.
    pub async fn events(&self, name: &MigrationName, after: u64, follow: bool) -> Result<Pieces<EventView>, Error> {
        let (plan, _) = (self.driver.plan(name).await?).ok_or_else(|| OperatorError::Unknown(name.clone()))?;
        let (store, driver) = (Arc::clone(&self.store), self.driver.clone());
        let (changed, name) = (driver.changed(), name.clone());
        let has_ended = move || {
            let (driver, name) = (driver.clone(), name.clone());
            async move { !matches!(driver.plan(&name).await, Ok(Some((_, state))) if !state.is_final()) }
        };
        Ok(paced(store, has_ended, changed, plan, (after, follow), PACE))
    }
}

fn paced<S: Store, F: Future<Output = bool> + Send>(
    store: Arc<S>,
    has_ended: impl Fn() -> F + Send + Sync + 'static,
    changed: watch::Receiver<u64>,
    plan: Arc<Plan>,
    (after, follow): (u64, bool),
    pace: Pace,
) -> Pieces<EventView> {
    let (sender, receiver) = mpsc::channel(PAGE);
    let (tell_end, end) = oneshot::channel();
    tokio::spawn(async move {
        let reader = Reader {
            sender,
            patience: pace.patience,
        };
        match send(store, has_ended, changed, plan, (after, follow), pace, reader).await {
            // A caller that has gone closes the channel: nobody is left to tell.
            Ok(()) | Err(NotTaken::Gone) => {}
            Err(NotTaken::Stalled) => {
                let seconds = pace.patience.as_secs();
                drop(tell_end.send(Error::Stalled { seconds }));
            }
        }
    });
    let end = futures::stream::once(end).filter_map(|end| async { end.ok().map(Err) });
    ReceiverStream::new(receiver).chain(end).boxed()
}

/// Why an event was not taken.
enum NotTaken {
    /// Nobody is there any more.
    Gone,
    /// Somebody is, and takes nothing.
    Stalled,
}

/// Who reads the events.
struct Reader {
    sender: mpsc::Sender<Result<EventView, Error>>,
    patience: Duration,
}

impl Reader {
    async fn tell(&self, event: Result<EventView, Error>) -> Result<(), NotTaken> {
        let sent = self.sender.send_timeout(event, self.patience).await;
        sent.map_err(|not_sent| match not_sent {
            SendTimeoutError::Timeout(_) => NotTaken::Stalled,
            SendTimeoutError::Closed(_) => NotTaken::Gone,
        })
    }
}

async fn send<S: Store, F: Future<Output = bool>>(
    store: Arc<S>,
    has_ended: impl Fn() -> F,
    mut changed: watch::Receiver<u64>,
    plan: Arc<Plan>,
    (after, follow): (u64, bool),
    pace: Pace,
    reader: Reader,
) -> Result<(), NotTaken> {
    let mut intents = std::collections::HashMap::new();
    // From the first record on, since an event names only its intent's number.
    let mut read = 0;
    loop {
        changed.mark_unchanged();
        let ended = has_ended().await;
        loop {
            let page = match store.records(&plan.name, read, PAGE).await {
                Ok(page) => page,
                Err(e) => return reader.tell(Err(e.into())).await,
            };
            let Some(last) = page.last() else { break };
            read = last.seq;
            for stored in page {
                if let Record::Intent(intent) = &stored.record {
                    intents.insert(intent.attempt, *intent);
                }
                if stored.seq > after {
                    reader.tell(Ok(event(&plan, &intents, stored))).await?;
                }
            }
        }
        if !follow || ended {
            return Ok(());
        }
        tokio::select! {
            () = reader.sender.closed() => return Ok(()),
            more = async {
                tokio::time::sleep(pace.between).await;
                changed.changed().await
            } => if more.is_err() { return Ok(()) },
        }
    }
}

fn event(plan: &Plan, intents: &std::collections::HashMap<u64, Intent>, stored: Stored) -> EventView {
    let Stored { seq, time, record } = stored;
    let of = |kind: &str, attempt: Option<u64>, text: String| {
        let intent = attempt.and_then(|attempt| intents.get(&attempt));
        EventView {
            seq,
            time: time.clone(),
            kind: kind.to_owned(),
            attempt,
            step: intent.map(|intent| intent.step.to_string()),
            host: intent.map(|intent| plan.hosts[intent.host].name.clone()),
            target: intent.map(|intent| name_of(plan, intent.target)),
            text,
        }
    };
    match record {
        Record::Ordered { by, order } => of("ordered", None, format!("{} by {by}", ordered(&order))),
        Record::Intent(intent) => of("intent", Some(intent.attempt), "ordered".to_owned()),
        Record::Event {
            attempt,
            outcome: Outcome::Done(done),
        } => of("done", Some(attempt), done_text(&done)),
        Record::Event {
            attempt,
            outcome: Outcome::Failed(failure),
        } => of("failed", Some(attempt), failure.problem.to_string()),
    }
}

fn ordered(order: &OperatorOrder) -> String {
    match order {
        OperatorOrder::Start { until: None } => "start".to_owned(),
        OperatorOrder::Start { until: Some(until) } => format!("start until {}", until.as_str()),
        OperatorOrder::Pause => "pause".to_owned(),
        OperatorOrder::Resume => "resume".to_owned(),
        OperatorOrder::Retry { table, host } => {
            let table = table.as_ref().map(|table| format!(" of {table}")).unwrap_or_default();
            let host = host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
            format!("retry{table}{host}")
        }
        OperatorOrder::Skip { table } => format!("skip of {table}"),
        OperatorOrder::Leave { host } => format!("skip of host {host}"),
        OperatorOrder::LeaveTable { table, host } => format!("skip of {table} on {host}"),
        OperatorOrder::Abort => "abort".to_owned(),
    }
}

/// On which host is told beside it.
fn exported(export: Option<&Exported>) -> String {
    export.map_or_else(String::new, |Exported { file, nodes, bytes, .. }| {
        format!("; what was there is exported to {file} ({nodes} znodes, {bytes} bytes)")
    })
}

fn done_text(done: &Done) -> String {
    match done {
        Done::Plain => "done".to_owned(),
        Done::Settled(reasons) | Done::Recorded { unsettled: reasons, .. } if !reasons.is_empty() => {
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            format!("not settled: {}", reasons.join("; "))
        }
        Done::Settled(_) => "settled".to_owned(),
        Done::Recorded { export, .. } => format!("part set of record saved{}", exported(export.as_ref())),
        Done::Cleaned { znodes, export } => format!("{znodes} nodes deleted{}", exported(export.as_ref())),
        Done::Restarted { at } => format!("a server answers that started at {at}"),
        Done::Attached { parts, rows, .. } => format!("manifest of {parts} parts, {rows} rows"),
        Done::Restored { counts, .. } => {
            let unclear = match counts.unclear {
                0 => String::new(),
                parts => format!(" {parts} parts active or attached again (the agent has lost its note),"),
            };
            let aside = match counts.set_aside {
                0 => String::new(),
                parts => format!(", {parts} set aside: not on the record"),
            };
            format!(
                "{} parts active, {} attached again,{unclear} {} covered, {} merged since, {} empty{aside}",
                counts.active, counts.attached_again, counts.covered, counts.merged, counts.empty
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use rekeeper_shared::domain::document::Packed;
    use rekeeper_shared::domain::plan::PlanRequest;

    use super::*;
    use crate::store::{Append, Opened, Pending, StoreError, Written};

    /// A store with so many records, which counts how often they are read.
    #[derive(Default)]
    struct Many {
        records: u64,
        reads: AtomicUsize,
    }

    impl Store for Many {
        fn open(_: &Path) -> Result<(Self, Opened), StoreError> {
            unreachable!("it is made where it is used")
        }

        fn plans(&self) -> Pending<Vec<Plan>> {
            async { Ok(Vec::new()) }.boxed()
        }

        fn save_plan(&self, _: &Plan, _: Packed) -> Pending<()> {
            async { Ok(()) }.boxed()
        }

        fn records(&self, _: &MigrationName, after: u64, limit: usize) -> Pending<Vec<Stored>> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let record = Record::Ordered {
                by: "anna".into(),
                order: OperatorOrder::Pause,
            };
            let page = (after + 1..=self.records).take(limit).map(|seq| Stored {
                seq,
                time: String::new(),
                record: record.clone(),
            });
            let page = page.collect();
            async { Ok(page) }.boxed()
        }

        fn append(&self, _: Vec<Append>) -> Pending<Vec<Written>> {
            async { Ok(Vec::new()) }.boxed()
        }

        fn document(&self, _: &str) -> Pending<Option<Packed>> {
            async { Ok(None) }.boxed()
        }

        fn has_room(&self) -> bool {
            true
        }

        fn keep_room(&self, _: u64) {}

        fn failed(&self) -> BoxFuture<'static, String> {
            std::future::pending().boxed()
        }
    }

    fn plan() -> Arc<Plan> {
        Arc::new(Plan {
            name: "m".parse().unwrap(),
            created: String::new(),
            created_by: String::new(),
            request: PlanRequest::default(),
            hosts: Vec::new(),
            tables: Vec::new(),
            sets: Vec::new(),
            waves: Vec::new(),
            warnings: Vec::new(),
            forecasts: Vec::new(),
            attested: true,
        })
    }

    #[tokio::test]
    async fn a_follower_that_takes_nothing_is_let_go_and_told() {
        let store = Arc::new(Many {
            records: 5_000,
            ..Many::default()
        });
        let pace = Pace {
            patience: Duration::from_millis(100),
            ..PACE
        };
        let (_changes, changed) = watch::channel(0);
        let events = paced(Arc::clone(&store), || async { false }, changed, plan(), (0, true), pace);
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Nobody reads for it any more: it was let go, and does not wait for its reader.
        assert_eq!(Arc::strong_count(&store), 1);
        let mut told: Vec<_> = events.collect().await;
        let last = told.pop().unwrap().unwrap_err();
        assert!(last.to_string().contains("no event was taken"), "{last}");
        assert_eq!(told.len(), PAGE);
    }

    #[tokio::test]
    async fn a_follower_does_not_look_at_every_change() {
        let store = Arc::new(Many::default());
        let (changes, changed) = watch::channel(0);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let has_ended = move || {
            count.fetch_add(1, Ordering::Relaxed);
            async { false }
        };
        let _events = paced(Arc::clone(&store), has_ended, changed, plan(), (0, true), PACE);
        for change in 0..500 {
            changes.send_replace(change);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let looks = asked.load(Ordering::Relaxed).max(store.reads.load(Ordering::Relaxed));
        println!("{looks} looks for 500 changes");
        assert!((1..=50).contains(&looks), "{looks} looks for 500 changes");
    }
}
