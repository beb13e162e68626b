//! Mutations: which of them change what the columns of a part are, and which parts they have not reached yet.
//!
//! Measured on 26.9 with merges stopped and `alter_sync = 0` (issue 10): forgotten by new metadata, or ended by KILL
//! MUTATION, RENAME COLUMN leaves 0 of 100 values, since the parts have the column under its former name; after CLEAR
//! COLUMN and DROP COLUMN the values come back. UPDATE, DELETE, MATERIALIZE, APPLY and REWRITE leave the rows as they were.

use std::collections::BTreeMap;

use crate::domain::part::PartName;

/// Whether the command is part of an ALTER of the table's columns, indexes or projections: one that must not be
/// forgotten, nor killed. What is not known to only write values counts as one.
#[must_use]
pub fn is_alter(command: &str) -> bool {
    const ONLY_VALUES: [&str; 5] = ["UPDATE", "DELETE", "MATERIALIZE", "APPLY", "REWRITE"];
    let first = command.trim_start_matches(['(', ' ']).split_whitespace().next();
    !first.is_some_and(|word| ONLY_VALUES.iter().any(|only| word.eq_ignore_ascii_case(only)))
}

/// A node below `<path>/mutations`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// Parts of a partition whose data version is lower have not been mutated.
    numbers: BTreeMap<String, i64>,
    /// Its commands, as one text.
    pub commands: String,
    /// It belongs to an ALTER that has changed the table's definition.
    pub alter: bool,
}

impl Mutation {
    /// Reads the content of a node, as `format version: 1` has it.
    #[must_use]
    pub fn parse(content: &str) -> Option<Self> {
        let field = |name: &str| content.lines().find_map(|line| line.strip_prefix(name));
        let count: usize = field("block numbers count: ")?.parse().ok()?;
        let lines = content
            .lines()
            .skip_while(|line| !line.starts_with("block numbers count: "));
        let mut numbers = BTreeMap::new();
        for line in lines.skip(1).take(count) {
            let (partition, number) = line.split_once('\t')?;
            numbers.insert(partition.to_owned(), number.parse().ok()?);
        }
        let commands = field("commands: ")?.to_owned();
        // Servers before 20.x do not write it.
        let alter = field("alter version: ").map_or_else(|| is_alter(&commands), |version| version != "-1");
        Some(Self {
            numbers,
            commands,
            alter,
        })
    }

    /// Whether the part is still as it was before the mutation, by the server's own rule: its data version is the last
    /// mutation that it has seen, else its first block.
    #[must_use]
    pub fn lacks(&self, part: &PartName) -> bool {
        let number = self.numbers.get(&part.partition);
        number.is_some_and(|number| part.mutation.unwrap_or(part.min_block) < *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_be_forgotten_is_told_from_what_only_writes_values() {
        for command in [
            "(RENAME COLUMN b TO c)",
            "RENAME COLUMN b TO c",
            "(DROP COLUMN `update`)",
            "(MODIFY COLUMN `b` String)",
            "(CLEAR COLUMN b)",
            "(DROP INDEX i)",
            "(DROP PROJECTION p)",
            "(SOMETHING NEW)",
            "",
        ] {
            assert!(is_alter(command), "{command}");
        }
        for command in [
            "(UPDATE b = 7 WHERE 1)",
            "delete where a = 'RENAME COLUMN'",
            "(MATERIALIZE COLUMN d)",
            "(APPLY DELETED MASK)",
            "(REWRITE PARTS)",
        ] {
            assert!(!is_alter(command), "{command}");
        }
    }

    #[test]
    fn a_node_of_26_9_is_read() {
        let content = "format version: 1\ncreate time: 2026-11-27 12:54:03\nsource replica: r\nblock numbers count: 2\n\
                       0\t1\n-1\t4\ncommands: (RENAME COLUMN b TO c), (DROP COLUMN `my drop`)\nalter version: 1\n";
        let mutation = Mutation::parse(content).unwrap();
        assert!(mutation.alter && mutation.commands.starts_with("(RENAME"));
        let lacks = |name: &str| mutation.lacks(&PartName::parse(name).unwrap());
        assert!(lacks("0_0_0_0") && lacks("-1_0_3_1") && lacks("-1_2_2_0_3"));
        // Mutated, inserted after it, of a partition that it does not have.
        assert!(!lacks("0_0_0_0_1") && !lacks("0_1_1_0") && !lacks("7_0_0_0"));
        let delete = content.replace(
            "(RENAME COLUMN b TO c), (DROP COLUMN `my drop`)",
            "(DELETE WHERE a = 1)",
        );
        assert!(
            !Mutation::parse(&delete.replace("version: 1\n", "version: -1\n"))
                .unwrap()
                .alter
        );
        let (old, _) = delete.split_once("alter version").unwrap();
        assert!(!Mutation::parse(old).unwrap().alter);
        assert_eq!(Mutation::parse("something else"), None);
    }
}
