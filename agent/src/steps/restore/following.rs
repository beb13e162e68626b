//! What a follower has to follow: what was decided of its parts, and what was restored before it.

use std::collections::HashSet;

use crate::rules::accounting::{Before, Evidence, FollowerEvidence, account_follower};
use crate::rules::settle::uncovered;
use crate::rules::union::decide_again;
use rekeeper_shared::domain::account::Account;
use rekeeper_shared::domain::document::{Manifest, Packed, PartSetOfRecord, unpack};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, TableRef};
use rekeeper_shared::domain::union::{Share, Union, Verdict};

use crate::steps::Context;
use crate::steps::shared::attested::is_attested;
use crate::words::some_of;

/// What a follower has to follow.
pub(super) struct Following {
    /// What was decided of its parts.
    pub(super) share: Share,
    /// The manifests of the reference and of those that brought parts, with their shares.
    pub(super) before: Vec<(Manifest, Option<Share>)>,
}

/// What was decided of the set's parts; anew where the replica that was to be first has been left out since.
fn union(record: &PartSetOfRecord, before: &[Manifest], table: &TableRef) -> Result<Union, Failure> {
    let first = before.first().map(|manifest| manifest.replica_name.as_str());
    if first.is_none() || first == record.union.order.first().map(String::as_str) {
        return Ok(record.union.clone());
    }
    let mut order: Vec<&str> = before.iter().map(|manifest| manifest.replica_name.as_str()).collect();
    order.push(&table.replica_name);
    decide_again(&record.snapshot, &order).map_err(|why| {
        let text = format!(
            "the replica of {} that was to be restored first was left out, and of what the others have this is not clear: {why}",
            table.path
        );
        Failure::lasting(Code::PartsUnaccounted, text)
    })
}

/// What a manifest of another replica has that is not on record of it, or lacks. Attach leaves exactly what is on record;
/// of the outdated parts some may be there as well.
fn not_as_recorded(record: &PartSetOfRecord, manifest: &Manifest) -> Option<String> {
    let (table, name) = (&manifest.table, &manifest.replica_name);
    let mut replicas = record.snapshot.replicas.iter();
    let Some(replica) = replicas.find(|replica| replica.name == *name) else {
        return Some(format!(
            "the manifest is that of {table}, replica {name}, which is not on record"
        ));
    };
    let on_record: HashSet<&str> = replica.parts.iter().map(|part| part.name.as_str()).collect();
    let on_it: HashSet<&str> = manifest.parts.iter().map(|part| part.name.as_str()).collect();
    let active = uncovered(&replica.parts).into_iter().map(|part| part.name.as_str());
    let lacking = active.filter(|part| !on_it.contains(part));
    let more = manifest.parts.iter().map(|part| part.name.as_str());
    let more = more.filter(|part| !on_record.contains(part));
    let others: Vec<String> = lacking.chain(more).map(str::to_owned).collect();
    (!others.is_empty()).then(|| {
        format!(
            "the manifest of {table} from {} is not what is on record of replica {name}: {} parts differ ({})",
            manifest.host,
            others.len(),
            some_of(&others)
        )
    })
}

impl Following {
    /// Reads what came with the command. What the others are said to have has to be what is on record of them.
    pub(super) fn read(
        context: &Context,
        table: &TableRef,
        record: &Packed,
        before: &[Packed],
    ) -> Result<Self, Failure> {
        is_attested(context, table, record)?;
        let lost = |what: &str, why: String| {
            let text = format!("the {what} of {}: {why}", table.path);
            Failure::lasting(Code::StoredDocumentLost, text)
        };
        let record: PartSetOfRecord =
            unpack(&record.bytes, Some(&record.digest)).map_err(|e| lost("part set of record", e.to_string()))?;
        let manifests: Vec<Manifest> = before
            .iter()
            .map(|packed| unpack(&packed.bytes, Some(&packed.digest)))
            .collect::<Result<_, _>>()
            .map_err(|e| lost("manifest of another replica", e.to_string()))?;
        if let Some(what) = manifests.iter().find_map(|manifest| not_as_recorded(&record, manifest)) {
            return Err(Failure::lasting(Code::RecordDisputed, what));
        }
        let union = union(&record, &manifests, table)?;
        let share = union.share(&table.replica_name).cloned();
        let share = share.ok_or_else(|| {
            let why = format!("it does not say what becomes of replica {}", table.replica_name);
            lost("part set of record", why)
        })?;
        let manifests: Vec<(Manifest, Option<Share>)> = manifests
            .into_iter()
            .map(|manifest| {
                let share = union.share(&manifest.replica_name).cloned();
                (manifest, share)
            })
            .collect();
        if manifests.first().is_none_or(|(_, share)| share.is_some()) {
            return Err(lost(
                "manifest of the reference",
                "it did not come with the order".to_owned(),
            ));
        }
        Ok(Self {
            share,
            before: manifests,
        })
    }

    /// Whether the part is attached again on this replica.
    pub(super) fn brings(&self, part: &str) -> bool {
        self.share.verdict(part) == Some(&Verdict::Bring)
    }

    /// Whether something was decided of this set beyond that its replicas are equal.
    pub(super) fn is_decided(&self) -> bool {
        !self.share.parts.is_empty() || self.before.len() > 1
    }

    pub(super) fn account(&self, evidence: Evidence<'_>) -> Account {
        let before: Vec<Before<'_>> = self
            .before
            .iter()
            .map(|(manifest, share)| Before {
                manifest,
                share: share.as_ref(),
            })
            .collect();
        account_follower(FollowerEvidence {
            manifest: evidence.manifest,
            share: &self.share,
            before: &before,
            active: evidence.active,
            detached: evidence.detached,
            dropped: evidence.dropped,
            same_as_reference: evidence.same_as_reference,
            merges_keep_rows: evidence.merges_keep_rows,
        })
    }
}
