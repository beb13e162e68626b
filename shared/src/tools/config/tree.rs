//! A YAML document as a tree that knows the line of every field, and that can be read as any type.
//!
//! serde says what is wrong with a value, and not where it stands. Here an error names the field, so that exactly this
//! field can be left out, and all others be read.

use std::fmt;
use std::ops::Range;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use serde_saphyr::Spanned;

/// A YAML text whose values know where they are written.
#[derive(Debug)]
pub(super) struct Tree<'t> {
    text: &'t str,
    root: Entry,
}

/// A value, and where it is written.
#[derive(Debug)]
struct Entry {
    node: Node,
    bytes: Option<Range<usize>>,
}

#[derive(Debug)]
enum Node {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Entry>),
    Map(Vec<(Spanned<String>, Entry)>),
}

/// A field that cannot be read.
#[derive(Debug)]
pub(super) struct Refused {
    /// The names down to the field, the outermost first; none: the document itself.
    pub(super) path: Vec<String>,
    /// What is wrong with it.
    pub(super) what: String,
}

impl<'t> Tree<'t> {
    /// Reads the text.
    ///
    /// # Errors
    /// The line, where it is known, and what is wrong there: it is no YAML.
    pub(super) fn read(text: &'t str) -> Result<Self, (Option<u64>, String)> {
        let read = serde_saphyr::from_str::<Spanned<Node>>(text).map_err(|error| {
            let what = error.without_snippet().to_string();
            let what = what.rsplit_once(" at line ").map_or(&*what, |(what, _)| what);
            (error.location().map(|at| at.line()), what.to_owned())
        })?;
        Ok(Self {
            text,
            root: Entry::from(read),
        })
    }

    /// The document as a value of that type.
    ///
    /// # Errors
    /// [`Refused`] for the first field that cannot be read.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        let root = At {
            text: self.text,
            entry: &self.root,
        };
        T::deserialize(root).map_err(|Error { mut path, what }| {
            path.reverse();
            Refused { path, what }
        })
    }

    /// Takes a field out; whether it was there.
    pub(super) fn remove(&mut self, path: &[String]) -> bool {
        let Some((last, above)) = path.split_last() else {
            return false;
        };
        let mut entry = &mut self.root;
        for name in above {
            let Node::Map(fields) = &mut entry.node else {
                return false;
            };
            let Some((_, found)) = fields.iter_mut().find(|(key, _)| key.value == *name) else {
                return false;
            };
            entry = found;
        }
        let Node::Map(fields) = &mut entry.node else {
            return false;
        };
        let before = fields.len();
        fields.retain(|(key, _)| key.value != *last);
        fields.len() < before
    }

    /// The line of a field, or of the innermost one above it that is there.
    pub(super) fn line_of<'n>(&self, path: impl IntoIterator<Item = &'n str>) -> Option<u64> {
        let (mut entry, mut line) = (&self.root, None);
        for name in path {
            let Node::Map(fields) = &entry.node else { break };
            let Some((key, found)) = fields.iter().find(|(key, _)| key.value == name) else {
                break;
            };
            (entry, line) = (found, Some(key.referenced.line()));
        }
        line
    }
}

impl From<Spanned<Node>> for Entry {
    fn from(read: Spanned<Node>) -> Self {
        let span = read.referenced.span();
        let place = span.byte_offset().zip(span.byte_len());
        let bytes = place.and_then(|(from, length)| {
            let from = usize::try_from(from).ok()?;
            Some(from..from.checked_add(usize::try_from(length).ok()?)?)
        });
        Self {
            node: read.value,
            bytes,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(Self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(u64::try_from(value).map_or(Node::Signed(value), Node::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element::<Spanned<Node>>()? {
            entries.push(entry.into());
        }
        Ok(Node::List(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Spanned<Node>>()? {
            fields.push((key, value.into()));
        }
        Ok(Node::Map(fields))
    }
}

/// An error on its way up: each field that it passes adds its name.
#[derive(Debug)]
struct Error {
    path: Vec<String>,
    what: String,
}

impl Error {
    fn below(mut self, name: &str) -> Self {
        self.path.push(name.to_owned());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self {
            path: Vec::new(),
            what: what.to_string(),
        }
    }
}

/// A value of the tree, to be read.
#[derive(Clone, Copy)]
struct At<'a> {
    text: &'a str,
    entry: &'a Entry,
}

impl<'a> At<'a> {
    /// A scalar as it is written: what looks like a number may be meant as a name.
    fn source(self) -> Option<&'a str> {
        match &self.entry.node {
            Node::Text(text) => Some(text),
            Node::Bool(_) | Node::Unsigned(_) | Node::Signed(_) | Node::Float(_) => {
                self.text.get(self.entry.bytes.clone()?).map(str::trim)
            }
            Node::Null | Node::List(_) | Node::Map(_) => None,
        }
    }
}

impl<'de> Deserializer<'de> for At<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Self { text, entry } = self;
        match &entry.node {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Unsigned(value) => visitor.visit_u64(*value),
            Node::Signed(value) => visitor.visit_i64(*value),
            Node::Float(value) => visitor.visit_f64(*value),
            Node::Text(value) => visitor.visit_str(value),
            Node::List(entries) => visitor.visit_seq(Entries {
                text,
                left: entries.iter(),
            }),
            Node::Map(fields) => visitor.visit_map(FieldsOf {
                text,
                left: fields.iter(),
                value: None,
            }),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.source() {
            Some(text) => visitor.visit_str(text),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.entry.node {
            Node::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct
        map struct enum identifier ignored_any
    }
}

struct Entries<'a> {
    text: &'a str,
    left: std::slice::Iter<'a, Entry>,
}

impl<'de> SeqAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let text = self.text;
        self.left
            .next()
            .map(|entry| seed.deserialize(At { text, entry }))
            .transpose()
    }
}

struct FieldsOf<'a> {
    text: &'a str,
    left: std::slice::Iter<'a, (Spanned<String>, Entry)>,
    value: Option<(&'a str, &'a Entry)>,
}

impl<'de> MapAccess<'de> for FieldsOf<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, entry)) = self.left.next() else {
            return Ok(None);
        };
        self.value = Some((&key.value, entry));
        let read = seed.deserialize(StrDeserializer::<Error>::new(&key.value));
        read.map(Some).map_err(|error| error.below(&key.value))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (name, entry) = self
            .value
            .take()
            .ok_or_else(|| de::Error::custom("a value without a key"))?;
        let text = self.text;
        seed.deserialize(At { text, entry }).map_err(|error| error.below(name))
    }
}
