//! The export of a table's nodes: a file that has everything that was under a table's path before it was deleted.
//!
//! It is for people, not for Rekeeper itself: nothing of a migration depends on what it says. So it can be read without
//! Rekeeper as well (`zstd -dc FILE`): a zstd stream of lines of JSON. The first is the [`Header`], then comes a line
//! for each node, parents before their children, and last the [`Sum`], whose digest covers every byte of the lines
//! before it (`zstd -dc FILE | head -n -1 | sha256sum`).

mod read;
mod write;

use std::io;
use std::path::PathBuf;

use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::place::{Place, ZkPath};
use serde::{Deserialize, Serialize};

pub use read::Reader;
pub use write::Writer;

use crate::zookeeper::ZNode;

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// The first line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub rekeeper_znodes: u32,
    /// The table's path, below the chroot of the place.
    pub path: ZkPath,
    /// From where they were read, and where `import` puts them.
    pub place: Place,
    /// The migration that is about to delete the nodes.
    pub migration: MigrationName,
    /// The attempt that exported them.
    pub attempt: u64,
    /// The transaction by which the migration has held the path since.
    pub held: i64,
    /// On this host lies the file.
    pub host: HostName,
    /// When, RFC 3339 UTC.
    pub time: String,
}

/// The last line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Nodes that follow; a file with another number of them is refused.
    pub nodes: u64,
    /// Bytes of their contents.
    pub data_bytes: u64,
    /// SHA-256 of all lines before this one, as hexadecimal.
    pub sha256: String,
}

/// The line of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    path: String,
    /// Its content, when that is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Its content as hexadecimal, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
    acl: Vec<String>,
    czxid: i64,
    mzxid: i64,
    ctime: i64,
    mtime: i64,
    version: i32,
    ephemeral_owner: i64,
}

impl From<ZNode> for Line {
    fn from(node: ZNode) -> Self {
        let (text, hex) = match String::from_utf8(node.data) {
            Ok(text) => (Some(text), None),
            Err(bytes) => (None, Some(as_hex(bytes.as_bytes()))),
        };
        Self {
            path: node.path,
            text,
            hex,
            acl: node.acl,
            czxid: node.czxid,
            mzxid: node.mzxid,
            ctime: node.ctime,
            mtime: node.mtime,
            version: node.version,
            ephemeral_owner: node.ephemeral_owner,
        }
    }
}

impl Line {
    /// The node; none when its content is not what is written.
    fn node(self) -> Option<ZNode> {
        let data = match (self.text, self.hex) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(hex)) => from_hex(&hex)?,
            _ => return None,
        };
        Some(ZNode {
            path: self.path,
            data,
            acl: self.acl,
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime: self.ctime,
            mtime: self.mtime,
            version: self.version,
            ephemeral_owner: self.ephemeral_owner,
        })
    }
}

/// A node as it is listed as JSON: its line in the file, and its size.
#[derive(Debug, Serialize)]
pub struct Listed {
    #[serde(flatten)]
    line: Line,
    /// Bytes of its content.
    size: usize,
}

impl From<ZNode> for Listed {
    fn from(node: ZNode) -> Self {
        let size = node.data.len();
        Self {
            line: node.into(),
            size,
        }
    }
}

/// Why an export was not written, or cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum ExportError {
    /// The file cannot be written or read.
    #[error("{} cannot be {what}", .file.display())]
    Disk {
        file: PathBuf,
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// It would be larger than it may be.
    #[error(
        "the export of {nodes} znodes takes {size} bytes, and znodes_export_limit_bytes in agent.yaml of this host allows \
         {limit}"
    )]
    TooLarge {
        nodes: u64,
        size: u64,
        /// `znodes_export_limit_bytes` of agent.yaml.
        limit: u64,
    },
    /// It is not what was written.
    #[error("{} is no whole export of znodes: {problem}", .file.display())]
    Damaged { file: PathBuf, problem: String },
}

fn as_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|n| u8::try_from(n).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests;
