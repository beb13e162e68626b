//! In which order the replicas of a set are restored, and what becomes of the parts that not all of them have: part of
//! the set's record. The rule that decides it is the agent's.

use serde::{Deserialize, Serialize};

/// How a set is restored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Union {
    /// The names of the replicas in the sequence in which they are restored: the reference first.
    pub order: Vec<String>,
    /// For each replica after the reference, in that sequence, the parts that the reference has not under the same name
    /// and with the same content.
    pub shares: Vec<Share>,
}

/// What becomes of the parts of one replica that the ones before it have not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Share {
    /// Its name below `replicas` of the path.
    pub replica: String,
    /// Name and verdict; a part that is not here is the same on a replica before it.
    pub parts: Vec<(String, Verdict)>,
}

/// What becomes of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// Its rows are in these parts of replicas before it: the log or a queue has the merges between them.
    Covered {
        /// Names of parts of replicas that are restored before this one.
        by: Vec<String>,
    },
    /// Nobody before it has its rows: it is attached again on its replica, and the others fetch it.
    Bring,
    /// Its replica had still to drop it when it was detached: it stays in `detached/`.
    Dropped {
        /// The range that was to be dropped.
        range: String,
    },
}

impl Union {
    /// What becomes of the parts of a replica; none for the reference.
    #[must_use]
    pub fn share(&self, replica: &str) -> Option<&Share> {
        self.shares.iter().find(|share| share.replica == replica)
    }

    /// Whether a replica after the reference has parts to bring, so that the others must not be restored beside it.
    #[must_use]
    pub fn brings(&self) -> bool {
        let mut verdicts = self.shares.iter().flat_map(|share| &share.parts);
        verdicts.any(|(_, verdict)| *verdict == Verdict::Bring)
    }
}

impl Share {
    /// The verdict on a part; none when it is the same on a replica before this one.
    #[must_use]
    pub fn verdict(&self, part: &str) -> Option<&Verdict> {
        self.parts
            .iter()
            .find(|(name, _)| name == part)
            .map(|(_, verdict)| verdict)
    }
}
