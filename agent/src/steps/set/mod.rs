//! The steps on a replica set's nodes in ZooKeeper: freeze, settle, record, clean, release,
//! witness.
//!
//! What may be done to the nodes, and in which sequence, is decided in `zookeeper`; whether a set is settled by the
//! rule that all programs share. Here the two are put together, and what went wrong is told.

mod clean;
mod export;
mod freeze;
mod record;
mod settle;
mod witness;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

pub use clean::{clean, release};
pub use freeze::freeze;
pub use record::record;
pub use settle::settle;
pub use witness::witness;

use crate::words::in_full;
use crate::zookeeper::{CleanError, ZkError};

/// A failure of ZooKeeper as the failure of a step with that code.
fn zookeeper_failed(code: Code) -> impl Fn(ZkError) -> Failure {
    move |error| error.into_failure(code)
}

/// A path that could not be held, let go or deleted as the failure of a step with that code.
fn clean_failed(code: Code) -> impl Fn(CleanError) -> Failure {
    move |error| match error {
        CleanError::ZooKeeper(error) => error.into_failure(code),
        CleanError::NotExported { .. } => as_failure(Code::ExportFailed, error.may_pass(), &error),
        CleanError::ForeignNodes { .. } => as_failure(Code::ForeignNodes, error.may_pass(), &error),
        _ => as_failure(code, error.may_pass(), &error),
    }
}

fn as_failure(code: Code, may_pass: bool, error: &dyn std::error::Error) -> Failure {
    let text = in_full(error);
    if may_pass {
        Failure::passing(code, text)
    } else {
        Failure::lasting(code, text)
    }
}
