//! The account of a restored table: written down once, for the coordinator and for people.

use std::collections::{BTreeMap, HashMap, HashSet};

use rekeeper_shared::accounting::{Account, Fate};
use rekeeper_shared::document::{Packed, pack};
use rekeeper_shared::report::{Folder, RestoreAccount};
use rekeeper_shared::step::{Failure, Restored};

use super::leftovers::digests_of_checksums;
use super::restore::{CODE, Work};
use super::state_failed;

impl Work<'_> {
    /// The account that an earlier attempt made: of this manifest, and whole.
    pub(super) fn accounted(&self) -> Result<Option<(Restored, Packed)>, Failure> {
        let Some(counts) = self.restore_note()?.accounted else {
            return Ok(None);
        };
        // One that is lost or damaged is made anew: it is evidence for people, and the manifest is what it is made of.
        let account = self.context.state.account(&self.context.migration, self.table);
        Ok(account.ok().flatten().map(|account| (counts, account)))
    }

    /// Notes that every part is accounted for.
    pub(super) fn note_accounted(&self, counts: Restored, account: &Packed) -> Result<(), Failure> {
        let state = &self.context.state;
        let written = state.write_account(&self.context.migration, self.table, account);
        written.map_err(state_failed(CODE))?;
        let mut note = self.restore_note()?;
        note.accounted = Some(counts);
        self.write_restore_note(&note)
    }

    /// The counts and the whole document of an account that is complete.
    pub(super) async fn written_down(&self, account: Account) -> Result<(Restored, Packed), Failure> {
        let attached = self.restore_note()?.attached;
        let is_again = |(name, fate): &(String, Fate)| matches!(fate, Fate::Active { .. }) && attached.contains(name);
        let attached_again: Vec<String> = account
            .fates
            .iter()
            .filter(|part| is_again(part))
            .map(|(name, _)| name.clone())
            .collect();
        let count = |wanted: fn(&Fate) -> bool| account.count(wanted);
        let counts = Restored {
            active: count(|f| matches!(f, Fate::Active { .. })) - attached_again.len() as u64,
            attached_again: attached_again.len() as u64,
            covered: count(|f| matches!(f, Fate::Covered { .. })),
            merged: count(|f| matches!(f, Fate::Merged { .. })),
            dropped: count(|f| matches!(f, Fate::Dropped { .. } | Fate::Gone)),
            empty: count(|f| matches!(f, Fate::Empty)),
        };
        let document = RestoreAccount {
            migration: self.context.migration.clone(),
            host: self.context.host.clone(),
            manifest: self.order.manifest.digest.clone(),
            reference: self.following.is_none(),
            account,
            attached_again,
            folders: self.folders().await?,
        };
        let packed = pack(&document).map_err(|e| {
            Failure::lasting(
                CODE,
                format!("the account of {} cannot be packed: {e}", self.table.name),
            )
        })?;
        Ok((counts, packed))
    }

    /// What lies under `detached/`, and of which parts of the manifest these are copies: by their names, or, where the
    /// server has given a folder another name, by its `checksums.txt`.
    async fn folders(&self) -> Result<Vec<Folder>, Failure> {
        // Without the digests, folders are known by their names only.
        let noted = self.context.state.checksums(&self.context.migration, self.table);
        let noted: BTreeMap<String, String> = noted.unwrap_or_default();
        let by_digest: HashMap<&str, &str> = noted.iter().map(|(name, digest)| (&**digest, &**name)).collect();
        let names: HashSet<&str> = self.manifest.parts.iter().map(|part| part.name.as_str()).collect();
        let folders = self.detached_parts().await?;
        let unknown = folders.iter().filter(|folder| !names.contains(folder.name.as_str()));
        let paths = unknown.map(|folder| (folder.name.clone(), folder.path.clone()));
        let digests = digests_of_checksums(paths.collect()).await;
        let folder = |name: String| {
            let by_digest = || digests.get(&name).and_then(|digest| by_digest.get(digest.as_str()));
            let copy_of = names
                .get(name.as_str())
                .or_else(by_digest)
                .map(|part| (*part).to_owned());
            Folder { name, copy_of }
        };
        Ok(folders.into_iter().map(|part| folder(part.name)).collect())
    }
}
