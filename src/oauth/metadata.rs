//! Where the identity server's endpoints are: configured, or discovered (OpenID Connect Discovery).

use serde::Deserialize;
use url::Url;

use crate::domain::Timestamp;
use crate::oauth::config::{self, Config};
use crate::oauth::error::{Error, Step};

/// A discovery document is asked for again after this.
const FRESH_MS: i64 = 3_600_000;
/// So long an old one serves where no new one is to be had.
const USABLE_MS: i64 = 24 * 3_600_000;

/// What is known of the identity server.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    known_since: Timestamp,
    is_discovered: bool,
    pub(crate) authorization: Url,
    pub(crate) token: Url,
    pub(crate) jwks: Url,
    pub(crate) revocation: Option<Url>,
    pub(crate) userinfo: Option<Url>,
    pub(crate) end_session: Option<Url>,
    /// Every callback carries `iss` (RFC 9207 section 3).
    pub(crate) promises_iss: bool,
    /// The client's password goes into the body: HTTP Basic is not taken.
    pub(crate) secret_in_body: bool,
}

/// The members of a discovery document that are used (OpenID Connect Discovery section 3).
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Document {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    jwks_uri: Option<String>,
    revocation_endpoint: Option<String>,
    userinfo_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

impl Metadata {
    /// Of the settings alone.
    pub(crate) fn configured(config: &Config, now: Timestamp) -> Result<Self, Error> {
        Self::join(config, Document::default(), now)
    }

    /// Of a discovery document, over which the settings win.
    pub(crate) fn discovered(
        config: &Config,
        document: Document,
        now: Timestamp,
    ) -> Result<Self, Error> {
        // OpenID Connect Discovery section 4.3: else one issuer could speak for another.
        if document.issuer != config.issuer {
            return Err(Error::Nonsense {
                step: Step::Discovery,
                what: "it names another issuer; oauth.issuer must stand exactly as it does there",
            });
        }
        Self::join(config, document, now)
    }

    fn join(config: &Config, document: Document, now: Timestamp) -> Result<Self, Error> {
        let methods = document.token_endpoint_auth_methods_supported;
        let takes = |name: &str| {
            let methods = methods.as_ref();
            methods.map(|methods| methods.iter().any(|method| method == name))
        };
        let secret_in_body = takes("client_secret_basic") == Some(false)
            && takes("client_secret_post") == Some(true);
        let place = |set: &Option<String>, found: Option<String>| match (set, found) {
            (Some(set), _) => config::read_url(set).map(Some).map_err(unusable),
            (None, Some(found)) => found_url(config, &found).map(Some),
            (None, None) => Ok(None),
        };
        let needed = |name, url: Option<Url>| url.ok_or(Error::NoEndpoint(name));
        Ok(Self {
            known_since: now,
            is_discovered: config.is_discovered(),
            authorization: needed(
                "authorization_endpoint",
                place(
                    &config.authorization_endpoint,
                    document.authorization_endpoint,
                )?,
            )?,
            token: needed(
                "token_endpoint",
                place(&config.token_endpoint, document.token_endpoint)?,
            )?,
            jwks: needed("jwks_uri", place(&config.jwks_uri, document.jwks_uri)?)?,
            revocation: place(&config.revocation_endpoint, document.revocation_endpoint)?,
            userinfo: place(&config.userinfo_endpoint, document.userinfo_endpoint)?,
            end_session: place(&config.end_session_endpoint, document.end_session_endpoint)?,
            promises_iss: document.authorization_response_iss_parameter_supported,
            secret_in_body,
        })
    }

    pub(crate) fn is_fresh(&self, now: Timestamp) -> bool {
        !self.is_discovered || is_younger(self.known_since, FRESH_MS, now)
    }

    pub(crate) fn is_usable(&self, now: Timestamp) -> bool {
        !self.is_discovered || is_younger(self.known_since, USABLE_MS, now)
    }
}

/// Where the discovery document of an issuer is (OpenID Connect Discovery section 4).
pub(crate) fn document_url(issuer: &str) -> String {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    format!("{issuer}/.well-known/openid-configuration")
}

/// Whether something of `since` is no older than `limit_ms`. What comes from the future is old: the
/// clock was set back.
pub(crate) fn is_younger(since: Timestamp, limit_ms: i64, now: Timestamp) -> bool {
    let age = now.as_millis().saturating_sub(since.as_millis());
    (0..limit_ms).contains(&age)
}

/// An issuer elsewhere must not send our secrets to this machine.
fn found_url(config: &Config, text: &str) -> Result<Url, Error> {
    let url = config::read_url(text).map_err(unusable)?;
    let is_local_issuer = config::read_url(&config.issuer)
        .is_ok_and(|issuer| issuer.scheme() == "http" || config::is_loopback(&issuer));
    if url.scheme() == "http" && !is_local_issuer {
        return Err(unusable("must begin with https://"));
    }
    Ok(url)
}

fn unusable(_: &'static str) -> Error {
    Error::Nonsense {
        step: Step::Discovery,
        what: "it names an endpoint that is no https:// URL",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn config() -> Config {
        Config {
            issuer: "https://id.example.com".into(),
            client_id: "aftertone".into(),
            ..Config::default()
        }
    }

    fn document(changes: &serde_json::Value) -> Document {
        let mut document = json!({
            "issuer": "https://id.example.com",
            "authorization_endpoint": "https://id.example.com/oauth2/auth",
            "token_endpoint": "https://id.example.com/oauth2/token",
            "jwks_uri": "https://keys.example.com/jwks.json",
        });
        for (key, value) in changes.as_object().unwrap() {
            document[key] = value.clone();
        }
        serde_json::from_value(document).unwrap()
    }

    fn discovered(changes: &serde_json::Value) -> Result<Metadata, Error> {
        Metadata::discovered(&config(), document(changes), NOW)
    }

    #[test]
    fn a_document_of_another_issuer_is_refused() {
        for other in [
            "https://id.example.com/",
            "https://ID.example.com",
            "https://evil.example",
        ] {
            let error = discovered(&json!({"issuer": other})).unwrap_err();
            assert!(error.to_string().contains("another issuer"), "{error}");
        }
        assert!(discovered(&json!({})).is_ok());
    }

    #[test]
    fn an_issuer_elsewhere_cannot_send_our_secrets_in_clear_or_to_this_machine() {
        for bad in [
            "http://id.example.com/token",
            "http://127.0.0.1:9/token",
            "nonsense",
        ] {
            let error = discovered(&json!({"token_endpoint": bad})).unwrap_err();
            assert!(matches!(error, Error::Nonsense { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_set_wins_over_what_is_found_and_what_is_missing_is_named() {
        let set = Config {
            token_endpoint: Some("https://inside.example.com/token".into()),
            ..config()
        };
        let metadata = Metadata::discovered(&set, document(&json!({})), NOW).unwrap();
        assert_eq!(metadata.token.as_str(), "https://inside.example.com/token");
        let error = discovered(&json!({"jwks_uri": null})).unwrap_err();
        assert!(matches!(error, Error::NoEndpoint("jwks_uri")), "{error}");
    }

    #[test]
    fn a_document_ages_and_settings_do_not() {
        let metadata = discovered(&json!({})).unwrap();
        assert!(metadata.is_fresh(NOW) && metadata.is_usable(NOW));
        let later = NOW.plus_millis(FRESH_MS);
        assert!(!metadata.is_fresh(later) && metadata.is_usable(later));
        assert!(!metadata.is_usable(NOW.plus_millis(USABLE_MS)));
        assert!(
            !metadata.is_fresh(NOW.plus_millis(-1)),
            "the clock was set back"
        );

        let place = |path: &str| Some(format!("https://id.example.com{path}"));
        let set = Config {
            authorization_endpoint: place("/oauth2/auth"),
            token_endpoint: place("/oauth2/token"),
            jwks_uri: place("/.well-known/jwks.json"),
            ..config()
        };
        let metadata = Metadata::configured(&set, NOW).unwrap();
        assert!(metadata.is_fresh(NOW.plus_millis(10 * USABLE_MS)));
        assert_eq!(metadata.userinfo, None);
    }

    #[test]
    fn the_password_goes_into_the_body_only_where_basic_is_not_taken() {
        let with = |methods: serde_json::Value| {
            let changes = json!({"token_endpoint_auth_methods_supported": methods});
            discovered(&changes).unwrap().secret_in_body
        };
        assert!(!with(json!(null)));
        assert!(!with(json!(["client_secret_basic", "client_secret_post"])));
        assert!(with(json!(["client_secret_post"])));
        assert!(!with(json!(["private_key_jwt"])));
    }

    #[test]
    fn the_document_lies_below_the_issuer() {
        let expected = "https://id.example.com/tenant/.well-known/openid-configuration";
        assert_eq!(document_url("https://id.example.com/tenant"), expected);
        assert_eq!(document_url("https://id.example.com/tenant/"), expected);
    }
}
