//! What a table needs next until it is writable: a pure function of what was seen of it, so that it may be asked again
//! whenever the attempt, the server or ZooKeeper was cut off.

use crate::clickhouse::Class;

/// What was seen of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Observed {
    /// RESTORE was sent for it, by this attempt or an earlier one.
    pub(super) sent: bool,
    /// It is restored after another replica, which it has to find at its path.
    pub(super) follows: bool,
    /// RESTORE has moved every part to `detached/` and made nothing: it gave up at the gate.
    pub(super) emptied: bool,
    /// How the server has it.
    pub(super) table: Table,
}

/// How the server has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Detached,
    /// It does its work.
    InService,
    /// It has metadata, and does not do its work yet.
    Writable,
    /// It has found no metadata; this is at its path by now.
    ReadOnly(AtPath),
}

/// What is at the path of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtPath {
    Nothing,
    /// This replica is not registered; the one that it follows may be.
    Others {
        reference: bool,
    },
    /// This replica is registered.
    Own(Registered),
}

/// Who has registered the replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Registered {
    ByThisTable,
    /// Another table of the same replica name.
    ByAnother,
    /// The server does not note it.
    NotTold,
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing: it does its work.
    Done,
    /// An earlier attempt was cut while it had the table detached.
    AttachAgain,
    /// It comes into service by itself, or never.
    AwaitService,
    /// Its metadata is there: a server that has just started needs a moment, or has to be told.
    BringIntoService {
        /// The note that RESTORE was sent is lost, and is made again.
        note: bool,
    },
    /// RESTORE, when its parts are in their places.
    Restore(Parts),
    /// A person has to look.
    Refuse(Refusal),
}

/// What is done with the parts before RESTORE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parts {
    /// A RESTORE has made nothing yet: what it had moved to `detached/` goes back, and it begins anew.
    PutBack,
    /// None was sent, as far as is noted: they have to be those of the manifest.
    AsRecorded {
        /// Who but a RESTORE, of which the note is lost, has moved those that are missing?
        or_put_back: bool,
    },
    /// A RESTORE that goes on finds them wherever they are.
    Anywhere,
}

/// Why a table is not restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// By a person, or by an attempt of which the note was lost.
    Detached,
    /// Another table has registered its replica.
    RegisteredByAnother,
    /// Its replica is registered, and nothing says that this migration has done it.
    RegisteredByNobodyKnown,
    /// It comes first, and somebody else is at its path.
    Taken,
    /// The replica that it follows is not registered any more.
    ReferenceGone,
    /// Nothing is at its path, although the replica that it follows was restored.
    PathGone,
}

/// What to do with a table of which this was seen.
pub(super) fn next(seen: &Observed) -> Action {
    match seen.table {
        Table::Detached if seen.sent => Action::AttachAgain,
        Table::Detached => Action::Refuse(Refusal::Detached),
        Table::InService => Action::Done,
        Table::Writable => Action::AwaitService,
        Table::ReadOnly(AtPath::Own(Registered::ByAnother)) => Action::Refuse(Refusal::RegisteredByAnother),
        Table::ReadOnly(AtPath::Own(Registered::NotTold)) if !seen.sent => {
            Action::Refuse(Refusal::RegisteredByNobodyKnown)
        }
        Table::ReadOnly(AtPath::Own(Registered::ByThisTable | Registered::NotTold)) => {
            Action::BringIntoService { note: !seen.sent }
        }
        Table::ReadOnly(AtPath::Nothing) if seen.follows => Action::Refuse(Refusal::PathGone),
        // All of them are attached from there, in their sequence: put back, they would be read under their former names.
        Table::ReadOnly(AtPath::Nothing) if seen.emptied => Action::Restore(Parts::Anywhere),
        Table::ReadOnly(AtPath::Nothing) if seen.sent => Action::Restore(Parts::PutBack),
        Table::ReadOnly(AtPath::Nothing) => Action::Restore(Parts::AsRecorded { or_put_back: true }),
        Table::ReadOnly(AtPath::Others { .. }) if !seen.follows => Action::Refuse(Refusal::Taken),
        Table::ReadOnly(AtPath::Others { reference: false }) => Action::Refuse(Refusal::ReferenceGone),
        Table::ReadOnly(AtPath::Others { reference: true }) if seen.sent => Action::Restore(Parts::Anywhere),
        Table::ReadOnly(AtPath::Others { reference: true }) => {
            Action::Restore(Parts::AsRecorded { or_put_back: false })
        }
    }
}

