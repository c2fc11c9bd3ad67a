//! The `[core]` section.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use crate::oauth::is_loopback;

/// The `[core]` section. Without an endpoint no number is registered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the core's API is: `https://host:port`; `http://` on this machine only.
    pub endpoint: Option<String>,
    /// Which dialect it speaks.
    pub api: Api,
    /// Whose access token a registration is made with.
    pub token: TokenKind,
    /// Digits the core puts before the number when its owner calls.
    pub mobile_originating_prefix: String,
    /// Digits the core puts before the number when it is called.
    pub mobile_terminating_prefix: String,
    /// The longest wait for an answer, connecting included.
    pub timeout_ms: u64,
    /// The most registrations made or renewed in a minute.
    pub upserts_per_minute: u32,
    /// The core's certificate authority in PEM, in place of those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whether to listen for consents that subscribers withdraw elsewhere.
    pub consent_events: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            api: Api::V1,
            token: TokenKind::User,
            mobile_originating_prefix: String::new(),
            mobile_terminating_prefix: String::new(),
            timeout_ms: 5000,
            upserts_per_minute: 6000,
            ca_file: None,
            consent_events: true,
        }
    }
}

/// A dialect of the registration API; see `proto/README.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `wgtwo.sipbreakout.v1`
    V1,
    /// `wgtwo.sipbreakout.v0`
    V0,
}

/// Whose access token a registration is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// The subscriber's, who has signed in. It tells the number.
    User,
    /// Our own, for every number whose owner consented.
    Client,
}

impl Config {
    /// The longest wait for an answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// What is set against sense, each as a sentence with the way out.
    pub fn problems(&self) -> Vec<String> {
        let is_digits = |text: &str| text.len() <= 8 && text.bytes().all(|b| b.is_ascii_digit());
        let endpoint = self.endpoint.as_deref().map_or(Ok(()), check_endpoint);
        let sentences = [
            (endpoint.is_err(), endpoint.err().unwrap_or_default()),
            (
                self.api == Api::V0 && self.token == TokenKind::Client,
                "core.token: api = \"v0\" knows tokens of subscribers only; write token = \"user\" or api = \"v1\"",
            ),
            (
                !is_digits(&self.mobile_originating_prefix),
                "core.mobile_originating_prefix: must be up to eight digits, such as \"00\", or empty",
            ),
            (
                !is_digits(&self.mobile_terminating_prefix),
                "core.mobile_terminating_prefix: must be up to eight digits, such as \"00\", or empty",
            ),
            (
                !(100..=60_000).contains(&self.timeout_ms),
                "core.timeout_ms: must be from 100 to 60000 (one minute)",
            ),
            (
                self.upserts_per_minute == 0,
                "core.upserts_per_minute: must be 1 or more, or no number would be registered",
            ),
        ];
        let wrong = sentences.iter().filter(|(is_wrong, _)| *is_wrong);
        wrong.map(|(_, sentence)| (*sentence).to_owned()).collect()
    }
}

/// Access tokens travel there, so that it is TLS or does not leave the machine.
fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    const SHAPE: &str =
        "core.endpoint: must be an address such as \"https://api.example.com:443\", without a path";
    let url = Url::parse(endpoint).map_err(|_| SHAPE)?;
    let is_bare = matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    url.host().ok_or(SHAPE)?;
    match url.scheme() {
        "https" | "http" if !is_bare => Err(SHAPE),
        "https" => Ok(()),
        "http" if is_loopback(&url) => Ok(()),
        "http" => Err(
            "core.endpoint: is http:// on another machine, where access tokens must not travel in clear; write https://",
        ),
        _ => Err(SHAPE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        toml::from_str::<Config>(text).unwrap().problems()
    }

    #[test]
    fn the_defaults_and_the_documented_ways_make_sense() {
        for text in [
            "",
            "endpoint = 'https://api.example.com:443'\ntoken = 'client'",
            "endpoint = 'https://api.example.com'\napi = 'v0'\nmobile_originating_prefix = '00'",
            "endpoint = 'http://127.0.0.1:50051'",
            "endpoint = 'http://[::1]:50051'",
            "endpoint = 'http://localhost:50051'",
        ] {
            assert_eq!(problems(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_sentence_that_names_its_setting() {
        for (text, setting) in [
            ("endpoint = 'api.example.com:443'", "core.endpoint"),
            ("endpoint = 'https://api.example.com/v1'", "core.endpoint"),
            (
                "endpoint = 'https://me:secret@api.example.com'",
                "core.endpoint",
            ),
            ("endpoint = 'http://api.example.com:80'", "core.endpoint"),
            ("endpoint = 'ftp://localhost'", "core.endpoint"),
            ("api = 'v0'\ntoken = 'client'", "core.token"),
            (
                "mobile_originating_prefix = '+47'",
                "core.mobile_originating_prefix",
            ),
            (
                "mobile_terminating_prefix = '00 '",
                "core.mobile_terminating_prefix",
            ),
            ("timeout_ms = 0", "core.timeout_ms"),
            ("upserts_per_minute = 0", "core.upserts_per_minute"),
        ] {
            let found = problems(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].starts_with(&format!("{setting}: ")), "{found:?}");
        }
    }
}
