//! Why the coordinator refuses a call, beside gRPC's own code: what exit codes are made of, and not the words of a message.

use tonic::Status;
use tonic::metadata::MetadataValue;

/// Name of the metadata of a status that has the reason.
const REASON: &str = "rekeeper-reason";

/// What exit codes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is no such migration.
    Unknown,
    /// The name is taken.
    Exists,
    /// The request is wrong.
    Invalid,
    /// A check stops it.
    Blocked,
    /// The order does not fit the migration's state.
    State,
    /// The coordinator is stopping.
    Stopping,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::Exists,
        Self::Invalid,
        Self::Blocked,
        Self::State,
        Self::Stopping,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Exists => "exists",
            Self::Invalid => "invalid",
            Self::Blocked => "blocked",
            Self::State => "state",
            Self::Stopping => "stopping",
        }
    }

    /// The status of a refusal for this reason.
    #[must_use]
    pub fn status(self, message: impl Into<String>) -> Status {
        let mut status = match self {
            Self::Unknown => Status::not_found(message),
            Self::Exists => Status::already_exists(message),
            Self::Invalid => Status::invalid_argument(message),
            Self::Blocked | Self::State => Status::failed_precondition(message),
            Self::Stopping => Status::unavailable(message),
        };
        let value = MetadataValue::from_static(self.as_str());
        status.metadata_mut().insert(REASON, value);
        status
    }

    /// The reason that a status has; none of one that has none, or one that this release does not know.
    #[must_use]
    pub fn of(status: &Status) -> Option<Self> {
        let told = status.metadata().get(REASON)?.to_str().ok()?;
        Self::ALL.into_iter().find(|reason| reason.as_str() == told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_read_back_and_no_message_is_taken_for_one() {
        for reason in Reason::ALL {
            assert_eq!(Reason::of(&reason.status("blocked")), Some(reason));
        }
        assert_eq!(Reason::of(&Status::failed_precondition("blocked")), None);
    }
}
