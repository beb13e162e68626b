//! The pure rules over what was read of a set or table: is it settled, how is it restored, where is every part now,
//! which version does its definition have. Lists in, a judgement out; no I/O, no clock. Steps ask them, and act.

pub mod accounting;
pub mod settle;
pub mod union;
pub mod versions;

#[cfg(test)]
mod snapshots;
