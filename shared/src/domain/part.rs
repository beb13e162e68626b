//! Names of MergeTree parts and what they say: partition, block range, level, mutation.

use std::fmt;

/// A parsed part name, `<partition>_<min block>_<max block>_<level>[_<mutation>]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartName {
    /// Partition id, `all` for an unpartitioned table; may begin with a minus and contain underscores.
    pub partition: String,
    /// First block.
    pub min_block: i64,
    /// Last block.
    pub max_block: i64,
    /// How many merges deep.
    pub level: u32,
    /// Block number of the last mutation applied, if any.
    pub mutation: Option<i64>,
}

impl PartName {
    /// Parses a part name from the right, since a partition id may be negative (`-1_0_0_0`).
    ///
    /// Ambiguity: `20200101_0_0_0_5` is a mutated part of partition `20200101`, and could be read as partition
    /// `20200101_0`. Partition ids made by ClickHouse hold an underscore only for tables of the old syntax
    /// (`<min date>_<max date>_<min>_<max>_<level>`), which are not parsed here: those names have 8-digit dates.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let fields: Vec<&str> = name.split('_').collect();
        let (numbers, mutation) = match fields.len() {
            4 => (&fields[1..4], None),
            5 => (&fields[1..4], Some(fields[4].parse().ok()?)),
            _ => return None,
        };
        let part = Self {
            partition: fields[0].to_owned(),
            min_block: numbers[0].parse().ok()?,
            max_block: numbers[1].parse().ok()?,
            level: numbers[2].parse().ok()?,
            mutation,
        };
        (!part.partition.is_empty() && part.min_block <= part.max_block).then_some(part)
    }

    /// Whether this part's block range contains the other's. Says nothing about rows: ranges can lie (docs/safety.md,
    /// loss 12), so a caller needs equal history and row sums as well.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.partition == other.partition
            && self.min_block <= other.min_block
            && self.max_block >= other.max_block
            && self.level >= other.level
            && self.mutation.unwrap_or(0) >= other.mutation.unwrap_or(0)
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}_{}_{}_{}",
            self.partition, self.min_block, self.max_block, self.level
        )?;
        match self.mutation {
            Some(mutation) => write!(f, "_{mutation}"),
            None => Ok(()),
        }
    }
}

/// By what parts are sorted so that they are attached in the sequence of their inserts: partition, first block, name.
#[must_use]
pub fn order_of(name: &str) -> (String, i64, String) {
    PartName::parse(name).map_or_else(
        || (String::new(), 0, name.to_owned()),
        |part| (part.partition, part.min_block, name.to_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_clickhouse_makes() {
        for name in ["all_0_0_0", "-1_0_0_0", "20260101_3_17_2_21", "0f3c_0_1_1"] {
            assert_eq!(PartName::parse(name).unwrap().to_string(), name);
        }
        for name in [
            "",
            "all",
            "all_0_0",
            "all_1_0_0",
            "all_a_0_0",
            "_0_0_0",
            "ignored_all_0_0_0_try1_x",
        ] {
            assert_eq!(PartName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn contains_needs_level_and_mutation() {
        let part = |s| PartName::parse(s).unwrap();
        assert!(part("all_0_2_1").contains(&part("all_1_1_0")));
        assert!(!part("all_0_2_1").contains(&part("all_1_1_0_7")));
        assert!(!part("all_0_2_1").contains(&part("all_2_3_1")));
        assert!(!part("a_0_2_1").contains(&part("b_1_1_0")));
    }
}
