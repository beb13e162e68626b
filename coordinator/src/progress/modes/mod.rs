//! The modes of a migration. A mode is data: a table with a row per step that says which way the step goes, what must
//! hold before it, and what it leads to. [`super::next`] proposes by walking the rows, [`super::guard`] holds each row's
//! guards, [`Progress::apply`](super::Progress::apply) writes down what an order leaves behind.

mod rebuild;

use rekeeper_shared::domain::plan::Mode;
use rekeeper_shared::domain::step::StepKind;
use rekeeper_shared::people::view::Until;

use super::Direction;
use super::guard::Guard;

/// A step of a mode.
#[derive(Debug)]
pub struct Row {
    /// What is ordered; a mode has at most one row for each.
    pub step: StepKind,
    /// Which way it goes. What leads forward is wanted of what has no problem; what leads back, also of what has.
    pub way: Direction,
    /// What must hold before it is ordered, in the order in which it is looked at. `Guard::ALWAYS` comes before.
    pub guards: &'static [Guard],
    /// The barrier that it leads to: it is not ordered while an earlier one is in force.
    pub leads_to: Until,
    /// Whether the barriers before that one are passed once it was ordered: not by what deletes nothing and is taken back.
    pub passes: bool,
    /// What an order of it may have left behind even if its event never comes.
    pub leaves: Leaves,
    /// It is ordered of all replicas of a set together or of none, so that little can be written to one between the
    /// others.
    pub together: bool,
    /// What the coordinator needs beside, to order it.
    pub needs: Needs,
}

/// What an order may have left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// Nothing that anything depends on.
    Nothing,
    /// A table that is detached.
    Detached,
    /// A table that is attached again.
    Reattached,
    /// A marker, a held `is_active` or a frozen log on the path.
    Fence,
    /// A path without its marker: the record that was made under it does not count any more, and whoever goes forward
    /// again records anew.
    NoRecord,
    /// Nodes that are deleted: from here on, forward is the only way.
    Deletion,
    /// A server that is away.
    Restart,
}

/// What the coordinator needs to order a step, beside what its progress says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Its progress is enough.
    Nothing,
    /// Room on its disk, since the step leads to what has to be written down whatever comes.
    Room,
    /// Room, and that every host of the set has connected since it started: whoever may know more has to be heard before
    /// a set is recorded or deleted.
    RoomAndAllHeard,
}

/// The steps of a mode, in the order in which a set goes through them.
#[must_use]
pub fn rows(mode: Mode) -> &'static [Row] {
    match mode {
        Mode::Rebuild => rebuild::ROWS,
    }
}

/// The row of a step, if the mode has it.
#[must_use]
pub fn row(mode: Mode, step: StepKind) -> Option<&'static Row> {
    rows(mode).iter().find(|row| row.step == step)
}
