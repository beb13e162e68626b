//! What many tables and hosts suffer from is told once: the same code and remedy is one block, and in it each cause stands
//! once, with all that it is about. Only for people; documents for scripts keep every single problem.

use std::collections::{BTreeSet, HashMap};

use crate::domain::problem::{Code, Finding};

/// One thing that was found, of a plan or of a migration under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Stable: programs may branch on it.
    pub code: Code,
    /// The table, as `db.table`.
    pub table: Option<String>,
    /// The host on which it was found; none if it concerns the plan as a whole.
    pub host: Option<String>,
    /// For people; its words may change.
    pub message: String,
    /// Commands or changes that take it away.
    pub fix: String,
    /// What the agent of a host says has to be done: the host, and its words.
    pub said: Option<(String, String)>,
    /// Statements on the host that bring the table further.
    pub by_hand: Vec<String>,
    /// Further names of its own, such as its path. Texts that differ in own names only say the same.
    pub own: Vec<String>,
}

impl Item {
    /// What it is about, for people; empty when it is about everything.
    #[must_use]
    pub fn place(&self) -> String {
        match (&self.table, &self.host) {
            (Some(table), Some(host)) => format!("{table} on {host}"),
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => String::new(),
        }
    }

    fn words(&self) -> &str {
        self.said.as_ref().map_or("", |(_, words)| words)
    }

    /// The text with a sign in the place of each own name.
    fn without_names(&self, text: &str) -> String {
        let mut names: Vec<&String> = self.own.iter().chain(&self.table).chain(&self.host).collect();
        // A path ends with the name of its table, and a name may be the beginning of another.
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        names
            .iter()
            .filter(|name| !name.is_empty())
            .fold(text.to_owned(), |text, name| text.replace(name.as_str(), "\u{0}"))
    }
}

impl From<&Finding> for Item {
    fn from(finding: &Finding) -> Self {
        // The path of a table is in the message alone.
        let paths = finding.message.split_whitespace().filter(|word| word.starts_with('/'));
        let paths = paths.map(|word| word.trim_end_matches([':', ',', ';', ')']).to_owned());
        Self {
            code: finding.code,
            table: finding.table.clone(),
            host: finding.host.as_ref().map(ToString::to_string),
            message: finding.message.clone(),
            fix: finding.fix.clone(),
            said: None,
            by_hand: Vec::new(),
            own: finding.table.iter().flat_map(|_| paths.clone()).collect(),
        }
    }
}

/// Items that have one code and one remedy, and of which an agent says the same has to be done.
#[derive(Debug)]
pub struct Block<'a> {
    /// The causes, in the sequence in which they came.
    pub causes: Vec<Cause<'a>>,
}

/// Items of which the same was found.
#[derive(Debug)]
pub struct Cause<'a> {
    /// All of them, one at least.
    pub items: Vec<&'a Item>,
}

impl<'a> Block<'a> {
    /// The first item, whose code and remedy are those of the block.
    #[must_use]
    pub fn first(&self) -> &'a Item {
        self.causes[0].items[0]
    }

    /// All items.
    pub fn items(&self) -> impl Iterator<Item = &'a Item> + Clone {
        self.causes.iter().flat_map(|cause| cause.items.iter().copied())
    }

    /// `6 tables on 2 hosts`; none when it is about one thing only.
    #[must_use]
    pub fn count(&self) -> Option<String> {
        count(self.items())
    }

    /// Whether the remedy is written with other names for another item.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.items().any(|item| item.fix != self.first().fix)
    }

    /// Whether what an agent says is written with other names for another item.
    #[must_use]
    pub fn words_differ(&self) -> bool {
        self.items().any(|item| item.words() != self.first().words())
    }

    /// The first item that has statements, and whether others have others or none.
    #[must_use]
    pub fn by_hand(&self) -> Option<(&'a Item, bool)> {
        let first = self.items().find(|item| !item.by_hand.is_empty())?;
        Some((first, self.items().any(|item| item.by_hand != first.by_hand)))
    }
}

impl Cause<'_> {
    /// Whether the text is written with other names for another item.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.items.iter().any(|item| item.message != self.items[0].message)
    }

    /// The first few that it is about, and how many more.
    #[must_use]
    pub fn places(&self, most: usize) -> (Vec<String>, usize) {
        let named = self.items.iter().filter(|item| !item.place().is_empty());
        let places: Vec<String> = named.map(|item| item.place()).collect();
        let more = places.len().saturating_sub(most);
        (places.into_iter().take(most).collect(), more)
    }
}

fn count<'a>(items: impl Iterator<Item = &'a Item> + Clone) -> Option<String> {
    if items.clone().count() < 2 {
        return None;
    }
    let of = |number: usize, what: &str| match number {
        0 => None,
        1 => Some(format!("1 {what}")),
        number => Some(format!("{number} {what}s")),
    };
    let tables: BTreeSet<&String> = items.clone().filter_map(|item| item.table.as_ref()).collect();
    let hosts: BTreeSet<&String> = items.clone().filter_map(|item| item.host.as_ref()).collect();
    match (of(tables.len(), "table"), of(hosts.len(), "host")) {
        (Some(tables), Some(hosts)) => Some(format!("{tables} on {hosts}")),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => None,
    }
}