/// A RESTORE that was not answered well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    /// Whether it was applied, and the cause passes.
    pub(super) class: Class,
    /// It has waited at the gate for as long as it does.
    pub(super) gave_up: bool,
    /// The server has no session with ZooKeeper.
    pub(super) lost_zookeeper: bool,
    /// The server may still be waited for.
    pub(super) in_time: bool,
    /// As in [`Observed`].
    pub(super) follows: bool,
}

/// What is done after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// What became of it is seen in the next round.
    LookAgain,
    /// The same, if the replica is registered by now; else it has failed.
    LookAgainIfRegistered,
    /// It is sent again, when the table has another session.
    RenewSession,
    /// The attempt has failed.
    Fail,
}

/// What to do after a RESTORE that was answered like this.
pub(super) fn after(failed: &Failed) -> After {
    match failed.class {
        Class::Unknown => After::LookAgain,
        Class::Lasting if failed.gave_up => After::LookAgain,
        Class::Passing if failed.lost_zookeeper && failed.in_time => After::RenewSession,
        // A first replica may have made its metadata by then.
        Class::Lasting if !failed.follows => After::LookAgainIfRegistered,
        Class::Passing | Class::Lasting => After::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_next_is_told_by_what_is_seen() {
        use Action::{AttachAgain, AwaitService, BringIntoService, Done, Refuse, Restore};
        use AtPath::{Nothing, Others, Own};
        use Registered::{ByAnother, ByThisTable, NotTold};
        use Table::{Detached, InService, ReadOnly, Writable};
        let (there, gone) = (Others { reference: true }, Others { reference: false });
        let as_recorded = |or_put_back| Restore(Parts::AsRecorded { or_put_back });
        let (noted, note) = (BringIntoService { note: false }, BringIntoService { note: true });
        let taken = Refuse(Refusal::Taken);
        let (path_gone, reference_gone) = (Refuse(Refusal::PathGone), Refuse(Refusal::ReferenceGone));
        let another = Refuse(Refusal::RegisteredByAnother);
        let unknown = Refuse(Refusal::RegisteredByNobodyKnown);
        // Sent or not, of a table that comes first, and of one that follows.
        let cases = [
            (
                Detached,
                [Refuse(Refusal::Detached), AttachAgain],
                [Refuse(Refusal::Detached), AttachAgain],
            ),
            (InService, [Done, Done], [Done, Done]),
            (Writable, [AwaitService, AwaitService], [AwaitService, AwaitService]),
            (
                ReadOnly(Nothing),
                [as_recorded(true), Restore(Parts::PutBack)],
                [path_gone, path_gone],
            ),
            (ReadOnly(gone), [taken, taken], [reference_gone, reference_gone]),
            (
                ReadOnly(there),
                [taken, taken],
                [as_recorded(false), Restore(Parts::Anywhere)],
            ),
            (ReadOnly(Own(ByThisTable)), [note, noted], [note, noted]),
            (ReadOnly(Own(ByAnother)), [another, another], [another, another]),
            (ReadOnly(Own(NotTold)), [unknown, noted], [unknown, noted]),
        ];
        for (table, first, follower) in cases {
            for (follows, expected) in [(false, first), (true, follower)] {
                for (sent, expected) in [false, true].into_iter().zip(expected) {
                    let seen = Observed {
                        sent,
                        follows,
                        emptied: false,
                        table,
                    };
                    assert_eq!(next(&seen), expected, "{seen:?}");
                }
            }
        }
        let emptied = Observed {
            sent: true,
            follows: false,
            emptied: true,
            table: ReadOnly(Nothing),
        };
        assert_eq!(next(&emptied), Restore(Parts::Anywhere));
    }

    #[test]
    fn a_restore_that_failed_is_sent_again_only_when_that_may_help() {
        let told = |class, lost_zookeeper, in_time, follows| {
            after(&Failed {
                class,
                gave_up: false,
                lost_zookeeper,
                in_time,
                follows,
            })
        };
        for follows in [false, true] {
            assert_eq!(told(Class::Unknown, true, true, follows), After::LookAgain);
            assert_eq!(told(Class::Passing, true, true, follows), After::RenewSession);
            assert_eq!(told(Class::Passing, true, false, follows), After::Fail);
            assert_eq!(told(Class::Passing, false, true, follows), After::Fail);
        }
        assert_eq!(told(Class::Lasting, true, true, false), After::LookAgainIfRegistered);
        assert_eq!(told(Class::Lasting, true, true, true), After::Fail);
        let gave_up = Failed {
            class: Class::Lasting,
            gave_up: true,
            lost_zookeeper: false,
            in_time: true,
            follows: false,
        };
        assert_eq!(after(&gave_up), After::LookAgain);
    }
}
