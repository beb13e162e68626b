//! Where a table's metadata lives: ensemble, chroot, path.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A path in ZooKeeper: absolute, no empty component, no `.` or `..`, no trailing slash; never `/` itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZkPath(String);

/// A text that is no usable ZooKeeper path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a usable ZooKeeper path: it must be absolute, without empty, '.' or '..' components, and not '/'"
)]
pub struct InvalidZkPath(pub String);

impl ZkPath {
    /// Parses a path; a trailing slash, which ClickHouse tolerates in a table's definition, is dropped.
    ///
    /// # Errors
    /// [`InvalidZkPath`] when it is not absolute, is `/`, or has an empty, `.` or `..` component.
    pub fn parse(text: &str) -> Result<Self, InvalidZkPath> {
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let ok = trimmed.strip_prefix('/').is_some_and(|rest| {
            rest.split('/')
                .all(|c| !c.is_empty() && c != "." && c != ".." && !c.contains('\0'))
        });
        if ok {
            Ok(Self(trimmed.to_owned()))
        } else {
            Err(InvalidZkPath(text.to_owned()))
        }
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of a child node.
    #[must_use]
    pub fn child(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    /// The path of a replica of the table at this path.
    #[must_use]
    pub fn replica(&self, name: &str) -> String {
        format!("{}/replicas/{name}", self.0)
    }

    /// Whether `other` lies below this path.
    #[must_use]
    pub fn is_parent_of(&self, other: &Self) -> bool {
        other.0.strip_prefix(&self.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl TryFrom<String> for ZkPath {
    type Error = InvalidZkPath;

    fn try_from(text: String) -> Result<Self, InvalidZkPath> {
        Self::parse(&text)
    }
}

impl From<ZkPath> for String {
    fn from(path: ZkPath) -> Self {
        path.0
    }
}

impl fmt::Display for ZkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An ensemble and the chroot within it, as ClickHouse's configuration names them. Holds no secrets: identity and
/// keys are read from the configuration when a connection is made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Name of the ensemble in ClickHouse's configuration: `default`, or that of an auxiliary one.
    pub ensemble: String,
    /// `host:port` of every node, sorted.
    pub nodes: Vec<String>,
    /// Whether the connection is TLS (`<secure>` of the nodes).
    pub secure: bool,
    /// The chroot (`<root>`), empty or an absolute path without a trailing slash.
    pub chroot: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.nodes.join(","), self.chroot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_the_root_and_never_relative() {
        for bad in ["", "/", "//", "a/b", "/a//b", "/a/../b", "/./a"] {
            assert!(ZkPath::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(ZkPath::parse("/a/b/").unwrap().as_str(), "/a/b");
    }

    #[test]
    fn parents_are_seen_by_component() {
        let path = |s| ZkPath::parse(s).unwrap();
        assert!(path("/a").is_parent_of(&path("/a/b")));
        assert!(!path("/a").is_parent_of(&path("/ab")));
        assert!(!path("/a").is_parent_of(&path("/a")));
    }
}
