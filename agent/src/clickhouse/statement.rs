//! The statements that change something, made of typed parts only.

use rekeeper_shared::domain::ids::{TableName, quote_identifier, quote_literal};

/// A statement that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement<'a> {
    /// Wait until fetches, attaches and drops are done; merges are not waited for.
    SyncReplicaLightweight(&'a TableName),
    /// The same for servers before 23.4: waits for everything that is queued.
    SyncReplica(&'a TableName),
    /// Detach, also over restarts, and wait until nobody uses the table any more.
    DetachPermanently(&'a TableName),
    /// Attach.
    AttachTable(&'a TableName),
    /// No merges and mutations from now on, until the table is started anew.
    StopMerges(&'a TableName),
    /// SYSTEM START MERGES.
    StartMerges(&'a TableName),
    /// No entry of its queue is executed from now on, so that no part comes, until the table or its server is started anew.
    StopQueue(&'a TableName),
    /// SYSTEM START REPLICATION QUEUES.
    StartQueue(&'a TableName),
    /// CREATE of a table that exists, with a key that does not: it is refused for that, or before that for a right that is
    /// lacking (InterpreterCreateQuery.cpp, `getRequiredAccess`, comes first).
    CreateNothing(&'a TableName, &'a str),
    /// Make the metadata anew from the parts on the disk.
    RestoreReplica(&'a TableName),
    /// Start the table anew; starts merges as well.
    RestartReplica(&'a TableName),
    /// Attach one folder of `detached/`.
    AttachPart(&'a TableName, &'a str),
    /// A setting of the table, which is not replicated; none gives back what the server has by default.
    Set(&'a TableName, TableSetting, Option<u64>),
    /// Forget a cache.
    DropCache(Cache),
    /// Write what asynchronous inserts have left in the server's memory, for all tables: by its name a table is found only
    /// where the INSERT named its database too (AsynchronousInsertQueue.cpp).
    FlushAsyncInserts,
}

/// A setting of a table that is changed while parts are attached again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableSetting {
    /// Without it at 0, ATTACH PART takes equal parts for one (26.9; before also by a setting of the statement).
    DeduplicationWindow,
    /// At 0 the replica orders no merges, also right after a start of its server.
    MergesInQueue,
}

impl TableSetting {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DeduplicationWindow => "replicated_deduplication_window",
            Self::MergesInQueue => "max_replicated_merges_in_queue",
        }
    }
}

/// A cache that is keyed by part names, which a restore uses again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cache {
    /// Marks.
    Mark,
    /// Primary indexes.
    PrimaryIndex,
    /// Uncompressed blocks.
    Uncompressed,
    /// Which granules a condition cannot match.
    QueryCondition,
}

impl Cache {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Mark, Self::PrimaryIndex, Self::Uncompressed, Self::QueryCondition];

    fn words(self) -> &'static str {
        match self {
            Self::Mark => "MARK",
            Self::PrimaryIndex => "PRIMARY INDEX",
            Self::Uncompressed => "UNCOMPRESSED",
            Self::QueryCondition => "QUERY CONDITION",
        }
    }
}

impl Statement<'_> {
    /// What is sent to the server.
    #[must_use]
    pub fn sql(&self) -> String {
        match self {
            Self::SyncReplicaLightweight(table) => format!("SYSTEM SYNC REPLICA {} LIGHTWEIGHT", table.sql()),
            Self::SyncReplica(table) => format!("SYSTEM SYNC REPLICA {}", table.sql()),
            Self::DetachPermanently(table) => format!("DETACH TABLE {} PERMANENTLY SYNC", table.sql()),
            Self::AttachTable(table) => format!("ATTACH TABLE {}", table.sql()),
            Self::StopMerges(table) => format!("SYSTEM STOP MERGES {}", table.sql()),
            Self::StartMerges(table) => format!("SYSTEM START MERGES {}", table.sql()),
            Self::StopQueue(table) => format!("SYSTEM STOP REPLICATION QUEUES {}", table.sql()),
            Self::StartQueue(table) => format!("SYSTEM START REPLICATION QUEUES {}", table.sql()),
            Self::CreateNothing(table, engine) => {
                let key = "the_key_of_no_table";
                format!(
                    "CREATE TABLE {} (number UInt8) ENGINE = {engine} ORDER BY {key}",
                    table.sql()
                )
            }
            Self::RestoreReplica(table) => format!("SYSTEM RESTORE REPLICA {}", table.sql()),
            Self::RestartReplica(table) => format!("SYSTEM RESTART REPLICA {}", table.sql()),
            Self::AttachPart(table, part) => {
                // ClickHouse up to 26.5 takes equal parts for one here unless this setting and the table's window say
                // otherwise; measured on 24.8 and 25.8.
                format!(
                    "ALTER TABLE {} ATTACH PART {} SETTINGS insert_deduplicate = 0",
                    table.sql(),
                    quote_literal(part)
                )
            }
            Self::Set(table, setting, value) => {
                let setting = quote_identifier(setting.name());
                match value {
                    Some(value) => format!("ALTER TABLE {} MODIFY SETTING {setting} = {value}", table.sql()),
                    None => format!("ALTER TABLE {} RESET SETTING {setting}", table.sql()),
                }
            }
            Self::DropCache(cache) => format!("SYSTEM DROP {} CACHE", cache.words()),
            Self::FlushAsyncInserts => "SYSTEM FLUSH ASYNC INSERT QUEUE".to_owned(),
        }
    }

    /// What messages call it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SyncReplicaLightweight(_) | Self::SyncReplica(_) => "SYSTEM SYNC REPLICA",
            Self::DetachPermanently(_) => "DETACH TABLE",
            Self::AttachTable(_) => "ATTACH TABLE",
            Self::StopMerges(_) => "SYSTEM STOP MERGES",
            Self::StartMerges(_) => "SYSTEM START MERGES",
            Self::StopQueue(_) => "SYSTEM STOP REPLICATION QUEUES",
            Self::StartQueue(_) => "SYSTEM START REPLICATION QUEUES",
            Self::CreateNothing(..) => "CREATE TABLE",
            Self::RestoreReplica(_) => "SYSTEM RESTORE REPLICA",
            Self::RestartReplica(_) => "SYSTEM RESTART REPLICA",
            Self::AttachPart(..) => "ATTACH PART",
            Self::Set(..) => "MODIFY SETTING",
            Self::DropCache(_) => "SYSTEM DROP CACHE",
            Self::FlushAsyncInserts => "SYSTEM FLUSH ASYNC INSERT QUEUE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_place() {
        let table = TableName::new("d`b", "it's a `tab");
        assert_eq!(
            Statement::AttachPart(&table, "all_0_0_0' x").sql(),
            "ALTER TABLE `d\\`b`.`it's a \\`tab` ATTACH PART 'all_0_0_0\\' x' SETTINGS insert_deduplicate = 0"
        );
        assert_eq!(
            Statement::DetachPermanently(&TableName::new("d", "t")).sql(),
            "DETACH TABLE `d`.`t` PERMANENTLY SYNC"
        );
    }
}
