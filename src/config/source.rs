//! Where settings come from: one TOML file and the environment, put together as a tree in which
//! every value knows its origin, so that a complaint can name the key, the file and the line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{self, Deserializer, IntoDeserializer, Visitor};
use toml::de::{DeTable, DeValue};

/// What the names of our environment variables begin with.
pub(super) const PREFIX: &str = "AFTERTONE_";

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    File { path: Arc<Path>, line: usize },
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// A value of the file or the environment.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    origin: Option<Origin>,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// From the environment: what it is depends on what is wanted.
    Untyped(String),
    List(Vec<Setting>),
    Table(BTreeMap<String, Setting>),
}

/// A setting that cannot be used, as one sentence with its key and origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    key: Vec<String>,
    origin: Option<Origin>,
    message: String,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}", self.key.join("."))?;
            if let Some(origin) = &self.origin {
                write!(f, " ({origin})")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for SettingError {}

impl de::Error for SettingError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(None, message.to_string())
    }
}

impl SettingError {
    fn new(origin: Option<Origin>, message: String) -> Self {
        Self {
            key: Vec::new(),
            origin,
            message,
        }
    }

    /// Says under which key the error stands, once for each level of the tree.
    fn under(mut self, key: &str, origin: Option<&Origin>) -> Self {
        self.key.insert(0, key.to_owned());
        self.origin = self.origin.or_else(|| origin.cloned());
        self
    }
}

impl Setting {
    /// A tree without any setting.
    pub(super) fn empty() -> Self {
        Self {
            origin: None,
            value: Value::Table(BTreeMap::new()),
        }
    }

    /// Reads a TOML file's text.
    pub(super) fn from_toml(path: &Path, text: &str) -> Result<Self, SettingError> {
        let path: Arc<Path> = path.into();
        let root = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            let message = error.message().trim().replace('\n', ", ");
            let origin = Origin::File {
                path: path.clone(),
                line,
            };
            SettingError::new(None, format!("{origin}: {message}"))
        })?;
        Ok(Self {
            origin: None,
            value: from_table(root.get_ref(), &path, text),
        })
    }

    /// Sets what the environment says: `AFTERTONE_SIP__MAX_CALLS` is `max_calls` of `[sip]`.
    pub(super) fn set_from_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), SettingError> {
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let keys: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
            let setting = Self {
                origin: Some(Origin::Environment(name.clone())),
                value: Value::Untyped(text),
            };
            self.insert(&keys, setting)?;
        }
        Ok(())
    }

    fn insert(&mut self, keys: &[String], setting: Self) -> Result<(), SettingError> {
        let Value::Table(entries) = &mut self.value else {
            let message = "a plain value is set here, and a section elsewhere".to_owned();
            return Err(SettingError::new(setting.origin, message));
        };
        match keys {
            [] => Ok(()),
            [key] => {
                entries.insert(key.clone(), setting);
                Ok(())
            }
            [key, rest @ ..] => {
                let origin = setting.origin.clone();
                entries
                    .entry(key.clone())
                    .or_insert_with(Self::empty)
                    .insert(rest, setting)
                    .map_err(|error| error.under(key, origin.as_ref()))
            }
        }
    }

    /// Puts the content of the file named by `<key>_file` in the place of `<key>`.
    pub(super) fn read_secret_file(
        &mut self,
        section: &[&str],
        key: &str,
    ) -> Result<(), SettingError> {
        let mut table = self;
        for name in section {
            let Value::Table(entries) = &mut table.value else {
                return Ok(());
            };
            let Some(inner) = entries.get_mut(*name) else {
                return Ok(());
            };
            table = inner;
        }
        let Value::Table(entries) = &mut table.value else {
            return Ok(());
        };
        let file_key = format!("{key}_file");
        let Some(setting) = entries.remove(&file_key) else {
            return Ok(());
        };
        let fault = |message| {
            let full: Vec<_> = section.iter().copied().chain([file_key.as_str()]).collect();
            SettingError {
                key: full.into_iter().map(str::to_owned).collect(),
                origin: setting.origin.clone(),
                message,
            }
        };
        let (Value::Text(path) | Value::Untyped(path)) = &setting.value else {
            return Err(fault("must be the path of a file, in quotes".into()));
        };
        if entries.contains_key(key) {
            return Err(fault(format!("{key} is set too; keep one of the two")));
        }
        let secret = std::fs::read_to_string(PathBuf::from(path))
            .map_err(|error| fault(format!("\"{path}\" cannot be read ({error})")))?;
        let value = Value::Text(secret.trim_end_matches(['\r', '\n']).to_owned());
        entries.insert(
            key.to_owned(),
            Self {
                origin: setting.origin,
                value,
            },
        );
        Ok(())
    }

    /// A fault of this setting, which stands under `key`.
    fn fault(&self, key: &str, message: String) -> SettingError {
        let origin = self.origin();
        SettingError::new(origin.cloned(), message).under(key, origin)
    }

    /// A section that only the environment names has no origin of its own; its keys have.
    fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref().or_else(|| match &self.value {
            Value::Table(entries) => entries.values().find_map(Self::origin),
            _ => None,
        })
    }

    fn wrong(&self, wanted: &str) -> SettingError {
        let what = match &self.value {
            Value::Bool(value) => format!("{value} is no {wanted}"),
            Value::Integer(value) => format!("{value} is no {wanted}"),
            Value::Float(value) => format!("{value} is no {wanted}"),
            Value::Text(value) | Value::Untyped(value) => format!("\"{value}\" is no {wanted}"),
            Value::List(_) => format!("a list is no {wanted}"),
            Value::Table(_) => format!("a section is no {wanted}"),
        };
        SettingError::new(self.origin.clone(), what)
    }

    fn integer(&self, least: i128, most: i128) -> Result<i128, SettingError> {
        let value = match &self.value {
            Value::Integer(value) => Some(i128::from(*value)),
            Value::Untyped(text) => text.trim().replace('_', "").parse().ok(),
            _ => None,
        };
        value
            .filter(|value| (least..=most).contains(value))
            .ok_or_else(|| self.wrong(&format!("whole number from {least} to {most}")))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
}

