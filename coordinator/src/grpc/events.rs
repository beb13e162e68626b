//! The events of a migration, as people see them.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use rekeeper_proto::v1::View;
use rekeeper_shared::plan::Plan;
use rekeeper_shared::step::{Done, Exported, Outcome};
use rekeeper_shared::view::EventView;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::driver::{DriverHandle, name_of};
use crate::progress::{Intent, OperatorOrder, Record};
use crate::store::{Store, Stored};

/// How many records are read at once.
const PAGE: usize = 1_000;

/// Every event after a number; with `follow` also those to come, until the migration has ended.
pub(super) fn stream<S: Store>(
    store: Arc<S>,
    driver: DriverHandle,
    plan: Arc<Plan>,
    after: u64,
    follow: bool,
) -> Pin<Box<dyn Stream<Item = Result<View, Status>> + Send>> {
    let (sender, receiver) = mpsc::channel(PAGE);
    tokio::spawn(async move {
        // A caller that has gone closes the channel: nobody is left to tell.
        drop(send(store, driver, plan, after, follow, sender).await);
    });
    ReceiverStream::new(receiver).boxed()
}

type Gone = mpsc::error::SendError<Result<View, Status>>;

async fn send<S: Store>(
    store: Arc<S>,
    driver: DriverHandle,
    plan: Arc<Plan>,
    after: u64,
    follow: bool,
    sender: mpsc::Sender<Result<View, Status>>,
) -> Result<(), Gone> {
    let mut changed = driver.changed();
    let mut intents = std::collections::HashMap::new();
    // From the first record on, since an event names only its intent's number.
    let mut read = 0;
    loop {
        changed.mark_unchanged();
        let ended = match driver.plan(&plan.name).await {
            Ok(Some((_, state))) => state.is_final(),
            Ok(None) | Err(_) => true,
        };
        loop {
            let page = match store.records(&plan.name, read, PAGE).await {
                Ok(page) => page,
                Err(e) => return sender.send(Err(Status::internal(e.to_string()))).await,
            };
            let Some(last) = page.last() else { break };
            read = last.seq;
            for stored in page {
                if let Record::Intent(intent) = &stored.record {
                    intents.insert(intent.attempt, *intent);
                }
                if stored.seq > after {
                    let json = serde_json::to_string(&event(&plan, &intents, stored));
                    sender
                        .send(
                            json.map(|json| View { json })
                                .map_err(|e| Status::internal(e.to_string())),
                        )
                        .await?;
                }
            }
        }
        if !follow || ended {
            return Ok(());
        }
        tokio::select! {
            () = sender.closed() => return Ok(()),
            more = changed.changed() => if more.is_err() { return Ok(()) },
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
            format!(
                "{} parts active, {} attached again,{unclear} {} covered, {} merged since, {} empty",
                counts.active, counts.attached_again, counts.covered, counts.merged, counts.empty
            )
        }
    }
}
