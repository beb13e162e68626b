//! The text of a `ReplicatedMergeTreeLogEntry`, as `log` and `queue` hold it, as far as settling needs it.

use rekeeper_shared::domain::document::QueueOrder;
use rekeeper_shared::domain::part::PartName;

/// Lines that come before the entry's own word; which of them are there depends on the format version.
const HEADER: [&str; 4] = ["format version: ", "create_time: ", "source replica: ", "block_id: "];

/// Reads what an entry orders. What cannot be read is never a merge, so that it keeps a set from being settled.
#[must_use]
pub fn parse_log_entry(content: &str) -> QueueOrder {
    let mut lines = content
        .lines()
        .skip_while(|line| HEADER.iter().any(|header| line.starts_with(header)));
    let word = lines.next().unwrap_or_default();
    let rest: Vec<&str> = lines.collect();
    let order = match word {
        "merge" => merge(&rest),
        "mutate" => mutate(&rest),
        "get" | "attach" => name(&rest, 0).map(|part| QueueOrder::Bring { part }),
        "drop" | "detach" => name(&rest, 0).map(|range| QueueOrder::Drop { range }),
        "REPLACE_RANGE" => replace(&rest),
        other => {
            let word = if other.is_empty() { "unreadable" } else { other };
            Some(QueueOrder::Other { word: word.to_owned() })
        }
    };
    order.unwrap_or_else(|| QueueOrder::Other {
        word: format!("unreadable {word}"),
    })
}

/// The version that an ALTER gives the table's definition; none for every other entry.
#[must_use]
pub(super) fn alter_version(content: &str) -> Option<i32> {
    let mut lines = content
        .lines()
        .skip_while(|line| HEADER.iter().any(|header| line.starts_with(header)));
    let is_alter = lines.next() == Some("alter") && lines.next() == Some("alter_version");
    lines.next().filter(|_| is_alter)?.parse().ok()
}

/// The part name in a line; none when there is no such line, or something else in it.
fn name(lines: &[&str], at: usize) -> Option<String> {
    let name = *lines.get(at)?;
    PartName::parse(name).map(|_| name.to_owned())
}

fn merge(lines: &[&str]) -> Option<QueueOrder> {
    let into = lines.iter().position(|line| *line == "into")?;
    let sources = (0..into).map(|at| name(lines, at)).collect::<Option<Vec<_>>>()?;
    let new_part = name(lines, into + 1)?;
    (!sources.is_empty()).then_some(QueueOrder::Merge { new_part, sources })
}

fn mutate(lines: &[&str]) -> Option<QueueOrder> {
    let (source, new_part) = (name(lines, 0)?, name(lines, 2)?);
    (lines.get(1) == Some(&"to")).then_some(QueueOrder::Mutate { new_part, source })
}

fn replace(lines: &[&str]) -> Option<QueueOrder> {
    let range = lines.first()?.strip_prefix("drop_range_name: ")?;
    PartName::parse(range)?;
    Some(QueueOrder::Replace {
        range: range.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "format version: 4\ncreate_time: 2026-11-22 13:11:25\nsource replica: r1\nblock_id: \n";

    fn read(rest: &str) -> QueueOrder {
        parse_log_entry(&format!("{HEAD}{rest}"))
    }

    #[test]
    fn entries_of_26_9_are_read() {
        let merge = "merge\n0_0_0_0\n0_1_1_0\n0_2_2_0\ninto\n0_0_2_1\ndeduplicate: 0\npart_type: Compact\n";
        assert_eq!(
            read(merge),
            QueueOrder::Merge {
                new_part: "0_0_2_1".into(),
                sources: vec!["0_0_0_0".into(), "0_1_1_0".into(), "0_2_2_0".into()],
            }
        );
        assert_eq!(
            read("mutate\n1_0_0_0\nto\n1_0_0_0_4\n"),
            QueueOrder::Mutate {
                new_part: "1_0_0_0_4".into(),
                source: "1_0_0_0".into(),
            }
        );
        for (text, part) in [
            ("get\n1_3_3_0\npart_type: Compact\n", "1_3_3_0"),
            ("attach\n0_7_7_0\npart_checksum: 4852\npart_type: Compact\n", "0_7_7_0"),
        ] {
            assert_eq!(read(text), QueueOrder::Bring { part: part.into() });
        }
        for text in [
            "detach\n0_0_5_999999999_2147483647\n",
            "drop\n0_0_5_999999999_2147483647",
        ] {
            let range = "0_0_5_999999999_2147483647".into();
            assert_eq!(read(text), QueueOrder::Drop { range });
        }
        assert_eq!(
            read("REPLACE_RANGE\ndrop_range_name: 5_0_0_0\nfrom_database: d\nfrom_table: s\n"),
            QueueOrder::Replace {
                range: "5_0_0_0".into()
            }
        );
        let alter = read("alter\nalter_version\n1\nhave_mutation\n0\n");
        assert_eq!(alter.word(), "alter");
        assert_eq!(
            alter_version(&format!("{HEAD}alter\nalter_version\n12\nhave_mutation\n1\n")),
            Some(12)
        );
        assert_eq!(
            alter_version(&format!("{HEAD}mutate\n1_0_0_0\nto\n1_0_0_0_4\nalter_version\n12\n")),
            None
        );
    }

    #[test]
    fn what_is_torn_is_no_order() {
        assert_eq!(read("merge\n0_0_0_0\n").word(), "unreadable merge");
        assert_eq!(read("drop\nmerge_0_0_0\n").word(), "drop");
        assert_eq!(read("drop\nall\n").word(), "unreadable drop");
        assert_eq!(read("mutate\n1_0_0_0\nto\n").word(), "unreadable mutate");
        assert_eq!(read("").word(), "unreadable");
    }
}
