//! What can go wrong with a statement, and whether sending it again may help.

use hyper_util::client::legacy;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;
use rekeeper_tls::distrusted;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A statement that did not end well.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum Error {
    /// The server refused it or failed at it.
    #[error("{statement}: {text}{}", hint(*code))]
    Server {
        statement: &'static str,
        code: u32,
        /// ClickHouse's own text, code included.
        text: String,
    },
    /// No connection: the statement never reached a server.
    #[error("{statement}: the server at {url} (clickhouse.url of agent.yaml) cannot be reached")]
    Unreachable {
        url: String,
        statement: &'static str,
        #[source]
        source: Source,
    },
    /// It was sent, and no answer came: it may have been executed, may be under way, or never will be.
    #[error("{statement}: no answer came, so what became of it is not known")]
    Unknown {
        statement: &'static str,
        #[source]
        source: Source,
    },
    /// The answer is not what was asked for.
    #[error("{statement}: the answer cannot be read")]
    Answer {
        statement: &'static str,
        #[source]
        source: Source,
    },
}

/// Whether sending a statement again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It was not applied, and the cause passes by itself.
    Passing,
    /// It was not applied, and somebody has to look.
    Lasting,
    /// Whether it was applied is not known: look before sending it again.
    Unknown,
}

/// ClickHouse's error codes that Rekeeper decides by.
pub mod code {
    /// BAD_ARGUMENTS.
    pub const BAD_ARGUMENTS: u32 = 36;
    /// UNKNOWN_FUNCTION.
    pub const UNKNOWN_FUNCTION: u32 = 46;
    /// UNKNOWN_IDENTIFIER, which a column that an older server does not have is.
    pub const UNKNOWN_IDENTIFIER: u32 = 47;
    /// TABLE_ALREADY_EXISTS, and "still used by some query".
    pub const TABLE_ALREADY_EXISTS: u32 = 57;
    /// UNKNOWN_TABLE.
    pub const UNKNOWN_TABLE: u32 = 60;
    /// SYNTAX_ERROR, which a statement that an older server does not know is.
    pub const SYNTAX_ERROR: u32 = 62;
    /// UNKNOWN_DATABASE.
    pub const UNKNOWN_DATABASE: u32 = 81;
    /// UNKNOWN_SETTING: nothing was executed.
    pub const UNKNOWN_SETTING: u32 = 115;
    /// NO_ELEMENTS_IN_CONFIG.
    pub const NO_ELEMENTS_IN_CONFIG: u32 = 139;
    /// TIMEOUT_EXCEEDED.
    pub const TIMEOUT_EXCEEDED: u32 = 159;
    /// READONLY.
    pub const READONLY: u32 = 164;
    /// QUOTA_EXCEEDED.
    pub const QUOTA_EXCEEDED: u32 = 201;
    /// NO_ZOOKEEPER.
    pub const NO_ZOOKEEPER: u32 = 225;
    /// REPLICA_ALREADY_EXISTS, also of a RESTORE that has found its path taken a thousand times.
    pub const REPLICA_ALREADY_EXISTS: u32 = 253;
    /// TABLE_IS_READ_ONLY.
    pub const TABLE_IS_READ_ONLY: u32 = 242;
    /// QUERY_IS_PROHIBITED.
    pub const QUERY_IS_PROHIBITED: u32 = 392;
    /// SETTING_CONSTRAINT_VIOLATION.
    pub const SETTING_CONSTRAINT_VIOLATION: u32 = 452;
    /// ACCESS_DENIED.
    pub const ACCESS_DENIED: u32 = 497;
    /// HAVE_DEPENDENT_OBJECTS.
    pub const HAVE_DEPENDENT_OBJECTS: u32 = 630;
    /// NOT_INITIALIZED.
    pub const NOT_INITIALIZED: u32 = 667;
    /// KEEPER_EXCEPTION.
    pub const KEEPER_EXCEPTION: u32 = 999;
}

