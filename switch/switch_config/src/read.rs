//! Reads TOML into sections without stopping at the first error.
//!
//! A section's keys are declared once, with [`section!`]: what it expands to is the struct, the reader and the
//! JSON schema, so that the three can't disagree. A value's type says how it is read: [`FromToml`].

use std::borrow::Cow;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, ConfigErrors};
use crate::types::{Invalid, shorten};

/// A place in the file: a byte range and the key's path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub span: Range<usize>,
    pub path: String,
}

impl Place {
    /// The place of key `name` in the table that is here.
    pub fn key(&self, name: &str, span: Range<usize>) -> Place {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Place { span, path }
    }

    /// The place of the element `index` of the array that is here.
    pub fn element(&self, index: usize, span: Range<usize>) -> Place {
        Place { span, path: format!("{}[{index}]", self.path) }
    }
}

/// A value and where it stands. A default stands where its section does.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub value: T,
    pub place: Place,
}

/// A TOML value and where it stands.
pub(crate) struct Node<'a, 'i> {
    pub value: &'a DeValue<'i>,
    pub place: Place,
}

/// Collects what is wrong, with lines.
pub(crate) struct Reader<'t> {
    text: &'t str,
    errors: Vec<(usize, ConfigError)>,
    damaged: bool,
}

impl<'t> Reader<'t> {
    pub fn new(text: &'t str) -> Self {
        Self { text, errors: Vec::new(), damaged: false }
    }

    /// Books an error at `place`.
    pub fn error(&mut self, place: &Place, what: impl Into<String>, allowed: impl Into<Option<String>>) {
        let start = place.span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() as u32 + 1;
        let column = before[line_start..].chars().count() as u32 + 1;
        let error = ConfigError {
            path: place.path.clone(),
            line,
            column,
            what: what.into(),
            allowed: allowed.into(),
        };
        self.errors.push((start, error));
    }

    /// Books what a value type found wrong.
    pub fn invalid(&mut self, place: &Place, invalid: Invalid) {
        self.error(place, invalid.what, invalid.allowed);
    }

    /// Whether syntax errors may have kept parts of the file from being recognised.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Books that something is missing, or not there to be referred to.
    ///
    /// Not in a file with syntax errors: it may be there, and was not recognised.
    pub fn missing(&mut self, place: &Place, what: impl Into<String>, allowed: impl Into<Option<String>>) {
        if !self.damaged {
            self.error(place, what, allowed);
        }
    }

    /// Books a value of another kind than expected. Tables are where a syntax error puts them.
    pub fn mismatch(&mut self, node: &Node<'_, '_>, expected: &str) {
        if self.damaged && matches!(node.value, DeValue::Table(_) | DeValue::Array(_)) {
            return;
        }
        let found = node.value.type_str();
        let article = if found.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
        self.error(&node.place, format!("this is {article} {found}"), Some(expected.to_owned()));
    }

    /// The line (from 1) of a place.
    pub fn line(&self, place: &Place) -> usize {
        self.text.get(..place.span.start).unwrap_or("").matches('\n').count() + 1
    }

    /// The result of reading, if nothing was wrong.
    pub fn finish<T>(mut self, result: Option<T>) -> Result<T, ConfigErrors> {
        match result {
            Some(result) if self.errors.is_empty() => Ok(result),
            _ => {
                assert!(!self.errors.is_empty(), "nothing was read, and no error says why");
                self.errors.sort_by_key(|(start, _)| *start);
                Err(ConfigErrors(self.errors.into_iter().map(|(_, error)| error).collect()))
            }
        }
    }
}

/// Parses TOML, booking every syntax error.
pub(crate) fn parse_toml<'t>(text: &'t str, reader: &mut Reader<'_>) -> Spanned<DeTable<'t>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        reader.error(&Place { span, path: String::new() }, error.message(), None);
        reader.damaged = true;
    }
    table
}

