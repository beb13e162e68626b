//! What several steps share.

pub(super) mod attested;
pub(super) mod caches;
pub(super) mod context;
pub(super) mod folders;
pub(super) mod look;
pub(super) mod manifest;
pub(super) mod names;
pub(super) mod owners;
pub(super) mod place;
pub(super) mod read_only;
pub(super) mod recorded;
pub(super) mod versions;
pub(super) mod wait;