impl Error {
    pub(crate) fn from_crate(statement: &'static str, url: &str, error: clickhouse::error::Error) -> Self {
        use clickhouse::error::Error as Crate;
        match error {
            Crate::BadResponse(text) => match server_code(&text) {
                Some(code) => Self::Server { statement, code, text },
                // A proxy's answer, or half of one.
                None => Self::Unknown {
                    statement,
                    source: text.into(),
                },
            },
            Crate::Network(source) => {
                let never_sent = source
                    .downcast_ref::<legacy::Error>()
                    .is_some_and(legacy::Error::is_connect);
                if never_sent {
                    let why = distrusted(&*source, "clickhouse.ca of agent.yaml");
                    let source = why.map_or(source, Source::from);
                    let url = url.to_owned();
                    Self::Unreachable { url, statement, source }
                } else {
                    Self::Unknown { statement, source }
                }
            }
            source @ Crate::TimedOut => Self::Unknown {
                statement,
                source: source.into(),
            },
            source => Self::Answer {
                statement,
                source: source.into(),
            },
        }
    }

    /// ClickHouse's code, if the server answered.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Server { code, .. } => Some(*code),
            Self::Unreachable { .. } | Self::Unknown { .. } | Self::Answer { .. } => None,
        }
    }

    /// Whether the server's text contains `words`.
    #[must_use]
    pub fn says(&self, words: &str) -> bool {
        matches!(self, Self::Server { text, .. } if text.contains(words))
    }

    /// Whether sending it again may help.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } => Class::Passing,
            Self::Unknown { .. } => Class::Unknown,
            Self::Answer { .. } => Class::Lasting,
            Self::Server { code, .. } => class_of(*code),
        }
    }

    /// The whole chain in one line, for people.
    #[must_use]
    pub fn in_full(&self) -> String {
        crate::words::in_full(self)
    }

    /// The cause, where it has a code of its own, whatever was done with the server.
    fn cause(&self) -> Option<Code> {
        match self {
            Self::Unreachable { .. } => Some(Code::ClickhouseAway),
            Self::Server { code, text, .. } => tells_of_zookeeper(*code, text).then_some(Code::ZookeeperAway),
            // It may be there: the next attempt finds out.
            Self::Unknown { .. } | Self::Answer { .. } => None,
        }
    }

    /// What a step that cannot go on tells: the cause where that is known, else `code`.
    #[must_use]
    pub fn into_failure(self, code: Code) -> Failure {
        let code = self.cause().unwrap_or(code);
        match self.class() {
            Class::Passing | Class::Unknown => Failure::passing(code, self.in_full()),
            Class::Lasting => Failure::lasting(code, self.in_full()),
        }
    }
}

/// What to do about an error that is one of the agent's own configuration.
fn hint(code: u32) -> &'static str {
    match code {
        // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, AUTHENTICATION_FAILED
        192..=194 | 516 => {
            "; correct clickhouse.user or the file that clickhouse.password_file of agent.yaml names, and start the agent anew"
        }
        _ => "",
    }
}

/// The number of `Code: 60. DB::Exception ...` (a comma after it on older servers).
fn server_code(text: &str) -> Option<u32> {
    let rest = text.strip_prefix("Code: ")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let ends_well = matches!(rest.as_bytes().get(digits), Some(b'.' | b',') | None);
    ends_well.then(|| rest[..digits].parse().ok()).flatten()
}

/// Whether the server says that it does not reach ZooKeeper. A lost session is also 242, in the same words as a table whose
/// metadata is gone: that is asked of the server (`steps::cause`).
fn tells_of_zookeeper(code: u32, text: &str) -> bool {
    // What follows is a path, which may have any name.
    let text = text.split(", path ").next().unwrap_or_default();
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    match code {
        // As 26.9 says it, and (the last two) where it could not connect at all (ClickHouse: src/Common/ZooKeeper).
        code::KEEPER_EXCEPTION => says(&[
            "Session expired",
            "Connection loss",
            "Operation timeout",
            "Session moved",
            "All connection tries failed",
            "Cannot use any of provided ZooKeeper nodes",
        ]),
        code::NO_ZOOKEEPER => says(&["session", "Cannot get ZooKeeper"]),
        _ => false,
    }
}

