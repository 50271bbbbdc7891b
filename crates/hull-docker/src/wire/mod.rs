//! JSON structures of Docker's API, converted by hand to and from the engine's words.
//!
//! The names and oddities are Docker 28's: which empty list is `null`, which is `[]`, which field
//! is left out. Unknown input is ignored, missing input is the default, `null` is a zero value.

pub(crate) mod config;
pub(crate) mod container;
pub(crate) mod host_config;
pub(crate) mod image;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod stats;
pub(crate) mod volume;

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, IgnoredAny};
use serde::{Serialize, Serializer};

/// A value that is its default when the client sends `null`, as in Go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OrZero<T>(pub(crate) T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for OrZero<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Option::deserialize(from).map(|value| Self(value.unwrap_or_default()))
    }
}

impl<T: Serialize> Serialize for OrZero<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<T> From<T> for OrZero<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl From<&str> for OrZero<String> {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

/// `{}`, whatever the client put into it: the values of Go's sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Empty {}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Self {})
    }
}

impl Serialize for Empty {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        BTreeMap::<&str, &str>::new().serialize(to)
    }
}

/// A list of words, or one word in place of a list of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum Words {
    List(Vec<String>),
    One(String),
    #[default]
    None,
}

impl Words {
    pub(crate) fn into_list(self) -> Option<Vec<String>> {
        match self {
            Self::List(list) => Some(list),
            Self::One(word) => Some(vec![word]),
            Self::None => None,
        }
    }
}

impl From<Option<Vec<String>>> for Words {
    fn from(list: Option<Vec<String>>) -> Self {
        list.map_or(Self::None, Self::List)
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::List(list) => list.serialize(to),
            Self::One(word) => [word].serialize(to),
            Self::None => to.serialize_none(),
        }
    }
}

/// Text by text; `null` values read as empty.
pub(crate) type TextMap = BTreeMap<String, OrZero<String>>;

pub(crate) fn from_text_map(map: Option<TextMap>) -> BTreeMap<String, String> {
    map.unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.0))
        .collect()
}

pub(crate) fn to_text_map(map: &BTreeMap<String, String>) -> TextMap {
    map.iter()
        .map(|(key, value)| (key.clone(), OrZero(value.clone())))
        .collect()
}

/// `null` instead of an empty list.
pub(crate) fn null_if_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// Whether a field is left out for being zero, as Go's `omitempty` does.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