/// A type that a TOML value can be read as.
pub(crate) trait FromToml: Sized + JsonSchema {
    /// Reads the value; books what is wrong and returns `None`, or what could be read of it.
    fn from_toml(node: Node<'_, '_>, reader: &mut Reader<'_>) -> Option<Self>;
}

impl FromToml for bool {
    fn from_toml(node: Node<'_, '_>, reader: &mut Reader<'_>) -> Option<Self> {
        match node.value {
            DeValue::Boolean(value) => Some(*value),
            _ => {
                reader.mismatch(&node, "true or false");
                None
            }
        }
    }
}

impl FromToml for String {
    fn from_toml(node: Node<'_, '_>, reader: &mut Reader<'_>) -> Option<Self> {
        text(&node, "a string", reader).map(str::to_owned)
    }
}

/// A list in the file: the elements that could be read.
#[derive(Clone, Debug)]
pub(crate) struct List<T> {
    pub items: Vec<T>,
    /// Whether those are all there are.
    pub complete: bool,
}

impl<T: FromToml> FromToml for List<T> {
    fn from_toml(node: Node<'_, '_>, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Array(array) = node.value else {
            reader.mismatch(&node, "a list in [ ]");
            return None;
        };
        let read = array.iter().enumerate().filter_map(|(index, element)| {
            let place = node.place.element(index, element.span());
            T::from_toml(Node { value: element.get_ref(), place }, reader)
        });
        let items: Vec<T> = read.collect();
        Some(List { complete: items.len() == array.len(), items })
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Vec::<T>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<T>::json_schema(generator)
    }
}

impl<T: FromToml> FromToml for At<T> {
    fn from_toml(node: Node<'_, '_>, reader: &mut Reader<'_>) -> Option<Self> {
        let place = node.place.clone();
        Some(At { value: T::from_toml(node, reader)?, place })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// The string that stands here.
pub(crate) fn text<'a>(node: &Node<'a, '_>, expected: &str, reader: &mut Reader<'_>) -> Option<&'a str> {
    match node.value {
        DeValue::String(text) => Some(text),
        _ => {
            reader.mismatch(node, expected);
            None
        }
    }
}

/// The integer that stands here; one beyond 64 bits counts as the largest or smallest.
pub(crate) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let DeValue::Integer(integer) = value else { return None };
    let saturated = if integer.as_str().starts_with('-') { i64::MIN } else { i64::MAX };
    Some(i64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(saturated))
}

/// Reads a type made from a string.
macro_rules! from_string {
    ($($type:ty: $rule:expr, $schema:tt;)+) => {$(
        impl $crate::read::FromToml for $type {
            fn from_toml(node: $crate::read::Node<'_, '_>, reader: &mut $crate::read::Reader<'_>) -> Option<Self> {
                let parsed = $crate::read::text(&node, $rule, reader)?.parse();
                parsed.map_err(|invalid| reader.invalid(&node.place, invalid)).ok()
            }
        }

        $crate::read::schema!($type, $schema);
    )+};
}

/// Reads a type made from an integer.
macro_rules! from_integer {
    ($($type:ident;)+) => {$(
        impl $crate::read::FromToml for $type {
            fn from_toml(node: $crate::read::Node<'_, '_>, reader: &mut $crate::read::Reader<'_>) -> Option<Self> {
                let Some(value) = $crate::read::integer(node.value) else {
                    let (first, last) = (Self::RANGE.start(), Self::RANGE.end());
                    reader.mismatch(&node, &format!("a {}, {first} to {last}", Self::WHAT));
                    return None;
                };
                Self::try_from(value).map_err(|invalid| reader.invalid(&node.place, invalid)).ok()
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let (first, last) = (Self::RANGE.start(), Self::RANGE.end());
                schemars::json_schema!({"type": "integer", "minimum": first, "maximum": last})
            }
        }
    )+};
}

/// The JSON schema of a value type.
macro_rules! schema {
    ($type:ty, $schema:tt) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

/// An enum whose values are words.
macro_rules! words {
    ($($(#[doc = $doc:literal])+ pub enum $name:ident { $($(#[doc = $vdoc:literal])+ $variant:ident = $word:literal,)+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
        pub enum $name { $($(#[doc = $vdoc])+ #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The word for it in the file.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.word())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::types::Invalid;

            fn from_str(text: &str) -> Result<Self, $crate::types::Invalid> {
                Self::ALL.iter().copied().find(|value| value.word() == text).ok_or_else(|| {
                    let words = [$($word),+];
                    $crate::read::unknown_word("value", text, &words)
                })
            }
        }

        impl $crate::read::FromToml for $name {
            fn from_toml(node: $crate::read::Node<'_, '_>, reader: &mut $crate::read::Reader<'_>) -> Option<Self> {
                let parsed = $crate::read::text(&node, &$crate::read::quoted(&[$($word),+]), reader)?.parse();
                parsed.map_err(|invalid| reader.invalid(&node.place, invalid)).ok()
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"oneOf": [$({"const": $word, "description": concat!($($vdoc),+).trim()}),+]})
            }
        }
    )+};
}

/// Declares the keys of a table: a struct of `Option<At<T>>`, its reader, its schema.
///
/// After the type stands `required`, `optional` or `default(value)`; a default is filled in.
macro_rules! section {
    ($($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $kdoc:literal])+ $key:ident: $type:ty, $kind:ident $(($default:expr))?;)+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Default)]
        pub(crate) struct $name {
            /// Where the table stands.
            pub place: $crate::read::Place,
            $($(#[doc = $kdoc])+ pub $key: Option<$crate::read::At<$type>>,)+
        }

        impl $name {
            pub const KEYS: &'static [&'static str] = &[$(stringify!($key)),+];
        }

        impl $crate::read::FromToml for $name {
            fn from_toml(node: $crate::read::Node<'_, '_>, reader: &mut $crate::read::Reader<'_>) -> Option<Self> {
                let mut section = Self { place: node.place.clone(), ..Self::default() };
                let mut seen: Vec<&str> = Vec::new();
                $crate::read::each_key(&node, reader, |key, node, reader| {
                    match key {
                        $(stringify!($key) => {
                            seen.push(stringify!($key));
                            section.$key = $crate::read::FromToml::from_toml(node, reader);
                        })+
                        _ => return Err(Self::KEYS),
                    }
                    Ok(())
                })?;
                $($crate::read::section!(@absent $kind $(($default))?, section, $key, seen, reader);)+
                Some(section)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut keys = $crate::read::Keys::default();
                $(keys.add(
                    stringify!($key),
                    &[$($kdoc),+],
                    generator.subschema_for::<$type>(),
                    $crate::read::section!(@presence $kind $(($default))?),
                );)+
                keys.finish(&[$($doc),+])
            }
        }
    )+};
    (@absent required, $section:ident, $key:ident, $seen:ident, $reader:ident) => {
        if !$seen.contains(&stringify!($key)) {
            let what = concat!("the key `", stringify!($key), "` is missing");
            $reader.missing(&$section.place, what, None);
        }
    };
    (@absent optional, $section:ident, $key:ident, $seen:ident, $reader:ident) => {};
    (@absent default($default:expr), $section:ident, $key:ident, $seen:ident, $reader:ident) => {
        if !$seen.contains(&stringify!($key)) {
            $section.$key = Some($crate::read::At { value: $default, place: $section.place.clone() });
        }
    };
    (@presence required) => { $crate::read::Presence::Required };
    (@presence optional) => { $crate::read::Presence::Optional };
    (@presence default($default:expr)) => {
        $crate::read::Presence::Default(serde_json::to_value($default).expect("defaults are plain values"))
    };
}

