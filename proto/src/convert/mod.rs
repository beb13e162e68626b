//! Wire <-> domain. A field that is missing or not acceptable is named in the error.

mod command;
pub mod event;
mod hello;

use rekeeper_shared::domain::document::Packed;

use crate::v1;

/// A message that does not say what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field} of the message is {what}")]
pub struct BadMessage {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong with it.
    pub what: String,
}

impl BadMessage {
    /// The field is not there.
    #[must_use]
    pub fn missing(field: &'static str) -> Self {
        Self {
            field,
            what: "missing".to_owned(),
        }
    }
}

/// Reads a text field as a domain value.
///
/// # Errors
/// [`BadMessage`] that names the field.
pub fn parse<T>(field: &'static str, text: &str) -> Result<T, BadMessage>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| BadMessage {
        field,
        what: format!("not acceptable: {e}"),
    })
}

fn required<T>(field: &'static str, value: Option<T>) -> Result<T, BadMessage> {
    value.ok_or_else(|| BadMessage::missing(field))
}

impl From<Packed> for v1::Document {
    fn from(document: Packed) -> Self {
        Self {
            digest: document.digest,
            packed: document.bytes,
        }
    }
}

impl From<v1::Document> for Packed {
    fn from(document: v1::Document) -> Self {
        Self {
            digest: document.digest,
            bytes: document.packed,
        }
    }
}
