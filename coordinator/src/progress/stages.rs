//! The stages of a table replica and of a replica set, and every step from one to the next with the reason.
//! docs/states.md shows both as diagrams, which a test compares; another one sees that nothing else ever happens.

/// Where a table replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TableAt {
    /// Attached on its old metadata.
    #[default]
    InService,
    /// The same, and it has caught up since it was attached.
    Synced,
    /// The same, but a detach was ordered, and may have been done.
    Detaching,
    /// Detached, permanently.
    Detached,
    /// Attached read-only, its manifest written.
    Attached,
    /// Restored and accounted for; what it answers may still come from caches that know its parts by former names.
    Accounted,
    /// Accounted for, and no answer is wrong.
    Restored,
    /// Merges run again: nothing is left to do.
    Finished,
}

/// Where a replica set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum SetAt {
    /// In service, or on its way to being detached and read.
    #[default]
    Gathering,
    /// On its way back into service to catch up, after which it is detached and read again.
    Returning,
    /// Its nodes were read while all its replicas were detached, and it may be migrated: see [`Verdict`].
    Judged,
    /// Its part set of record is saved, under a marker.
    Recorded,
    /// A deletion was ordered: from here on, forward is the only way.
    Cleaning,
    /// Its path is gone.
    Cleaned,
    /// Its witness node is written.
    Witnessed,
}

/// What was found when the nodes of a set were read last; counts from [`SetAt::Judged`] on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// Its replicas are equal.
    #[default]
    Settled,
    /// They are not, no catching up helps, and the plan allows that: what they have between them is brought together.
    Diverged,
    /// The same at first, and under the marker they were equal after all.
    DivergedThenSettled,
}

/// What may hold the path of a set in ZooKeeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fence {
    /// Nothing of ours.
    #[default]
    Absent,
    /// A marker, a held `is_active` or a frozen log may be there.
    Possible,
    /// The log is frozen, and the others may be there.
    Frozen,
}

/// The way of a single table replica back into service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WayBack {
    /// Not begun.
    #[default]
    NotBegun,
    /// It was ordered, and is not known to be done: it may be attached, whatever its stage says.
    Begun,
    /// It failed for good: not tried again before `retry`.
    Failed,
}

/// A way from one stage to another, and why it is gone.
pub type Transition<T> = (T, T, &'static str);

/// Every way of a table replica.
pub const OF_TABLES: &[Transition<TableAt>] = &[
    (
        TableAt::InService,
        TableAt::Synced,
        "sync, or the plan allows that it does not catch up",
    ),
    (
        TableAt::Synced,
        TableAt::InService,
        "freeze, or its set was attached again, so more may have come in",
    ),
    (TableAt::Synced, TableAt::Detaching, "detach is ordered"),
    (TableAt::Detaching, TableAt::Detached, "detach"),
    (TableAt::Detaching, TableAt::InService, "reattach"),
    (TableAt::Detached, TableAt::InService, "reattach"),
    (TableAt::Detached, TableAt::Attached, "attach"),
    (TableAt::Attached, TableAt::Accounted, "restore"),
    (TableAt::Accounted, TableAt::Restored, "clear"),
    (TableAt::Restored, TableAt::Finished, "finish"),
];

/// Every way of a replica set.
pub const OF_SETS: &[Transition<SetAt>] = &[
    (
        SetAt::Gathering,
        SetAt::Judged,
        "settle finds its replicas equal, or the plan allows that they are not",
    ),
    (
        SetAt::Gathering,
        SetAt::Returning,
        "settle finds differences that catching up may end",
    ),
    (SetAt::Returning, SetAt::Gathering, "all of them are in service"),
    (
        SetAt::Judged,
        SetAt::Returning,
        "record finds such differences under the marker",
    ),
    (
        SetAt::Judged,
        SetAt::Gathering,
        "record finds others, or a replica is put back (reattach)",
    ),
    (SetAt::Judged, SetAt::Recorded, "record"),
    (
        SetAt::Recorded,
        SetAt::Judged,
        "release is ordered, so the marker may be gone",
    ),
    (
        SetAt::Recorded,
        SetAt::Cleaning,
        "clean is ordered, and abort puts nothing back any more",
    ),
    (SetAt::Cleaning, SetAt::Cleaned, "clean"),
    (SetAt::Cleaned, SetAt::Witnessed, "witness"),
    (
        SetAt::Witnessed,
        SetAt::Cleaned,
        "the replica that was restored first is left out, and the path is gone with it",
    ),
];
