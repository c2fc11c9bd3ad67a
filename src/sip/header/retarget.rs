//! How a call came to where it is: Diversion (RFC 5806) and History-Info (RFC 7044, RFC 4244).

use crate::sip::header::InvalidHeader;
use crate::sip::header::NameAddr;
use crate::sip::header::Reason;
use crate::sip::message::HeaderName;
use crate::sip::message::Headers;
use crate::sip::message::Uri;
use crate::sip::message::lex;

/// One diversion: who sent the call on, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diversion {
    /// Who was called.
    pub by: NameAddr,
}

impl Diversion {
    /// Reads one value.
    ///
    /// # Errors
    /// When it is no address.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        NameAddr::parse(value)
            .map(|by| Self { by })
            .map_err(|_| InvalidHeader("Diversion"))
    }

    /// Who was called.
    pub fn uri(&self) -> &Uri {
        &self.by.uri
    }

    /// Why, in lower case: `user-busy`, `no-answer`, `unavailable`, `unconditional`, `do-not-disturb`…
    pub fn reason(&self) -> Option<String> {
        self.by
            .params
            .value("reason")
            .map(|reason| reason.trim().to_ascii_lowercase())
    }

    /// How many diversions this value stands for.
    pub fn counter(&self) -> u32 {
        self.by
            .params
            .value("counter")
            .and_then(|counter| lex::number(counter.as_bytes()))
            .unwrap_or(1)
    }

    /// Whether the one who diverted wants not to be shown.
    pub fn is_private(&self) -> bool {
        self.by
            .params
            .value("privacy")
            .is_some_and(|privacy| !privacy.eq_ignore_ascii_case("off"))
    }
}

/// One entry of History-Info.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The target of this hop, with the headers that stand inside its URI.
    pub target: NameAddr,
}

impl HistoryEntry {
    /// Reads one value.
    ///
    /// # Errors
    /// When it is no address.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        NameAddr::parse(value)
            .map(|target| Self { target })
            .map_err(|_| InvalidHeader("History-Info"))
    }

    /// The target of this hop.
    pub fn uri(&self) -> &Uri {
        &self.target.uri
    }

    /// The numbers of `index`: `1.1` gives `[1, 1]`. Empty when there is no sound index.
    pub fn index(&self) -> Vec<u32> {
        let parts = self
            .target
            .params
            .value("index")
            .unwrap_or_default()
            .split('.');
        parts
            .map(|part| lex::number(part.as_bytes()))
            .collect::<Option<_>>()
            .unwrap_or_default()
    }

    /// Why the call came to this target: the `cause` of its URI (RFC 4458, TS 24.604). The Reason inside
    /// a URI is another thing: why the call then left that target.
    pub fn cause(&self) -> Option<u16> {
        self.uri().cause_param()
    }

    /// Why the call left this target: the Reason headers inside the URI (RFC 7044 5.1).
    pub fn reasons(&self) -> Vec<Reason> {
        let named = |name: &str| name.eq_ignore_ascii_case("Reason");
        let lines = self.uri().header_pairs().filter(|(name, _)| named(name));
        let parse = |line: &str| {
            lex::split(line.as_bytes(), b',')
                .filter_map(|value| Reason::parse(value).ok())
                .collect::<Vec<_>>()
        };
        lines.flat_map(|(_, line)| parse(&line)).collect()
    }

    /// Whether this entry is to be kept from users: its URI has a Privacy header other than `none`.
    pub fn is_private(&self) -> bool {
        let mut pairs = self.uri().header_pairs();
        pairs.any(|(name, value)| {
            name.eq_ignore_ascii_case("Privacy") && !value.trim().eq_ignore_ascii_case("none")
        })
    }
}

impl Headers {
    /// The diversions, the latest first, over one line or several. Unreadable ones are left out.
    pub fn diversions(&self) -> impl Iterator<Item = Diversion> {
        self.list(&HeaderName::Diversion)
            .filter_map(|value| Diversion::parse(value).ok())
    }

    /// The history, in the order of its indexes; entries without one keep their place at the end.
    pub fn history(&self) -> Vec<HistoryEntry> {
        let entries = self
            .list(&HeaderName::HistoryInfo)
            .filter_map(|value| HistoryEntry::parse(value).ok());
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_cached_key(|entry| {
            let index = entry.index();
            (index.is_empty(), index)
        });
        entries
    }
}
