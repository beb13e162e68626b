//! What people and their scripts see: the documents of the command line, and how what many suffer from is told once.
//! The words of each problem stand with its code, in [`crate::domain::problem`].

pub mod causes;
pub mod rehearsal;
pub mod report;
pub mod view;