fn class_of(code: u32) -> Class {
    match code {
        // The name is still used by a statement that runs.
        code::TABLE_ALREADY_EXISTS
        | code::TIMEOUT_EXCEEDED
        // TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR, QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING
        | 202 | 209 | 210 | 216
        // NO_ZOOKEEPER, ABORTED (the server is stopping), MEMORY_LIMIT_EXCEEDED, TABLE_IS_READ_ONLY
        // UNKNOWN_SETTING of a server of another release than the one that was there before.
        | code::UNKNOWN_SETTING
        | code::NO_ZOOKEEPER | 236 | 241 | code::TABLE_IS_READ_ONLY
        // ALL_CONNECTION_TRIES_FAILED, QUERY_WAS_CANCELLED, DEADLOCK_AVOIDED
        | 279 | 394 | 473
        | code::NOT_INITIALIZED
        | code::KEEPER_EXCEPTION => Class::Passing,
        // REPLICA_ALREADY_EXISTS, "it's active": an `is_active` of a session that has not yet ended.
        253 | 305 => Class::Passing,
        _ => Class::Lasting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_from_new_and_old_servers() {
        assert_eq!(server_code("Code: 60. DB::Exception: x"), Some(60));
        assert_eq!(server_code("Code: 999, e.displayText() = x"), Some(999));
        for text in ["Code: x", "502 Bad Gateway", "Code: 60x", ""] {
            assert_eq!(server_code(text), None, "{text}");
        }
    }

    #[test]
    fn a_zookeeper_that_is_away_is_told_from_one_that_answers() {
        let away = [
            "Code: 999. DB::Exception: Session expired. (KEEPER_EXCEPTION)",
            "Code: 999. Coordination::Exception: Coordination error: Connection loss, path /t/log_pointer. (KEEPER_EXCEPTION)",
            "Code: 999. Coordination::Exception: All connection tries failed while connecting to ZooKeeper. nodes: z:2181",
            "Code: 225. DB::Exception: Cannot get ZooKeeper. (NO_ZOOKEEPER)",
        ];
        let there = [
            "Code: 999. Coordination::Exception: Coordination error: No node, path /t/Session expired. (KEEPER_EXCEPTION)",
            "Code: 999. Coordination::Exception: Coordination error: Not authenticated. (KEEPER_EXCEPTION)",
            "Code: 225. DB::Exception: Can't create replicated table without ZooKeeper. (NO_ZOOKEEPER)",
            "Code: 242. DB::Exception: Table is in readonly mode (replica path: /t/replicas/r1). (TABLE_IS_READ_ONLY)",
        ];
        for (texts, code) in [(away, Code::ZookeeperAway), (there, Code::RestoreFailed)] {
            for text in texts {
                let error = Error::from_crate("X", "", clickhouse::error::Error::BadResponse(text.into()));
                assert_eq!(error.into_failure(Code::RestoreFailed).problem.code, code, "{text}");
            }
        }
    }

    #[test]
    fn a_server_that_cannot_be_reached_is_the_cause_whatever_the_step() {
        let away = Error::Unreachable {
            url: "http://h:8123".into(),
            statement: "RESTORE",
            source: "connection refused".into(),
        };
        let failure = away.into_failure(Code::RestoreFailed);
        assert_eq!((failure.problem.code, failure.retry), (Code::ClickhouseAway, true));
        assert!(failure.problem.message.contains("http://h:8123"), "{}", failure.problem);
        // Cut off, it may be there all the same, and the statement may have been executed.
        let cut = Error::Unknown {
            statement: "RESTORE",
            source: "closed".into(),
        };
        assert_eq!(cut.into_failure(Code::RestoreFailed).problem.code, Code::RestoreFailed);
    }

    #[test]
    fn an_answer_that_is_not_the_servers_leaves_the_outcome_unknown() {
        let proxy = Error::from_crate(
            "X",
            "",
            clickhouse::error::Error::BadResponse("504 Gateway Timeout".into()),
        );
        assert_eq!(proxy.class(), Class::Unknown);
        let session = Error::from_crate(
            "X",
            "",
            clickhouse::error::Error::BadResponse("Code: 999. Session expired".into()),
        );
        assert_eq!(session.class(), Class::Passing);
        assert_eq!(session.code(), Some(999));
    }
}
