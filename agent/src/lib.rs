//! x
pub mod zookeeper;
