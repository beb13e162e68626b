//! Operations on a real driver and a real store. Only the agents are made up, and nothing of gRPC takes part.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::future::{BoxFuture, ready};
use futures::{FutureExt as _, StreamExt as _};
use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::inventory::HostInventory;
use rekeeper_shared::domain::plan::PlanRequest;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Command, SeenToken};
use rekeeper_shared::people::rehearsal::{Action, RehearsedStep};
use rekeeper_shared::people::view::{PlanView, State};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::agents::{self, NotInspected, Refused};
use crate::driver::{Driver, Request};
use crate::limits::{Budget, Limits};
use crate::progress::OperatorOrder;
use crate::store::{SqliteStore, Store as _};
use cluster::{Size, cluster};

#[path = "../../tests/support/cluster.rs"]
mod cluster;

/// Hosts with what their agents would tell; any other host has no agent.
#[derive(Clone)]
struct Told(Arc<Mutex<BTreeMap<HostName, Result<HostInventory, String>>>>);

impl Told {
    /// Two hosts with a replica of each of three tables, of which nothing is to be said.
    fn sound() -> Self {
        let size = Size {
            shards: 1,
            tables: 3,
            sound: true,
        };
        let inventories = cluster(size).into_iter();
        let told = inventories.map(|inventory| (inventory.host.clone(), Ok(inventory)));
        Self(Arc::new(Mutex::new(told.collect())))
    }

    fn change(&self, change: impl FnOnce(&mut Result<HostInventory, String>)) {
        change(self.0.lock().unwrap().first_entry().unwrap().get_mut());
    }
}

impl AskAgents for Told {
    fn connected(&self) -> Vec<HostName> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    fn refused(&self) -> Vec<Refused> {
        vec![Refused {
            host: "stranger".parse().unwrap(),
            code: None,
            message: "its certificate is of another host".to_owned(),
        }]
    }

    fn inspect(&self, host: &HostName) -> BoxFuture<'static, Result<HostInventory, NotInspected>> {
        let told = self.0.lock().unwrap().get(host).cloned();
        let told = told.ok_or_else(|| NotInspected::NotConnected(host.clone()));
        ready(told.and_then(|told| told.map_err(NotInspected::Failed))).boxed()
    }

    fn rehearse(&self, host: &HostName, command: Command) -> BoxFuture<'static, Result<Vec<Action>, NotInspected>> {
        let node = format!("/{}", command.order.kind());
        let told = self.inspect(host);
        async move { told.await.map(|_| vec![Action::CreateNode(node)]) }.boxed()
    }
}

/// A coordinator without a network, and what its driver was asked.
struct Whole {
    operations: Operations<SqliteStore, Told>,
    told: Told,
    asked: Arc<Mutex<Vec<&'static str>>>,
    _folder: TempDir,
}

impl Whole {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, opened) = SqliteStore::open(folder.path()).unwrap();
        let store = Arc::new(store);
        let own = SeenToken {
            token: opened.token,
            run: opened.run,
        };
        let (service, handle, heard) = agents::new(own, opened.past, Budget::new(Limits::default()));
        let driver = Driver::load(Arc::clone(&store), handle).await.unwrap();
        let (handle_of_driver, mut requests) = driver.handle();
        let (forward, forwarded) = mpsc::channel(1);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                noted.lock().unwrap().push(kind(&request));
                forward.send(request).await.unwrap();
            }
        });
        tokio::spawn(async move {
            // As long as it is there, agents may connect: without it the driver ends.
            let _service = service;
            driver.run(heard, forwarded).await.unwrap();
        });
        let told = Told::sound();
        Self {
            operations: Operations::new(handle_of_driver, told.clone(), store),
            told,
            asked,
            _folder: folder,
        }
    }

    async fn plan(&self, name: &str) -> Result<PlanView, Error> {
        let request = PlanRequest::default();
        self.operations.plan(&named(name), &request, "anna".into()).await
    }

    async fn start_of(&self, name: &str) -> Result<String, Error> {
        self.operations.start(&named(name), "anna".into(), None).await
    }

    async fn state(&self, name: &str) -> State {
        self.operations.status(&named(name)).await.unwrap().state
    }

    fn was_asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn kind(request: &Request) -> &'static str {
    match request {
        Request::Snapshot(..) => "snapshot",
        Request::Save(..) => "save",
        Request::Order { .. } => "order",
        Request::Hosts(_)
        | Request::Migrations(_)
        | Request::Status(..)
        | Request::Plan(..)
        | Request::Progress(..) => "look",
    }
}

