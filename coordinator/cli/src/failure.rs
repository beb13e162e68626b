//! Why a command did not do what it was asked for, and the exit code that says so.

use std::io;
use std::process::ExitCode;

use rekeeper_proto::reason::Reason;
use rekeeper_tls::DialError;
use tonic::{Code, Status};

use crate::output::text;

/// The exit codes; a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, paused, or left.
    Done = 0,
    /// The migration ended or stands with problems.
    Problems = 1,
    /// Wrong usage or configuration, unknown or existing name, a pattern that matches nothing.
    Usage = 2,
    /// Blocked by a check.
    Blocked = 3,
    /// The coordinator cannot be reached or refused the caller.
    Unreachable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Something in the arguments or the environment.
    #[error("{0}")]
    Usage(String),
    /// The call did not reach the coordinator, or its answer did not come back.
    #[error("the coordinator at {url} cannot be reached")]
    Lost {
        url: String,
        #[source]
        status: Box<Status>,
    },
    /// The two do not trust each other's certificates, or speak of TLS differently.
    #[error("no connection to the coordinator at {url}: {reason}")]
    NotTrusted { url: String, reason: String },
    /// The coordinator's own answer.
    #[error("{}", answer(.0))]
    Refused(Box<Status>),
    /// A document that this release does not understand.
    #[error("the coordinator sent {what} that this release of rekeeper cannot read")]
    Document {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// A document could not be put into the form that was asked for.
    #[error("the document cannot be written as {form}: {reason}")]
    Form { form: &'static str, reason: String },
    /// stdout does not take what is written.
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    /// No signal handler could be set, or the like.
    #[error("the system refused {what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Failure {
    /// What became of a call.
    pub(crate) fn of_call(url: &str, status: Status) -> Self {
        let dialed = std::error::Error::source(&status).and_then(DialError::within);
        if let Some(error) = dialed.filter(|error| error.is_lasting()) {
            return Self::NotTrusted {
                url: url.to_owned(),
                reason: error.to_string(),
            };
        }
        // What a coordinator with TLS says to one without: its alert, read as a frame of HTTP/2.
        if url.starts_with("http://") && root_cause(&status).contains("frame with invalid size") {
            return Self::NotTrusted {
                url: url.to_owned(),
                reason: "it does not answer like a coordinator without TLS; if it speaks TLS, write https:// and name \
                         --ca, --cert and --key"
                    .to_owned(),
            };
        }
        // A status that came over the wire has no source: one that has was made on this side of a broken connection.
        if status.code() == Code::Unavailable || std::error::Error::source(&status).is_some() {
            Self::Lost {
                url: url.to_owned(),
                status: Box::new(status),
            }
        } else {
            Self::Refused(Box::new(status))
        }
    }

    /// Whether the same call may succeed later.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Lost { .. } | Self::NotTrusted { .. } => Exit::Unreachable,
            Self::Refused(status) => match Reason::of(status) {
                Some(Reason::Blocked) => Exit::Blocked,
                Some(Reason::Unknown | Reason::Exists | Reason::Invalid | Reason::State) => Exit::Usage,
                Some(Reason::Stopping) => Exit::Unreachable,
                None => without_reason(status),
            },
            // `rekeeper status | head` is no failure.
            Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Document { .. } | Self::Form { .. } | Self::Stdout(_) | Self::System { .. } => Exit::Problems,
        }
    }

    /// The whole chain, for people; nothing where nothing needs to be said.
    pub(crate) fn describe(&self) -> Option<String> {
        if self.exit() == Exit::Done {
            return None;
        }
        let mut out = format!("rekeeper: {self}");
        if let Self::Lost { status, .. } = self {
            out.push_str(": ");
            out.push_str(&root_cause(status));
        } else {
            let mut source = std::error::Error::source(self);
            while let Some(error) = source {
                out.push_str(": ");
                out.push_str(&error.to_string());
                source = error.source();
            }
        }
        Some(text::escape_lines(&out))
    }
}

/// The exit code of a refusal that tells no reason: before a call was understood, or of a coordinator that is older than
/// reasons are, whose message is all there is.
fn without_reason(status: &Status) -> Exit {
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists => Exit::Usage,
        Code::FailedPrecondition if status.message().starts_with("blocked: ") => Exit::Blocked,
        Code::FailedPrecondition => Exit::Usage,
        Code::Unavailable | Code::Unauthenticated | Code::PermissionDenied => Exit::Unreachable,
        _ => Exit::Problems,
    }
}

fn answer(status: &Status) -> String {
    let message = if status.message().is_empty() {
        status.code().description()
    } else {
        status.message()
    };
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => format!("the coordinator refused this caller: {message}"),
        Code::Unimplemented => format!("the coordinator does not know this command (another release?): {message}"),
        _ => message.to_owned(),
    }
}

/// The innermost reason ("Connection refused"), without the layers of transport around it.
pub(crate) fn root_cause(status: &Status) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    let mut found = None;
    while let Some(error) = cause {
        found = Some(error.to_string());
        cause = error.source();
    }
    found.unwrap_or_else(|| answer(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_exit_codes() {
        for (code, message, exit) in [
            (Code::InvalidArgument, "x", Exit::Usage),
            (Code::NotFound, "x", Exit::Usage),
            (Code::AlreadyExists, "x", Exit::Usage),
            (Code::FailedPrecondition, "blocked: 2 checks", Exit::Blocked),
            (Code::FailedPrecondition, "it has ended", Exit::Usage),
            (Code::Unavailable, "x", Exit::Unreachable),
            (Code::Unauthenticated, "x", Exit::Unreachable),
            (Code::PermissionDenied, "x", Exit::Unreachable),
            (Code::Internal, "x", Exit::Problems),
            (Code::Unknown, "x", Exit::Problems),
        ] {
            assert_eq!(
                Failure::of_call("u", Status::new(code, message)).exit(),
                exit,
                "{code:?} {message}"
            );
        }
    }

    #[test]
    fn the_reason_of_a_refusal_is_heard_whatever_its_words_are() {
        for (reason, message, exit) in [
            (Reason::Blocked, "two agents on one server", Exit::Blocked),
            (Reason::State, "blocked: no, it has ended", Exit::Usage),
            (Reason::Invalid, "blocked", Exit::Usage),
            (Reason::Unknown, "blocked", Exit::Usage),
            (Reason::Exists, "blocked", Exit::Usage),
            (Reason::Stopping, "blocked", Exit::Unreachable),
        ] {
            assert_eq!(Failure::of_call("u", reason.status(message)).exit(), exit, "{reason:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::Stdout(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.describe()), (Exit::Done, None));
    }
}
