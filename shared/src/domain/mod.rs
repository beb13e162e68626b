//! Names, plan, steps with their events, and the documents that outlive a step. No I/O, no clock; nothing of how it is
//! shown, and no rule that only one program needs.

pub mod account;
pub mod allowances;
pub mod document;
pub mod ids;
pub mod inventory;
pub mod mutation;
pub mod part;
pub mod place;
pub mod plan;
pub mod problem;
pub mod step;
pub mod union;
pub mod unsettled;
