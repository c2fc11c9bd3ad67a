//! Scopes (RFC 6749, 3.3).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A set of scopes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Scopes(BTreeSet<String>);

impl Scopes {
    /// Reads a list with spaces between.
    pub(crate) fn parse(text: &str) -> Self {
        let names = text.split(' ').filter(|name| !name.is_empty());
        Self(names.map(str::to_owned).collect())
    }

    pub(crate) fn contains(&self, scope: &str) -> bool {
        self.0.contains(scope)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `all` has every one of these.
    pub(crate) fn is_within(&self, all: &Self) -> bool {
        self.0.is_subset(&all.0)
    }

    /// These and `more`.
    #[must_use]
    pub(crate) fn with(self, more: &Self) -> Self {
        let mut all = self.0;
        all.extend(more.0.iter().cloned());
        Self(all)
    }

    /// One after the other, in alphabetical order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, scope) in self.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{scope}")?;
        }
        Ok(())
    }
}