fn named(name: &str) -> MigrationName {
    name.parse().unwrap()
}

/// What blocks it, in words for people.
fn blocked<T>(answer: Result<T, Error>) -> String {
    match answer.err() {
        Some(Error::Refused(OperatorError::Blocked(why))) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_plan_is_saved_once_and_asks_the_driver_one_question() {
    let whole = Whole::start().await;
    let view = whole.plan("m").await.unwrap();
    assert_eq!((view.blockers, view.replica_sets.len()), (vec![], 3));
    assert_eq!(whole.was_asked(), ["snapshot", "save"]);
    let again = whole.plan("m").await;
    assert!(
        matches!(again, Err(Error::Refused(OperatorError::Exists(_)))),
        "{again:?}"
    );
    assert_eq!(whole.was_asked(), ["snapshot"]);
    assert_eq!(whole.operations.migrations().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_plan_that_is_blocked_is_shown_and_not_saved() {
    let whole = Whole::start().await;
    whole.told.change(|told| *told = Err("no right to read".to_owned()));
    let view = whole.plan("m").await.unwrap();
    let mut codes = view.blockers.iter().map(|finding| finding.code);
    assert!(codes.any(|code| code == Code::InspectionFailed), "{:?}", view.blockers);
    let unknown = whole.operations.status(&named("m")).await;
    assert!(
        matches!(unknown, Err(Error::Refused(OperatorError::Unknown(_)))),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn a_host_that_was_named_and_is_not_connected_blocks_its_plan() {
    let whole = Whole::start().await;
    let request = PlanRequest {
        hosts: vec!["ch-9".parse().unwrap()],
        ..PlanRequest::default()
    };
    let view = whole
        .operations
        .plan(&named("m"), &request, "anna".into())
        .await
        .unwrap();
    let found = view.blockers.iter().map(|finding| (finding.code, finding.host.clone()));
    assert_eq!(
        found.collect::<Vec<_>>(),
        [(Code::AgentNotConnected, Some(request.hosts[0].clone()))]
    );
}

#[tokio::test]
async fn every_check_is_made_again_before_the_first_step_and_never_after_it() {
    let whole = Whole::start().await;
    whole.plan("m").await.unwrap();
    let gone = whole
        .told
        .0
        .lock()
        .unwrap()
        .first_key_value()
        .unwrap()
        .1
        .clone()
        .unwrap()
        .tables
        .remove(0);
    whole.told.change(|told| drop(told.as_mut().unwrap().tables.remove(0)));
    whole.was_asked();
    let why = blocked(whole.start_of("m").await);
    assert!(why.contains(&gone.name.to_string()), "{why}");
    assert_eq!(whole.was_asked(), ["snapshot"], "nothing was ordered");
    assert_eq!(whole.state("m").await, State::Planned);

    whole.told.change(|told| told.as_mut().unwrap().tables.insert(0, gone));
    whole.was_asked();
    assert_eq!(whole.start_of("m").await.unwrap(), "");
    assert_eq!(whole.was_asked(), ["snapshot", "order"]);
    whole
        .told
        .change(|told| *told = Err("its server is restarting".to_owned()));
    let again = whole.start_of("m").await.unwrap();
    assert!(again.contains("running already"), "{again}");
}

#[tokio::test]
async fn another_migration_under_way_on_a_host_blocks_plan_and_start() {
    let whole = Whole::start().await;
    whole.plan("m").await.unwrap();
    whole.plan("n").await.unwrap();
    whole.start_of("m").await.unwrap();
    let why = blocked(whole.start_of("n").await);
    assert!(why.contains("migration m is not ended (RUNNING)"), "{why}");
    let view = whole.plan("o").await.unwrap();
    let codes: Vec<Code> = view.blockers.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::MigrationOverlap; 2]);
}

#[tokio::test]
async fn a_dry_run_tells_each_step_and_orders_none() {
    let whole = Whole::start().await;
    whole.plan("m").await.unwrap();
    whole.was_asked();
    let steps: Vec<_> = whole
        .operations
        .dry_run(&named("m"), None)
        .await
        .unwrap()
        .collect()
        .await;
    assert_eq!(whole.was_asked(), ["snapshot"]);
    let steps: Vec<RehearsedStep> = steps.into_iter().collect::<Result<_, _>>().unwrap();
    assert!(steps.is_sorted_by_key(|step| step.host.clone()), "host by host");
    let of = |step: &str| steps.iter().filter(|rehearsed| rehearsed.step == step).count();
    assert_eq!((of("detach"), of("clean"), of("restore"), of("restart")), (6, 3, 6, 2));
    // What the record makes is taken away by the clean, which found nothing when it was asked.
    let clean = steps.iter().find(|rehearsed| rehearsed.step == "clean").unwrap();
    assert_eq!(clean.actions[0], Action::DeleteNode("/record".into()));
    assert_eq!(whole.state("m").await, State::Planned);

    whole.start_of("m").await.unwrap();
    whole.told.change(|told| *told = Err("it is busy".to_owned()));
    let steps = whole.operations.dry_run(&named("m"), None).await.unwrap();
    let errors = steps.filter_map(|step| ready(step.err())).collect::<Vec<_>>().await;
    assert!(
        matches!(&errors[0], Error::NotRehearsed(why) if why.contains("it is busy")),
        "{errors:?}"
    );
}

#[tokio::test]
async fn one_table_is_named_and_not_several_or_none() {
    let whole = Whole::start().await;
    whole.plan("m").await.unwrap();
    whole.start_of("m").await.unwrap();
    let skip = async |text: &str| {
        let what = LeftOut::Table(text.to_owned());
        whole.operations.skip(&named("m"), "anna".into(), what).await
    };
    for text in ["db0.nosuch", "db*.table_*", "[bad"] {
        let refused = skip(text).await;
        assert!(matches!(refused, Err(Error::NotOneTable(_))), "{text}: {refused:?}");
    }
    let notice = skip("db1.*").await.unwrap();
    assert!(
        notice.contains("left out from here on") && notice.contains("db1.table_1"),
        "{notice}"
    );
    let unknown = whole
        .operations
        .retry(&named("no"), "anna".into(), Some("db1.*"), None)
        .await;
    assert!(
        matches!(unknown, Err(Error::Refused(OperatorError::Unknown(_)))),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn events_and_report_are_told_piece_by_piece() {
    let whole = Whole::start().await;
    whole.plan("m").await.unwrap();
    whole.start_of("m").await.unwrap();
    whole
        .operations
        .order(&named("m"), "ben".into(), OperatorOrder::Pause)
        .await
        .unwrap();
    let texts = async |after| {
        let events = whole.operations.events(&named("m"), after, false).await.unwrap();
        events.map(|event| event.unwrap().text).collect::<Vec<_>>().await
    };
    assert_eq!(texts(0).await, ["start by anna", "pause by ben"]);
    assert_eq!(texts(1).await, ["pause by ben"]);
    let report: Vec<_> = whole.operations.report(&named("m")).await.unwrap().collect().await;
    let tables: Vec<usize> = report
        .iter()
        .map(|piece| piece.as_ref().unwrap().tables.len())
        .collect();
    assert_eq!(tables, [0, 1, 1, 1, 1, 1, 1], "a head, and each table replica");
}

#[tokio::test]
async fn an_agent_that_was_refused_is_shown_among_the_hosts() {
    let whole = Whole::start().await;
    let hosts = whole.operations.hosts().await.unwrap();
    let shown: Vec<_> = hosts.iter().map(|host| (host.host.as_str(), host.connected)).collect();
    assert_eq!(shown, [("stranger", false)]);
    assert!(hosts[0].refused.as_ref().unwrap().contains("certificate"));
}