/// Brings together what is the same.
#[must_use]
pub fn grouped(items: &[Item]) -> Vec<Block<'_>> {
    let mut blocks: Vec<(Block<'_>, Known<String>)> = Vec::new();
    let mut known: Known<(Code, String, String)> = Known::default();
    for item in items {
        let exact = (item.code, item.fix.clone(), item.words().to_owned());
        let alike = (
            item.code,
            item.without_names(&item.fix),
            item.without_names(item.words()),
        );
        let at = known.find(exact, alike, blocks.len());
        if at == blocks.len() {
            blocks.push((Block { causes: Vec::new() }, Known::default()));
        }
        let (block, causes) = &mut blocks[at];
        let alike = item.without_names(&item.message);
        let at = causes.find(item.message.clone(), alike, block.causes.len());
        match block.causes.get_mut(at) {
            Some(cause) => cause.items.push(item),
            None => block.causes.push(Cause { items: vec![item] }),
        }
    }
    blocks.into_iter().map(|(block, _)| block).collect()
}

/// Where what was seen belongs to.
#[derive(Debug)]
struct Known<K>(HashMap<(bool, K), usize>);

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: std::hash::Hash + Eq> Known<K> {
    /// The same words first: to leave own names out of them may make two of what is one.
    fn find(&mut self, exact: K, alike: K, next: usize) -> usize {
        let (exact, alike) = ((true, exact), (false, alike));
        let at = *self.0.get(&exact).or_else(|| self.0.get(&alike)).unwrap_or(&next);
        self.0.entry(exact).or_insert(at);
        self.0.entry(alike).or_insert(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(table: &str, host: &str, message: &str, fix: &str) -> Item {
        Item {
            code: Code::ReplicaUnknown,
            table: Some(format!("shop.{table}")),
            host: Some(host.to_owned()),
            message: message.to_owned(),
            fix: fix.to_owned(),
            said: None,
            by_hand: vec![],
            own: vec![format!("/tables/01/{table}")],
        }
    }

    fn shape(items: &[Item]) -> Vec<Vec<usize>> {
        let of = |block: &Block<'_>| block.causes.iter().map(|cause| cause.items.len()).collect();
        grouped(items).iter().map(of).collect()
    }

    #[test]
    fn a_cause_is_one_however_many_it_is_about() {
        let gone =
            |table: &str, host: &str| item(table, host, &format!("/tables/01/{table} is not there"), "leave it out");
        let tables = ["a", "b", "c"]
            .iter()
            .flat_map(|table| [gone(table, "h1"), gone(table, "h2")]);
        let items: Vec<Item> = tables.collect();
        assert_eq!(shape(&items), [[6]]);
        let blocks = grouped(&items);
        assert_eq!(blocks[0].count().as_deref(), Some("3 tables on 2 hosts"));
        assert_eq!(blocks[0].causes[0].places(3).1, 3);
        assert!(blocks[0].causes[0].differs() && !blocks[0].differs());
        assert_eq!(grouped(&items[..1])[0].count(), None);
    }

    #[test]
    fn what_differs_in_more_than_names_is_told_apart() {
        // Another cause of one remedy.
        let mut items = vec![
            item("a", "h1", "r1 lacks 7 rows", "mend it"),
            item("b", "h1", "r1 lacks 8 rows", "mend it"),
        ];
        assert_eq!(shape(&items), [[1, 1]]);
        // Another remedy or code.
        items[1].fix = "mend it by another way".into();
        assert_eq!(shape(&items), [[1], [1]]);
        // Other words of an agent.
        items[1] = items[0].clone();
        items[1].said = Some(("h1".into(), "mend it like this".into()));
        assert_eq!(shape(&items), [[1], [1]]);
        // The same words of two.
        items[0].said = Some(("h2".into(), "mend it like this".into()));
        assert_eq!(shape(&items), [[2]]);
        items[0].said = None;
        // Statements are those of a table, which may not be given for another.
        items[1] = items[0].clone();
        items[1].by_hand = vec!["ATTACH TABLE x".into()];
        assert_eq!(shape(&items), [[2]]);
        assert_eq!(grouped(&items)[0].by_hand(), Some((&items[1], true)));
        items[1] = items[0].clone();
        items[1].code = Code::NotSettled;
        assert_eq!(shape(&items), [[1], [1]]);
    }

    #[test]
    fn the_same_words_are_the_same_also_where_they_name_one_of_them() {
        let waits = |host: &str| item("a", host, "waits for h2", "leave out h2");
        assert_eq!(shape(&[waits("h1"), waits("h2"), waits("h3")]), [[3]]);
        assert_eq!(shape(&[waits("h2"), waits("h1"), waits("h3")]), [[3]]);
        // Each waits for itself.
        let itself = |host: &str| item("a", host, &format!("waits for {host}"), &format!("leave out {host}"));
        let items = [itself("h1"), itself("h2")];
        assert_eq!(shape(&items), [[2]]);
        assert!(grouped(&items)[0].differs());
        // For the other.
        let crossed = [
            item("a", "h1", "waits for h2", "x"),
            item("a", "h2", "waits for h1", "x"),
        ];
        assert_eq!(shape(&crossed), [[1, 1]]);
    }

    #[test]
    fn a_finding_has_its_path_in_its_message() {
        let finding = |table: &str| {
            let name = crate::domain::ids::TableName::new("shop", table);
            let message = format!("no right to read /tables/{table}: ask for it");
            Item::from(&Finding::new(Code::ZookeeperUnreachable, message).of(&name))
        };
        assert_eq!(shape(&[finding("a"), finding("b")]), [[2]]);
    }
}
