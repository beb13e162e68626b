//! docs/output.md has every field of every document with its type, and no other.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::fake::{Canned, Fake};
use crate::run::run;
use crate::{documents, report};

/// Field to type, without "or null".
type Fields = BTreeMap<String, String>;

/// Adds the fields of a document; a field that is null says nothing.
fn collect(path: &str, value: &Value, fields: &mut Fields) {
    let kind = match value {
        Value::Null => return,
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    if !path.is_empty() {
        let known = fields.entry(path.to_owned()).or_insert_with(|| kind.to_owned());
        assert_eq!(known, kind, "{path}");
    }
    match value {
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect(&format!("{path}[]"), item, fields)),
        Value::Object(object) => {
            for (key, item) in object {
                // The one object whose names are data.
                let key = if path.ends_with(".fates") { "*" } else { key };
                let dot = if path.is_empty() { "" } else { "." };
                collect(&format!("{path}{dot}{key}"), item, fields);
            }
        }
        _ => {}
    }
}

/// Section to its fields.
fn documented() -> BTreeMap<String, Fields> {
    let path = format!("{}/../../docs/output.md", env!("CARGO_MANIFEST_DIR"));
    let mut found: BTreeMap<String, Fields> = BTreeMap::new();
    let mut section = String::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        if let Some(title) = line.strip_prefix("## rekeeper ") {
            section = title.to_owned();
        }
        if let Some(row) = line.strip_prefix("| `") {
            let (field, rest) = row.split_once("` | ").unwrap();
            let (kind, _) = rest.split_once(" |").unwrap();
            let kind = kind.trim_end_matches(" or null").to_owned();
            let twice = found.entry(section.clone()).or_default().insert(field.to_owned(), kind);
            assert_eq!(twice, None, "{section}: {field} is there twice");
        }
    }
    found
}

#[test]
fn every_field_is_documented_and_no_other() {
    let canned = |status| Canned {
        hosts: documents::hosts(),
        refusals: documents::refusals(),
        plan: Some(documents::plan(true)),
        statuses: [status].into(),
        lines: documents::lines(),
        events: documents::events(),
        steps: documents::steps(),
        report: Some(report::report()),
        ..Canned::default()
    };
    let mut printed: BTreeMap<String, Fields> = BTreeMap::new();
    for status in documents::of_every_kind() {
        let fake = Fake::new(canned(status));
        for (section, arguments) in [
            ("hosts", &["hosts"][..]),
            ("hosts --refused", &["hosts", "--refused"]),
            ("plan NAME", &["plan", "m1"]),
            ("start NAME --dry-run", &["start", "m1", "--dry-run"]),
            ("status", &["status"]),
            ("status NAME", &["status", "m1"]),
            ("problems NAME", &["problems", "m1"]),
            ("report NAME", &["report", "m1"]),
            ("events NAME", &["events", "m1"]),
            ("explain CODE", &["explain", "LOST_PARTS"]),
        ] {
            let ran = run(&fake, &[arguments, &["-o", "json"]].concat());
            let fields = printed.entry(section.to_owned()).or_default();
            for document in serde_json::Deserializer::from_str(&ran.stdout).into_iter::<Value>() {
                collect("", &document.unwrap(), fields);
            }
        }
    }
    let documented = documented();
    for (section, fields) in &printed {
        assert_eq!(Some(fields), documented.get(section), "rekeeper {section}");
    }
    assert_eq!(printed.len(), documented.len());
}
