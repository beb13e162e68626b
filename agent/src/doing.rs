//! What the running steps are at, in words for people. Lost texts are no loss.

use std::collections::BTreeMap;
use std::sync::Arc;

use rekeeper_proto::v1;
use rekeeper_shared::domain::ids::MigrationName;
use tokio::sync::watch;

/// The latest text of every running step.
#[derive(Debug, Clone)]
pub struct Board(Arc<watch::Sender<Texts>>);

#[derive(Debug, Default)]
struct Texts {
    version: u64,
    of: BTreeMap<(MigrationName, u64), (u64, String)>,
}

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }
}

impl Board {
    /// A place for the texts of an attempt, for as long as it is held.
    #[must_use]
    pub fn begin(&self, migration: MigrationName, attempt: u64) -> Doing {
        Doing {
            board: self.clone(),
            key: (migration, attempt),
        }
    }

    /// Waits until a text is newer than `version`; gives the newer ones and the version that they are of.
    pub async fn newer_than(&self, version: u64) -> (u64, Vec<v1::Doing>) {
        let mut board = self.0.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        match board
            .wait_for(|texts| texts.of.values().any(|(of, _)| *of > version))
            .await
        {
            Ok(texts) => (texts.version, texts.newer_than(version)),
            Err(_) => (version, Vec::new()),
        }
    }
}

impl Texts {
    fn newer_than(&self, version: u64) -> Vec<v1::Doing> {
        let newer = self.of.iter().filter(|(_, (of, _))| *of > version);
        newer
            .map(|((migration, attempt), (_, text))| v1::Doing {
                migration: migration.to_string(),
                attempt: *attempt,
                text: text.clone(),
            })
            .collect()
    }
}

/// Where a step says what it is at.
#[derive(Debug)]
pub struct Doing {
    board: Board,
    key: (MigrationName, u64),
}

impl Doing {
    /// Replaces the text.
    pub fn say(&self, text: impl Into<String>) {
        let text = text.into();
        self.board.0.send_if_modified(|texts| {
            if texts.of.get(&self.key).is_some_and(|(_, old)| *old == text) {
                return false;
            }
            texts.version += 1;
            texts.of.insert(self.key.clone(), (texts.version, text));
            true
        });
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        self.board.0.send_modify(|texts| {
            texts.of.remove(&self.key);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_changed_texts_of_running_steps_are_told() {
        let board = Board::default();
        let (one, two) = (
            board.begin("m".parse().unwrap(), 1),
            board.begin("m".parse().unwrap(), 2),
        );
        one.say("a");
        two.say("b");
        let (version, all) = board.newer_than(0).await;
        assert_eq!(all.len(), 2);
        two.say("b");
        one.say("c");
        let (version, all) = board.newer_than(version).await;
        assert_eq!(
            all.iter().map(|d| (d.attempt, d.text.as_str())).collect::<Vec<_>>(),
            [(1, "c")]
        );
        one.say("d");
        drop(one);
        two.say("e");
        let (_, all) = board.newer_than(version).await;
        assert_eq!(
            all.iter().map(|d| (d.attempt, d.text.as_str())).collect::<Vec<_>>(),
            [(2, "e")]
        );
    }
}
