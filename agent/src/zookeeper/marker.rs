//! The names of the nodes by which a migration holds a table's path.

use std::fmt;

use rekeeper_shared::domain::ids::MigrationName;

const PREFIX: &str = "rekeeper-";
/// The node that says who froze the log, and what its permissions were.
pub(super) const NOTE: &str = "frozen-by-rekeeper";

/// `rekeeper-<migration>-<attempt>`: the node in a table's own path that only the current attempt holds, and the
/// content of the `is_active` nodes that it put under the replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Another migration that finds the marker stays away.
    pub migration: MigrationName,
    /// Which attempt made it: the highest one holds the path.
    pub attempt: u64,
}

impl Marker {
    /// The marker of an attempt.
    #[must_use]
    pub fn new(migration: &MigrationName, attempt: u64) -> Self {
        Self {
            migration: migration.clone(),
            attempt,
        }
    }

    /// Reads a node's name. The attempt is what follows the last dash, since a migration's name may hold dashes.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (migration, attempt) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
        // Only as it was written: no sign, no leading zero.
        let number: u64 = attempt.parse().ok().filter(|n: &u64| n.to_string() == attempt)?;
        Some(Self {
            migration: migration.parse().ok()?,
            attempt: number,
        })
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}", self.migration, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_is_not_taken_for_another_whose_name_it_begins() {
        let name = |m: &str| m.parse::<MigrationName>().unwrap();
        let marker = Marker::new(&name("a-1"), 5);
        assert_eq!(Marker::parse(&marker.to_string()).unwrap(), marker);
        assert_ne!(Marker::parse("rekeeper-a-1-5").unwrap().migration, name("a"));
        for other in [
            "rekeeper-a",
            "rekeeper--5",
            "rekeeper-a-",
            "rekeeper-a-+5",
            "rekeeper-a-05",
            "metadata",
            "a-5",
        ] {
            assert_eq!(Marker::parse(other), None, "{other}");
        }
    }
}
