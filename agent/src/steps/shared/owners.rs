//! Whose replicas are at the path of a table.

use rekeeper_shared::domain::ids::{TableName, quote_literal};
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, TableRef, Witness};

use crate::clickhouse::is_zero_uuid;
use crate::steps::Context;
use crate::zookeeper::Owner;

/// Whose replicas are at the table's path: nobody's, or those of this migration's own tables, one of which made the path.
/// `own` as for [`taken`].
pub(in crate::steps) async fn at_path(
    context: &Context,
    witness: &Witness,
    own: Option<&TableRef>,
) -> Result<Vec<Owner>, Failure> {
    if context.zookeeper.is_absent(witness).await? {
        return Ok(Vec::new());
    }
    let owners = context.zookeeper.owners(&witness.ensemble, &witness.path).await?;
    if owners.iter().any(|owner| owner.is_first) && owners.iter().all(|owner| is_planned(owner, witness)) {
        return Ok(owners);
    }
    Err(taken(context, &witness.path, own.map(|table| &table.name), &owners))
}

/// It is the very table that the plan has, and not another one under its replica name.
fn is_planned(owner: &Owner, witness: &Witness) -> bool {
    let uuid = owner.uuid.as_deref().filter(|uuid| !is_zero_uuid(uuid));
    let mut planned = witness.replicas.iter();
    planned.any(|(name, planned)| *name == owner.replica && uuid == Some(planned))
}

/// Nothing is at the table's path. `own` as for [`taken`].
pub(in crate::steps) async fn check_absent(
    context: &Context,
    witness: &Witness,
    own: Option<&TableName>,
) -> Result<(), Failure> {
    if context.zookeeper.is_absent(witness).await? {
        return Ok(());
    }
    let owners = context.zookeeper.owners(&witness.ensemble, &witness.path).await?;
    Err(taken(context, &witness.path, own, &owners))
}

/// A path that others have, with the statements that free it. `own` is the table that is to be restored there, where it
/// is known: it must not be dropped, whoever has restored it.
pub(in crate::steps) fn taken(
    context: &Context,
    path: &ZkPath,
    own: Option<&TableName>,
    strangers: &[Owner],
) -> Failure {
    if strangers.is_empty() {
        let text = format!("{path} exists, and no replica is registered there");
        return Failure::lasting(Code::PathExists, text);
    }
    let who = |owner: &Owner| match &owner.table {
        Some(table) => format!("replica {}, which is {table} on {}", owner.replica, owner.host),
        None => format!("replica {}", owner.replica),
    };
    let who: Vec<String> = strangers.iter().map(who).collect();
    let text = format!("{path} exists: it has {}", who.join(", "));
    let mend = |owner: &Owner| match (&owner.table, own) {
        (Some(table), Some(own)) if table == own => format!(
            "do not drop {table} on {}: somebody has restored it by hand, and must restore its other replicas so too",
            owner.host
        ),
        (Some(table), own) => {
            let unless = if own.is_none() {
                ", unless this is the very table that is being migrated and somebody has restored it"
            } else {
                ""
            };
            format!("on {}: DROP TABLE {} SYNC{unless}", owner.host, table.sql())
        }
        (None, _) => format!(
            "SYSTEM DROP REPLICA {} FROM ZKPATH {}",
            quote_literal(&owner.replica),
            quote_literal(path.as_str())
        ),
    };
    let mend: Vec<String> = strangers.iter().map(mend).collect();
    let fix = format!(
        "look at what is there and keep elsewhere what is needed; then {}; then rekeeper retry {}",
        mend.join("; "),
        context.migration
    );
    Failure::lasting(Code::PathExists, text).with_fix(fix)
}
