//! What several steps share.

pub(super) mod look;
pub(super) mod manifest;
pub(super) mod names;
pub(super) mod place;
pub(super) mod recorded;
pub(super) mod versions;
pub(super) mod wait;