fn from_table(table: &DeTable<'_>, path: &Arc<Path>, text: &str) -> Value {
    let entries = table.iter().map(|(key, value)| {
        let line = line_of(text, key.span().start);
        let setting = Setting {
            origin: Some(Origin::File {
                path: path.clone(),
                line,
            }),
            value: from_toml_value(value.get_ref(), path, text),
        };
        (key.get_ref().to_string(), setting)
    });
    Value::Table(entries.collect())
}

fn from_toml_value(value: &DeValue<'_>, path: &Arc<Path>, text: &str) -> Value {
    match value {
        DeValue::String(value) => Value::Text(value.to_string()),
        DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix())
            .map_or_else(|_| Value::Text(value.to_string()), Value::Integer),
        DeValue::Float(value) => value
            .as_str()
            .parse()
            .map_or_else(|_| Value::Text(value.to_string()), Value::Float),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(value) => Value::Text(value.to_string()),
        DeValue::Array(values) => {
            let settings = values.iter().map(|value| Setting {
                origin: Some(Origin::File {
                    path: path.clone(),
                    line: line_of(text, value.span().start),
                }),
                value: from_toml_value(value.get_ref(), path, text),
            });
            Value::List(settings.collect())
        }
        DeValue::Table(table) => from_table(table, path, text),
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $ty:ty;)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingError> {
            let value = self.integer(<$ty>::MIN.into(), <$ty>::MAX.into())?;
            visitor.$visit(<$ty>::try_from(value).expect("checked against the type's bounds"))
        }
    )+};
}

impl<'de> Deserializer<'de> for Setting {
    type Error = SettingError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingError> {
        match self.value {
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Integer(value) => visitor.visit_i64(value),
            Value::Float(value) => visitor.visit_f64(value),
            Value::Text(value) | Value::Untyped(value) => visitor.visit_string(value),
            Value::List(settings) => {
                visitor.visit_seq(de::value::SeqDeserializer::new(settings.into_iter()))
            }
            Value::Table(entries) => visitor.visit_map(Entries::new(entries)),
        }
    }

    integers! {
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
    }

