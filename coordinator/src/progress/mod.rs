//! How far a migration is: derived from its records, and what may be ordered next. No I/O, no clock.

mod record;

pub use record::{Intent, OperatorOrder, Record};