pub(crate) use {from_integer, from_string, schema, section, words};

/// Calls `set` with each key of the table that stands here; books keys that `set` doesn't know.
pub(crate) fn each_key<'a, 'i>(
    node: &Node<'a, 'i>,
    reader: &mut Reader<'_>,
    mut set: impl FnMut(&str, Node<'a, 'i>, &mut Reader<'_>) -> Result<(), &'static [&'static str]>,
) -> Option<()> {
    let DeValue::Table(table) = node.value else {
        reader.mismatch(node, "a table");
        return None;
    };
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        let place = node.place.key(&shorten(name), value.span());
        if let Err(keys) = set(name, Node { value: value.get_ref(), place }, reader) {
            let unknown = unknown_word("key", name, keys);
            reader.invalid(&node.place.key(&shorten(name), key.span()), unknown);
        }
    }
    Some(())
}

/// An error for a word that is none of `words`, with a suggestion if one is near.
pub(crate) fn unknown_word(what: &str, word: &str, words: &[&str]) -> Invalid {
    let word = shorten(word);
    let near = words
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&word.replace('-', "_"), &known.replace('-', "_")), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min();
    let hint = near.map(|(_, known)| format!("; did you mean `{known}`?")).unwrap_or_default();
    Invalid::new(format!("unknown {what} `{word}`{hint}"), words.join(", "))
}

/// Words as they have to be written: `"a", "b" or "c"`.
pub(crate) fn quoted(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Whether a key has to be there, in the schema.
pub(crate) enum Presence {
    Required,
    Optional,
    Default(Value),
}

/// Builds the schema of a table.
#[derive(Default)]
pub(crate) struct Keys {
    properties: Map<String, Value>,
    required: Vec<&'static str>,
}

impl Keys {
    pub fn add(&mut self, key: &'static str, doc: &[&str], mut schema: Schema, presence: Presence) {
        schema.insert("description".to_owned(), prose(doc).into());
        match presence {
            Presence::Required => self.required.push(key),
            Presence::Optional => {}
            Presence::Default(value) => {
                schema.insert("default".to_owned(), value);
            }
        }
        self.properties.insert(key.to_owned(), schema.to_value());
    }

    pub fn finish(self, doc: &[&str]) -> Schema {
        let mut schema = json_schema!({
            "type": "object",
            "description": prose(doc),
            "properties": self.properties,
            "additionalProperties": false,
        });
        if !self.required.is_empty() {
            schema.insert("required".to_owned(), self.required.into());
        }
        schema
    }
}

/// Doc lines as one text; an empty line stays a paragraph's end.
fn prose(doc: &[&str]) -> String {
    let mut prose = String::new();
    for line in doc.iter().map(|line| line.trim()) {
        match (line, prose.ends_with('\n') || prose.is_empty()) {
            ("", _) => prose.push('\n'),
            (line, true) => prose.push_str(line),
            (line, false) => prose.extend([" ", line]),
        }
    }
    prose
}
