//! The account of a restored table: written down once, for the coordinator and for people.

use std::collections::{HashMap, HashSet};

use rekeeper_shared::domain::account::{Account, Fate};
use rekeeper_shared::domain::account::{Folder, RestoreAccount};
use rekeeper_shared::domain::document::{Packed, pack};
use rekeeper_shared::domain::step::{Failure, Restored};

use super::work::{CODE, Work};
use crate::state::Accounted;
use crate::steps::shared::folders::digests_of_checksums;
use crate::steps::state_failed;

impl Work<'_> {
    /// The account that an earlier attempt made: of this manifest, and whole.
    pub(super) fn accounted(&self) -> Result<Option<(Restored, Packed)>, Failure> {
        let Some(noted) = self.restore_note()?.accounted else {
            return Ok(None);
        };
        // One that is lost or another one is made anew: it is evidence for people, and the manifest is what it is made of.
        let account = self.context.state.account(&self.context.migration, self.table);
        let account = account.ok().flatten().filter(|account| account.digest == noted.account);
        Ok(account.map(|account| (noted.counts, account)))
    }

    /// Notes that every part is accounted for.
    pub(super) fn note_accounted(&self, counts: Restored, account: &Packed) -> Result<(), Failure> {
        let state = &self.context.state;
        let written = state.write_account(&self.context.migration, self.table, account);
        written.map_err(state_failed(CODE))?;
        let mut note = self.restore_note()?;
        note.accounted = Some(Accounted {
            counts,
            account: account.digest.clone(),
        });
        self.write_restore_note(&note)
    }

    /// The counts and the whole document of an account that is complete.
    pub(super) async fn written_down(&self, account: Account) -> Result<(Restored, Packed), Failure> {
        let note = self.restore_note()?;
        let may_be_again = |name: &str| match &self.following {
            None => true,
            Some(following) => following.brings(name),
        };
        let active = account.fates.iter();
        let active = active
            .filter(|(_, fate)| matches!(fate, Fate::Active { .. }))
            .map(|(name, _)| name);
        let (mut attached_again, mut unclear) = (Vec::new(), Vec::new());
        for name in active {
            if note.attached.contains(name) {
                attached_again.push(name.clone());
            } else if note.is_lost() && may_be_again(name) {
                unclear.push(name.clone());
            }
        }
        let told_apart = (attached_again.len() + unclear.len()) as u64;
        let count = |wanted: fn(&Fate) -> bool| account.count(wanted);
        let counts = Restored {
            active: count(|f| matches!(f, Fate::Active { .. })) - told_apart,
            attached_again: attached_again.len() as u64,
            unclear: unclear.len() as u64,
            covered: count(|f| matches!(f, Fate::Covered { .. })),
            merged: count(|f| matches!(f, Fate::Merged { .. })),
            dropped: count(|f| matches!(f, Fate::Dropped { .. } | Fate::Gone)),
            empty: count(|f| matches!(f, Fate::Empty)),
            set_aside: note.set_aside.len() as u64,
        };
        let document = RestoreAccount {
            migration: self.context.migration.clone(),
            host: self.context.host.clone(),
            manifest: self.order.manifest.digest.clone(),
            reference: self.following.is_none(),
            account,
            attached_again,
            unclear,
            set_aside: note.set_aside.into_iter().collect(),
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
        let noted = self.manifest.checksums.iter();
        let by_digest: HashMap<&str, &str> = noted.map(|(name, digest)| (&**digest, &**name)).collect();
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
