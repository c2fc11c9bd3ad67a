//! Who calls the token endpoint and its neighbours: HTTP Basic authentication of clients
//! (RFC 6749, 2.3.1), and bearer tokens (RFC 6750, 2.1).

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::domain::Secret;
use crate::sandbox::config::ClientConfig;
use crate::sandbox::identity::oauth_error::OauthError;
use crate::sandbox::identity::params::Params;

/// The client that sends these headers, with its secret.
pub(crate) fn client<'a>(
    headers: &HeaderMap,
    params: &Params,
    clients: &'a [ClientConfig],
) -> Result<&'a ClientConfig, OauthError> {
    if params.get("client_secret").is_some() {
        // RFC 6749, 2.3: never two ways at once; and this one is not offered.
        return Err(match headers.contains_key(header::AUTHORIZATION) {
            true => OauthError::InvalidRequest("the client authenticates in two ways"),
            false => OauthError::InvalidClient,
        });
    }
    let (id, secret) = basic(headers).ok_or(OauthError::InvalidClient)?;
    let client = clients.iter().find(|client| client.id == id);
    let client = client.filter(|client| client.secret == secret);
    let client = client.ok_or(OauthError::InvalidClient)?;
    match params.get("client_id") {
        Some(named) if named != client.id => Err(OauthError::InvalidRequest(
            "client_id is not the client that authenticates",
        )),
        _ => Ok(client),
    }
}

/// The bearer token of these headers.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    credentials(headers, "Bearer")
}

fn basic(headers: &HeaderMap) -> Option<(String, Secret)> {
    let pair = STANDARD.decode(credentials(headers, "Basic")?).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (id, secret) = pair.split_once(':')?;
    // Both were encoded as in a form first (RFC 6749, 2.3.1).
    let decode = |text: &str| {
        let mut pairs = url::form_urlencoded::parse(text.as_bytes());
        pairs.next().map(|(name, _)| name.into_owned())
    };
    let secret = secret.replace('&', "%26").replace('=', "%3D");
    Some((decode(id)?, Secret::new(decode(&secret)?)))
}

fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (named, credentials) = value.split_once(' ')?;
    let credentials = credentials.trim();
    (named.eq_ignore_ascii_case(scheme) && !credentials.is_empty()).then_some(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pair: &str) -> HeaderMap {
        let value = format!("basic {}", STANDARD.encode(pair));
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    fn ask(pair: &str, form: &str) -> Result<String, OauthError> {
        let clients = [ClientConfig {
            id: "a b".into(),
            secret: Secret::new("p%:+=&"),
            ..ClientConfig::default()
        }];
        let form = Params::parse(form).unwrap();
        client(&headers(pair), &form, &clients).map(|client| client.id.clone())
    }

    #[test]
    fn id_and_secret_are_decoded_as_a_form() {
        assert_eq!(ask("a+b:p%25%3A%2B%3D%26", ""), Ok("a b".into()));
        assert_eq!(ask("a%20b:p%25%3A%2B=&", ""), Ok("a b".into()));
        assert_eq!(ask("a+b:wrong", ""), Err(OauthError::InvalidClient));
        assert_eq!(ask("a+b", ""), Err(OauthError::InvalidClient));
        assert_eq!(ask(":", ""), Err(OauthError::InvalidClient));
    }

    #[test]
    fn a_client_authenticates_in_one_way_and_as_itself() {
        let pair = "a+b:p%25%3A%2B%3D%26";
        assert_eq!(ask(pair, "client_id=a+b"), Ok("a b".into()));
        let other = ask(pair, "client_id=other");
        assert!(matches!(other, Err(OauthError::InvalidRequest(_))));
        let twice = ask(pair, "client_secret=x");
        assert!(matches!(twice, Err(OauthError::InvalidRequest(_))));
        let none = client(&HeaderMap::new(), &Params::default(), &[]);
        assert_eq!(none.unwrap_err(), OauthError::InvalidClient);
    }
}