    // TOML has no integers above 2^63 - 1.
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingError> {
        let value = self.integer(0, i64::MAX.into())?;
        visitor.visit_u64(u64::try_from(value).expect("checked against the bounds"))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingError> {
        match &self.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Untyped(text) if text.eq_ignore_ascii_case("true") => visitor.visit_bool(true),
            Value::Untyped(text) if text.eq_ignore_ascii_case("false") => visitor.visit_bool(false),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingError> {
        let (Value::Text(text) | Value::Untyped(text)) = &self.value else {
            return Err(self.wrong("text; write it in quotes"));
        };
        // Addresses of the standard library say that they cannot be read, and no more.
        let wanted = (&visitor as &dyn de::Expected).to_string();
        visitor
            .visit_string(text.clone())
            .map_err(|_: SettingError| {
                self.wrong(match wanted.as_str() {
                    "socket address" => {
                        "address and port; write them as 127.0.0.1:8080 or [::1]:8080"
                    }
                    "IP address" => "IP address; write it as 192.0.2.1 or 2001:db8::1",
                    other => other,
                })
            })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingError> {
        match &self.value {
            Value::Untyped(text) if text.is_empty() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingError> {
        let settings = match self.value {
            Value::List(settings) => settings,
            Value::Untyped(text) => list_from_text(&text, self.origin.as_ref())?,
            _ => return Err(self.wrong("list; write it in brackets")),
        };
        visitor.visit_seq(de::value::SeqDeserializer::new(settings.into_iter()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SettingError> {
        let Value::Table(entries) = self.value else {
            return Err(self.wrong("section"));
        };
        for (key, setting) in &entries {
            if !fields.contains(&key.as_str()) {
                return Err(unknown(key, setting, fields));
            }
        }
        visitor.visit_map(Entries::new(entries))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, SettingError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SettingError> {
        match &self.value {
            Value::Text(text) | Value::Untyped(text) if variants.contains(&text.as_str()) => {
                visitor.visit_enum(text.clone().into_deserializer())
            }
            _ => Err(self.wrong(&format!(
                "known value; write one of: {}",
                variants.join(", ")
            ))),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct map
        identifier ignored_any
    }
}

impl IntoDeserializer<'_, SettingError> for Setting {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A list in the environment: `a, b` or TOML's `["a", "b"]`.
fn list_from_text(text: &str, origin: Option<&Origin>) -> Result<Vec<Setting>, SettingError> {
    let text = text.trim();
    if text.starts_with('[') {
        let fault = |message: &str| SettingError::new(origin.cloned(), message.trim().to_owned());
        let list = DeValue::parse(text).map_err(|error| fault(error.message()))?;
        let nowhere: Arc<Path> = Path::new("").into();
        let Value::List(mut settings) = from_toml_value(list.get_ref(), &nowhere, text) else {
            return Err(fault("is no list"));
        };
        for setting in &mut settings {
            setting.origin = origin.cloned();
        }
        return Ok(settings);
    }
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    Ok(items
        .map(|item| Setting {
            origin: origin.cloned(),
            value: Value::Untyped(item.to_owned()),
        })
        .collect())
}

/// The entries of a section, which put their key before any error below them.
struct Entries {
    rest: std::collections::btree_map::IntoIter<String, Setting>,
    next: Option<(String, Setting)>,
}

impl Entries {
    fn new(entries: BTreeMap<String, Setting>) -> Self {
        Self {
            rest: entries.into_iter(),
            next: None,
        }
    }
}

impl<'de> de::MapAccess<'de> for Entries {
    type Error = SettingError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, SettingError> {
        self.next = self.rest.next();
        match &self.next {
            Some((key, _)) => seed.deserialize(key.as_str().into_deserializer()).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, SettingError> {
        let (key, setting) = self
            .next
            .take()
            .expect("serde asks for a key before its value");
        let origin = setting.origin.clone();
        seed.deserialize(setting)
            .map_err(|error| error.under(&key, origin.as_ref()))
    }
}

fn unknown(key: &str, setting: &Setting, fields: &[&str]) -> SettingError {
    let from_environment = matches!(setting.origin(), Some(Origin::Environment(_)));
    let section_of = |field: &&&str| {
        from_environment
            && key
                .strip_prefix(**field)
                .is_some_and(|rest| rest.starts_with('_'))
    };
    let hint = if let Some(section) = fields.iter().find(section_of) {
        let rest = &key[section.len() + 1..];
        let (section, rest) = (section.to_uppercase(), rest.to_uppercase());
        format!("; two underscores part the section from the key: {PREFIX}{section}__{rest}")
    } else if let Some(field) = closest(key, fields) {
        format!("; did you mean {field}?")
    } else {
        format!("; known here: {}", fields.join(", "))
    };
    setting.fault(key, format!("there is no such setting{hint}"))
}

/// The field that differs least from `key`, where it differs little.
fn closest<'a>(key: &str, fields: &[&'a str]) -> Option<&'a str> {
    fields
        .iter()
        .map(|field| (edit_distance(key, field), *field))
        .filter(|(distance, field)| *distance <= 1 + field.len() / 4)
        .min()
        .map(|(_, field)| field)
}

/// Letters to insert, delete or replace (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a_char) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b_char) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(a_char != *b_char);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
