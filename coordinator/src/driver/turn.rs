//! One turn of the loop.

use std::collections::HashMap;

use rekeeper_shared::domain::ids::{HostName, MigrationName};

use crate::agents::ConnectionId;
use crate::progress::Intent;
use crate::store::Append;

/// What one turn of the loop has to write down, and what follows once it is on disk.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) appends: Vec<Append>,
    pub(super) acknowledge: HashMap<HostName, (ConnectionId, u64)>,
    pub(super) commands: Vec<(MigrationName, Intent)>,
    pub(super) answers: Vec<Box<dyn FnOnce() + Send>>,
}

impl Turn {
    /// Bytes of the documents that are to be written down.
    pub(super) fn bytes(&self) -> usize {
        let documents = self.appends.iter().filter_map(|append| append.document.as_ref());
        documents.map(|document| document.bytes.len()).sum()
    }
}
