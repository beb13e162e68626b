//! The operator's command line as people and scripts meet it: the real binary against canned documents.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod calls;
mod documents;
mod fake;
mod following;
mod on_terminal;
mod output;
mod plans;
mod report;
mod run;
mod statuses;
mod words;

use rekeeper_shared::people::view::StatusView;

use crate::fake::{Canned, Fake};

pub(crate) const NOWHERE: &str = "http://127.0.0.1:1";

pub(crate) fn with_status(status: StatusView) -> Fake {
    Fake::new(Canned {
        statuses: [status].into(),
        notice: "ordered".into(),
        ..Canned::default()
    })
}
