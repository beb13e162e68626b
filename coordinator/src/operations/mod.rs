//! What people can ask of the coordinator: plans, dry runs, events, reports. `grpc` decodes the questions and encodes the
//! answers.

pub(crate) mod dry_run;
pub(crate) mod events;
pub(crate) mod planning;
pub(crate) mod report;
