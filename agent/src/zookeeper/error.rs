//! What can go wrong with ZooKeeper, by what is known about the data afterwards.

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;
use zookeeper_client::Error as ClientError;

use crate::words::in_full;

/// What is known about the data after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was changed.
    NotApplied,
    /// The request may or may not have been applied: read again.
    Unknown,
    /// The session is gone; nothing more comes of this connection. A request under way may have been applied.
    Terminal,
}

/// A request to ZooKeeper that failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum ZkError {
    /// No session could be made.
    #[error("no session with the ZooKeeper ensemble {place}: {reason}")]
    Unreachable {
        place: String,
        /// What was tried, and what to look at.
        reason: String,
        #[source]
        source: Option<ClientError>,
    },
    /// The chroot is not there.
    #[error(
        "the root {chroot} of ClickHouse's ZooKeeper configuration does not exist in the ensemble {nodes}: create it \
         before the servers start, or correct <root>"
    )]
    NoChroot { chroot: String, nodes: String },
    /// An ACL forbids it.
    #[error(
        "ZooKeeper's ACL does not let this agent {operation} {path}: see whether <identity> in the file that \
         clickhouse.config of agent.yaml names is that of the servers (a wrong password is told only like this), or give it \
         the right to"
    )]
    NoAuth {
        operation: &'static str,
        /// The node that the request was about.
        path: String,
    },
    /// ZooKeeper refused it; nothing was changed.
    #[error("ZooKeeper refused to {operation} {path}")]
    Refused {
        operation: &'static str,
        /// The node that the request was about.
        path: String,
        #[source]
        source: ClientError,
    },
    /// The connection is down and nothing was sent.
    #[error("not connected to the ZooKeeper ensemble {place}: did not {operation} {path}; see whether its servers run")]
    Disconnected {
        place: String,
        operation: &'static str,
        /// The node that the request was about.
        path: String,
    },
    /// The answer never came.
    #[error("lost ZooKeeper's answer: it may or may not have happened to {operation} {path}")]
    Lost {
        operation: &'static str,
        /// The node that the request was about.
        path: String,
        #[source]
        source: Option<ClientError>,
    },
    /// The session is over: a new one has to be made.
    #[error("the ZooKeeper session ended before the answer to {operation} {path}")]
    Ended {
        operation: &'static str,
        /// The node that the request was about.
        path: String,
        #[source]
        source: ClientError,
    },
    /// The path is there, but it is no replicated table.
    #[error("{path} exists, but is no replicated table: it has no node {missing}")]
    NotATable {
        path: String,
        /// The first node that is missing.
        missing: &'static str,
    },
    /// A node says something that cannot be understood.
    #[error("{path} holds {content:?}, which is no {expected}")]
    Unreadable {
        /// The node that the request was about.
        path: String,
        content: String,
        expected: &'static str,
    },
}

impl ZkError {
    pub(super) fn new(operation: &'static str, path: &str, source: ClientError) -> Self {
        let path = path.to_owned();
        match source {
            ClientError::NoAuth => Self::NoAuth { operation, path },
            ClientError::SessionExpired
            | ClientError::ClientClosed
            | ClientError::AuthFailed
            | ClientError::NoHosts => Self::Ended {
                operation,
                path,
                source,
            },
            ClientError::NoNode
            | ClientError::BadVersion
            | ClientError::NodeExists
            | ClientError::NotEmpty
            | ClientError::NoChildrenForEphemerals
            | ClientError::InvalidAcl
            | ClientError::NotReadOnly
            | ClientError::QuotaExceeded
            | ClientError::Throttled
            | ClientError::MarshallingError
            | ClientError::Unimplemented
            | ClientError::BadArguments(_)
            | ClientError::UnexpectedErrorCode(_) => Self::Refused {
                operation,
                path,
                source,
            },
            // The client's list is open-ended: what is not known to be harmless is unknown.
            _ => Self::Lost {
                operation,
                path,
                source: Some(source),
            },
        }
    }

    /// What is known about the data.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Unreachable { .. }
            | Self::NoChroot { .. }
            | Self::NoAuth { .. }
            | Self::Refused { .. }
            | Self::Disconnected { .. }
            | Self::NotATable { .. }
            | Self::Unreadable { .. } => Outcome::NotApplied,
            Self::Lost { .. } => Outcome::Unknown,
            Self::Ended { .. } => Outcome::Terminal,
        }
    }

    /// Whether ZooKeeper cannot be reached. A lost answer alone does not say so: the next request finds out.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Disconnected { .. } => true,
            Self::Ended { source, .. } => *source != ClientError::AuthFailed,
            Self::Lost { .. }
            | Self::NoChroot { .. }
            | Self::NoAuth { .. }
            | Self::Refused { .. }
            | Self::NotATable { .. }
            | Self::Unreadable { .. } => false,
        }
    }

    /// What a step that cannot go on tells: the cause where that is known, else `code`.
    #[must_use]
    pub fn into_failure(self, code: Code) -> Failure {
        let text = in_full(&self);
        match (self.is_away(), self.may_pass()) {
            (true, true) => Failure::passing(Code::ZookeeperAway, text),
            (true, false) => Failure::lasting(Code::ZookeeperAway, text),
            (false, true) => Failure::passing(code, text),
            (false, false) => Failure::lasting(code, text),
        }
    }

    /// Whether trying again later may help without anybody doing anything.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Disconnected { .. } | Self::Lost { .. } => true,
            Self::Ended { source, .. } => *source != ClientError::AuthFailed,
            Self::Refused { source, .. } => *source == ClientError::Throttled,
            Self::NoChroot { .. } | Self::NoAuth { .. } | Self::NotATable { .. } | Self::Unreadable { .. } => false,
        }
    }
}

