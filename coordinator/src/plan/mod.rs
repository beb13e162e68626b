//! Making a plan: inventories in, a plan or its blockers out. No I/O, no clock.

mod agree;
mod around;
mod build;
mod check;
mod forecast;
mod neighbours;
mod pattern;
mod planned;
mod rates;
pub mod remedy;
mod ties;
mod user;
mod versions;
mod waves;

pub use build::{Circumstances, Draft, build};
pub use pattern::{BadPattern, Pattern, Selection};
