//! Names, plan, steps with their events, the documents that outlive a step, and the pure rules over them. No I/O, no
//! clock; nothing of how it is shown.

pub mod accounting;
pub mod document;
pub mod forecast;
pub mod ids;
pub mod inventory;
pub mod mutation;
pub mod part;
pub mod place;
pub mod plan;
pub mod problem;
pub mod remedy;
pub mod settle;
pub mod step;
pub mod union;
pub mod versions;