/// Why a table's nodes were not fenced, released or deleted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum CleanError {
    /// ZooKeeper failed.
    #[error(transparent)]
    ZooKeeper(#[from] ZkError),
    /// The marker is gone: another attempt took over, or the table was made anew. Nothing more was done.
    #[error("lost the marker {marker} of {path}: another attempt took over, or somebody finished the deletion")]
    FenceLost { path: String, marker: String },
    /// A newer attempt holds the path.
    #[error("{path} is held by the newer attempt {marker}")]
    Superseded {
        path: String,
        /// Name of the marker that is there.
        marker: String,
    },
    /// Another migration holds the path.
    #[error("{path} is held by another migration ({marker}): end that one first")]
    Foreign {
        path: String,
        /// Name of the marker that is there.
        marker: String,
    },
    /// A server has the table attached.
    #[error("replica {replica} of {path} is active: a server has the table attached")]
    Active {
        path: String,
        /// Its name below `replicas` of the path.
        replica: String,
    },
    /// Somebody else put a persistent `is_active` there.
    #[error(
        "is_active of replica {replica} of {path} is a persistent node that Rekeeper did not make ({content:?}): see \
         who did, and delete it if nobody needs it"
    )]
    ForeignHold {
        path: String,
        /// Its name below `replicas` of the path.
        replica: String,
        content: String,
    },
    /// The session is with another place than the plan's.
    #[error("{path} is planned at {planned}, and this session is with {connected}")]
    OtherPlace {
        path: String,
        planned: String,
        connected: String,
    },
    /// The path is not there.
    #[error("{path} does not exist, and it was not recorded that this migration deleted it")]
    Absent { path: String },
    /// The record is not saved.
    #[error("the part set of record of {path} is not saved: nothing is deleted before it is")]
    NotRecorded { path: String },
    /// Its nodes are not in a file of this host.
    #[error("the znodes of {path} are not exported: none is deleted before they are")]
    NotExported { path: String },
    /// No marker of this migration is there, so the path is not the one that was recorded.
    #[error(
        "{path} bears no marker of this migration: it was released, or deleted and made anew since its parts were \
         recorded"
    )]
    NotFenced { path: String },
    /// The path does not look like a table.
    #[error("{path} does not look like a replicated table (it has no {missing}): nothing there was touched")]
    NotTableShaped { path: String, missing: String },
    /// Another table lies below.
    #[error("another table lies below {path}, at {nested}: deleting the one would delete the other")]
    Nested { path: String, nested: String },
    /// Nodes below it are not the table's.
    #[error("below {path} are nodes that no replicated table makes, and that would be deleted with the table: {nodes}")]
    ForeignNodes { path: String, nodes: String },
    /// A replica that was not fenced, or that the plan does not know.
    #[error("replica {replica} appeared under {path} since its parts were recorded: a table was created there")]
    Appeared {
        path: String,
        /// Its name below `replicas` of the path.
        replica: String,
    },
    /// ClickHouse itself is deleting the leftovers.
    #[error("a server is deleting what is left of {path} right now (dropped/lock is held)")]
    BeingDropped { path: String },
    /// Deletion has begun, so that servers must not be let in again.
    #[error("{path} is half deleted (it has no {missing}): it cannot be released any more, only deleted to the end")]
    HalfDeleted { path: String, missing: String },
    /// The permissions of the log were taken, and not kept.
    #[error(
        "{path} still lets everybody add to it: this ClickHouse Keeper took the permissions and did not keep them (it keeps no \
         entry for world:anyone before 25.7, or ignores all of them); pause what writes into the table, or give ClickHouse an \
         identity (<zookeeper><identity>)"
    )]
    NotFrozen { path: String },
    /// Nodes appear as fast as they are deleted.
    #[error("nodes below {path} keep changing while they are deleted")]
    Busy {
        /// The node that others change all the time.
        path: String,
    },
}

impl CleanError {
    /// Whether trying again later may help without anybody doing anything.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::ZooKeeper(error) => error.may_pass(),
            Self::BeingDropped { .. } | Self::Busy { .. } => true,
            Self::FenceLost { .. }
            | Self::Superseded { .. }
            | Self::Foreign { .. }
            | Self::Active { .. }
            | Self::ForeignHold { .. }
            | Self::OtherPlace { .. }
            | Self::Absent { .. }
            | Self::NotRecorded { .. }
            | Self::NotExported { .. }
            | Self::NotFenced { .. }
            | Self::NotTableShaped { .. }
            | Self::Nested { .. }
            | Self::ForeignNodes { .. }
            | Self::Appeared { .. }
            | Self::NotFrozen { .. }
            | Self::HalfDeleted { .. } => false,
        }
    }
}
