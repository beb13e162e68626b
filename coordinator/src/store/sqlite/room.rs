//! Room on the disk of `data_dir` that is kept for what has to be written while a migration is under way: what a full disk
//! would end right after nodes were deleted.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use rekeeper_shared::tools::reserve::{allocate, free, take};

const FILE: &str = "reserve";
/// What is kept at least: records of some ten thousand steps.
const LEAST: u64 = 16 << 20;
/// What opening a store may write.
const OPENING: u64 = 1 << 20;

/// The reserve.
#[derive(Debug)]
pub(super) struct Room {
    file: PathBuf,
    state: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    wanted: u64,
    is_whole: bool,
}

impl Room {
    /// Makes room for the opening of the store, out of what was kept, where there is none.
    pub(super) fn before_opening(data_dir: &Path) -> Self {
        let file = data_dir.join(FILE);
        if free(data_dir).is_ok_and(|free| free < OPENING) && take(&file, OPENING).is_some() {
            tracing::warn!(data_dir = %data_dir.display(), "the disk is full: the store is opened with room that was kept");
        }
        let state = Mutex::new(Kept {
            wanted: LEAST,
            is_whole: false,
        });
        Self { file, state }
    }

    /// Whether all of it is kept; what is missing is allocated, where there is room again.
    pub(super) fn is_whole(&self) -> bool {
        let mut kept = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.is_whole {
            kept.is_whole = allocate(&self.file, kept.wanted).is_ok();
        }
        kept.is_whole
    }

    /// Keeps so much more.
    pub(super) fn more(&self, bytes: u64) {
        let mut kept = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        kept.wanted = kept.wanted.saturating_add(bytes);
        kept.is_whole = false;
    }

    /// Gives so much to a write that finds the disk full; false when there is nothing left.
    pub(super) fn give(&self, bytes: u64) -> bool {
        let mut kept = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        kept.is_whole = false;
        take(&self.file, bytes).is_some()
    }
}
