//! The `[oauth]` section of the configuration.

use std::path::PathBuf;

use serde::Deserialize;
use url::{Host, Url};

use crate::domain::Secret;

/// Settings of the identity server. Where [`Config::is_discovered`], endpoints that are not set come
/// from its discovery document.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The issuer, exactly as it stands in its ID tokens. Discovery asks below it.
    pub issuer: String,
    /// Where subscribers sign in and consent.
    pub authorization_endpoint: Option<String>,
    /// Where codes and refresh tokens become access tokens.
    pub token_endpoint: Option<String>,
    /// The keys that sign ID tokens.
    pub jwks_uri: Option<String>,
    /// Where tokens are revoked (RFC 7009).
    pub revocation_endpoint: Option<String>,
    /// Where the claims are asked for that an ID token lacks.
    pub userinfo_endpoint: Option<String>,
    /// Where a subscriber signs out at the identity server.
    pub end_session_endpoint: Option<String>,
    /// Where links to revoke a consent are made (an extension of the vendor's).
    pub revoke_consent_endpoint: Option<String>,
    /// Our name at the identity server.
    pub client_id: String,
    /// Our password there; a public client has none.
    pub client_secret: Option<Secret>,
    /// What subscribers are asked to consent to.
    pub scopes: Vec<String>,
    /// What our own token (client credentials) may do.
    pub client_scopes: Vec<String>,
    /// The `prompt` of the authorization request; empty for none. OpenID Connect Core section 11
    /// wants `consent` for a refresh token.
    pub prompt: String,
    /// Deadline of one request, in milliseconds.
    pub timeout_ms: u64,
    /// Authorities in PEM form that the identity server is verified by, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let scopes = ["openid", "offline_access", "phone", "call.routing:write"];
        Self {
            issuer: String::new(),
            authorization_endpoint: None,
            token_endpoint: None,
            jwks_uri: None,
            revocation_endpoint: None,
            userinfo_endpoint: None,
            end_session_endpoint: None,
            revoke_consent_endpoint: None,
            client_id: String::new(),
            client_secret: None,
            scopes: scopes.map(str::to_owned).into(),
            client_scopes: vec!["call.routing:write".to_owned()],
            prompt: "consent".to_owned(),
            timeout_ms: 5_000,
            ca_file: None,
        }
    }
}

impl Config {
    /// Whether the discovery document is needed: one of the endpoints that every sign-in uses is
    /// not set.
    pub fn is_discovered(&self) -> bool {
        self.authorization_endpoint.is_none()
            || self.token_endpoint.is_none()
            || self.jwks_uri.is_none()
    }

    /// What is set against sense, each as a sentence that begins with the key.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match read_url(&self.issuer) {
            _ if self.issuer.is_empty() => problems.push(
                "issuer: is not set; write the identity server's, such as \"https://id.example.com\""
                    .to_owned(),
            ),
            Err(fault) => problems.push(format!("issuer: {fault}")),
            Ok(url) if url.query().is_some() || url.fragment().is_some() => problems.push(
                "issuer: must have neither a query nor a fragment (OpenID Connect Discovery section 3)"
                    .to_owned(),
            ),
            Ok(_) => {}
        }
        for (key, endpoint) in self.endpoints() {
            if let Some(Err(fault)) = endpoint.as_deref().map(read_url) {
                problems.push(format!("{key}: {fault}"));
            }
        }
        if self.client_id.is_empty() {
            problems.push(
                "client_id: is not set; write the name under which the identity server knows this service"
                    .to_owned(),
            );
        }
        if !self.scopes.iter().any(|scope| scope == "openid") {
            problems.push(
                "scopes: must contain \"openid\", or no ID token tells who signed in".to_owned(),
            );
        }
        let all_scopes = self.scopes.iter().chain(&self.client_scopes);
        if !all_scopes.clone().all(|scope| is_scope(scope)) {
            problems.push(
                "scopes and client_scopes: write each scope by itself, without spaces".to_owned(),
            );
        }
        if !(100..=60_000).contains(&self.timeout_ms) {
            problems.push("timeout_ms: must be from 100 to 60000 (a minute)".to_owned());
        }
        problems
    }

    fn endpoints(&self) -> [(&'static str, &Option<String>); 7] {
        [
            ("authorization_endpoint", &self.authorization_endpoint),
            ("token_endpoint", &self.token_endpoint),
            ("jwks_uri", &self.jwks_uri),
            ("revocation_endpoint", &self.revocation_endpoint),
            ("userinfo_endpoint", &self.userinfo_endpoint),
            ("end_session_endpoint", &self.end_session_endpoint),
            ("revoke_consent_endpoint", &self.revoke_consent_endpoint),
        ]
    }
}

/// Reads an address of the identity server: `https://`, or `http://` on this machine. What is sent
/// there are secrets.
pub(crate) fn read_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is no URL; write https:// and a host")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or a password; these are client_id and client_secret");
    }
    match url.scheme() {
        "https" if url.host().is_some() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err("must begin with https://; secrets are sent there (http:// is for loopback)"),
        _ => Err("must begin with https:// and name a host"),
    }
}

/// Whether a URL names this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// RFC 6749 section 3.3: visible ASCII but for the quotation mark and the backslash.
fn is_scope(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> Config {
        Config {
            issuer: "https://id.example.com".into(),
            client_id: "aftertone".into(),
            ..Config::default()
        }
    }

    #[test]
    fn an_issuer_and_a_client_id_are_enough() {
        assert_eq!(usable().problems(), Vec::<String>::new());
        assert!(usable().is_discovered());
    }

    #[test]
    fn with_all_three_endpoints_nothing_is_discovered() {
        let config = Config {
            authorization_endpoint: Some("https://id.example.com/oauth2/auth".into()),
            token_endpoint: Some("https://id.example.com/oauth2/token".into()),
            jwks_uri: Some("https://id.example.com/.well-known/jwks.json".into()),
            ..usable()
        };
        assert!(!config.is_discovered());
        assert_eq!(config.problems(), Vec::<String>::new());
    }

    #[test]
    fn secrets_are_sent_in_clear_on_loopback_only() {
        for good in [
            "https://id.example.com/a",
            "http://localhost:4444",
            "http://127.0.0.1:1",
            "http://[::1]:9/",
        ] {
            assert!(read_url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://id.example.com",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
            "https://user:password@id.example.com",
            "https://",
            "id.example.com",
            "javascript:alert(1)",
        ] {
            assert!(read_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_problem_is_a_sentence_under_its_key() {
        let config = Config {
            issuer: "https://id.example.com/?tenant=1".into(),
            token_endpoint: Some("http://id.example.com/token".into()),
            scopes: vec!["phone email".into()],
            timeout_ms: 5,
            ..Config::default()
        };
        let problems = config.problems();
        for key in [
            "issuer: ",
            "token_endpoint: ",
            "client_id: ",
            "scopes: ",
            "scopes and client_scopes: ",
            "timeout_ms: ",
        ] {
            assert!(
                problems.iter().any(|problem| problem.starts_with(key)),
                "{key} is missing in {problems:?}"
            );
        }
        assert!(Config::default().problems()[0].starts_with("issuer: is not set"));
    }
}
