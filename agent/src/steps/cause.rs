//! Why a step on a table failed, where the server does not say it: of a table whose session with ZooKeeper is lost it says only
//! that it is read-only, as of one whose metadata is gone.

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, Order, TableRef};

use crate::clickhouse::ClickHouse;

/// What ClickHouse calls 242.
const READ_ONLY: &str = "(TABLE_IS_READ_ONLY)";

const NO_SESSION: &str =
    "the ClickHouse server has no session with ZooKeeper (system.replicas: is_session_expired is 1)";

/// The same failure under ZOOKEEPER_AWAY, when it says no more than which step failed, may pass, and the server has no session
/// with ZooKeeper for the table. Whether it is tried again is not changed.
pub async fn by_cause(failure: Failure, order: &Order, clickhouse: &ClickHouse) -> Failure {
    match asked(&failure, order) {
        None => failure,
        Some(table) => match clickhouse.replica(&table.name).await {
            Ok(Some(replica)) if replica.session_expired => {
                // What was found besides says nothing more, and differs from table to table.
                tracing::info!(table = %table.name, problem = %failure.problem, "the server has no session with ZooKeeper");
                Failure::passing(Code::ZookeeperAway, NO_SESSION)
            }
            // A server that does not answer now has no more to say.
            Ok(Some(_) | None) | Err(_) => failure,
        },
    }
}

/// The table of which the server is to be asked. One that was attached without metadata never gets another session by itself,
/// also when ZooKeeper is back: of that the session tells only where a statement needed it.
fn asked<'a>(failure: &Failure, order: &'a Order) -> Option<&'a TableRef> {
    if !failure.retry || failure.problem.code != order.kind().failure_code() {
        return None;
    }
    let is_read_only = failure.problem.message.contains(READ_ONLY);
    match order {
        Order::Sync(table) | Order::Detach(table) | Order::Reattach(table) => Some(table),
        Order::Attach { table, .. } | Order::Restore { table, .. } | Order::Clear(table) | Order::Finish(table) => {
            is_read_only.then_some(table)
        }
        // With ZooKeeper alone, which says itself that it cannot be reached; or with no table.
        Order::Attest { .. }
        | Order::Freeze(_)
        | Order::Settle(_)
        | Order::Record(_)
        | Order::Clean(_)
        | Order::Release(_)
        | Order::Witness(_)
        | Order::Restart => None,
    }
}

#[cfg(test)]
mod tests {
    use rekeeper_shared::domain::ids::TableName;
    use rekeeper_shared::domain::place::ZkPath;

    use super::*;

    #[test]
    fn the_server_is_asked_only_where_it_may_know_more() {
        let table = TableRef {
            name: TableName::new("d", "t"),
            uuid: "u".into(),
            path: ZkPath::parse("/t").unwrap(),
            replica_name: "r".into(),
        };
        let read_only = "ALTER: Code: 242. DB::Exception: Table is in readonly mode. (TABLE_IS_READ_ONLY)";
        let (sync, finish) = (Order::Sync(table.clone()), Order::Finish(table));
        let is_asked = |failure: Failure, order: &Order| asked(&failure, order).is_some();
        assert!(is_asked(Failure::passing(Code::SyncFailed, "read-only"), &sync));
        assert!(is_asked(Failure::passing(Code::MergesFailed, read_only), &finish));
        // It may have been attached without metadata.
        assert!(!is_asked(Failure::passing(Code::MergesFailed, "no memory"), &finish));
        // The cause is known.
        assert!(!is_asked(Failure::passing(Code::ClickhouseAway, "gone"), &sync));
        assert!(!is_asked(Failure::lasting(Code::TableChanged, "another"), &sync));
        assert!(!is_asked(Failure::lasting(Code::SyncFailed, "10 minutes"), &sync));
        assert!(!is_asked(Failure::lasting(Code::RestartFailed, "x"), &Order::Restart));
    }
}
