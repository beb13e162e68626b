//! The text of a `ReplicatedMergeTreeLogEntry`, as `log` and `queue` hold it, as far as settling needs it.

use rekeeper_shared::document::QueueOrder;

/// Lines that come before the entry's own word; which of them are there depends on the format version.
const HEADER: [&str; 4] = ["format version: ", "create_time: ", "source replica: ", "block_id: "];

/// Reads what an entry orders. What cannot be read is never a merge, so that it keeps a set from being settled.
#[must_use]
pub fn parse_log_entry(content: &str) -> QueueOrder {
    let mut lines = content
        .lines()
        .skip_while(|line| HEADER.iter().any(|header| line.starts_with(header)));
    let word = lines.next().unwrap_or_default();
    if word == "merge" {
        let sources: Vec<String> = lines
            .by_ref()
            .take_while(|line| *line != "into")
            .map(str::to_owned)
            .collect();
        if let Some(new_part) = lines.next().filter(|name| !name.is_empty())
            && !sources.is_empty()
        {
            return QueueOrder::Merge {
                new_part: new_part.to_owned(),
                sources,
            };
        }
        return QueueOrder::Other {
            word: "unreadable merge".to_owned(),
        };
    }
    QueueOrder::Other {
        word: if word.is_empty() { "unreadable" } else { word }.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "format version: 4\ncreate_time: 2026-11-22 13:11:25\nsource replica: r1\nblock_id: \n";

    fn word(rest: &str) -> String {
        match parse_log_entry(&format!("{HEAD}{rest}")) {
            QueueOrder::Other { word } => word,
            QueueOrder::Merge { .. } => "merge".to_owned(),
        }
    }

    #[test]
    fn entries_of_26_9_are_read() {
        let merge = "merge\n0_0_0_0\n0_1_1_0\n0_2_2_0\ninto\n0_0_2_1\ndeduplicate: 0\npart_type: Compact\n";
        assert_eq!(
            parse_log_entry(&format!("{HEAD}{merge}")),
            QueueOrder::Merge {
                new_part: "0_0_2_1".into(),
                sources: vec!["0_0_0_0".into(), "0_1_1_0".into(), "0_2_2_0".into()],
            }
        );
        for (text, expected) in [
            ("get\n1_3_3_0\npart_type: Compact\n", "get"),
            ("mutate\n1_0_0_0\nto\n1_0_0_0_4\n", "mutate"),
            ("detach\n0_0_5_999999999_2147483647\n", "detach"),
            ("attach\n0_7_7_0\npart_checksum: 4852\npart_type: Compact\n", "attach"),
            (
                "REPLACE_RANGE\ndrop_range_name: 0_0_0_0\nfrom_database: d\n",
                "REPLACE_RANGE",
            ),
            ("alter\nalter_version\n1\nhave_mutation\n0\n", "alter"),
        ] {
            assert_eq!(word(text), expected);
        }
    }

    #[test]
    fn a_table_named_merge_is_no_merge_and_a_torn_entry_neither() {
        assert_eq!(word("merge\n0_0_0_0\n"), "unreadable merge");
        assert_eq!(word(""), "unreadable");
        assert_eq!(word("drop\nmerge_0_0_0\n"), "drop");
    }
}
