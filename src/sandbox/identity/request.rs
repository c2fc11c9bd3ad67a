//! An authorization request (RFC 6749, 4.1.1; OpenID Connect Core, 3.1.2.1): what it asks for, or
//! why it is refused, and whether the refusal may be told to the one who sent it.

use url::Url;

use crate::sandbox::config::ClientConfig;
use crate::sandbox::identity::params::Params;
use crate::sandbox::world::Scopes;

/// Every scope that exists, and what a subscriber reads about it.
pub(crate) const SCOPES: [(&str, &str); 6] = [
    ("openid", "recognise you when you come back"),
    ("phone", "know your telephone number"),
    ("offline_access", "do this also while you are away"),
    (
        "call.routing:write",
        "answer your calls when you are busy or do not answer",
    ),
    (
        "call.control.answer_and_initiate",
        "answer and place calls for you (an older interface)",
    ),
    (
        "call.control:answer_and_initiate",
        "answer and place calls for you (an older interface)",
    ),
];

/// The longest query that is looked at, in bytes.
pub(crate) const MAX_QUERY: usize = 8 * 1024;

/// A request that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthRequest {
    pub(crate) client: String,
    pub(crate) client_name: String,
    pub(crate) redirect_uri: String,
    pub(crate) state: Option<String>,
    pub(crate) scopes: Scopes,
    pub(crate) nonce: Option<String>,
    pub(crate) challenge: Option<String>,
    pub(crate) prompt: Prompt,
    /// The longest time since the subscriber proved who he is, in seconds.
    pub(crate) max_age: Option<i64>,
    pub(crate) login_hint: Option<String>,
}

/// What the client wants the subscriber to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Prompt {
    /// Nothing at all.
    pub(crate) none: bool,
    /// Who he is, even where it is known.
    pub(crate) login: bool,
    /// What he allows, even where it is known.
    pub(crate) consent: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Told to the person in front of the browser only: the client or the place to go back to is
    /// not known, and to send the browser there would make an open redirector of us.
    Here(&'static str),
    /// Told to the client.
    Back(Back),
}

/// An answer to the client, by way of the browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Back {
    pub(crate) redirect_uri: String,
    pub(crate) state: Option<String>,
    /// RFC 6749, 4.1.2.1.
    pub(crate) error: &'static str,
    pub(crate) description: &'static str,
}

impl AuthRequest {
    /// Reads a query.
    pub(crate) fn read(query: &str, clients: &[ClientConfig]) -> Result<Self, Refused> {
        if query.len() > MAX_QUERY {
            return Err(Refused::Here("The request is too long."));
        }
        let params = Params::parse(query)
            .map_err(|_| Refused::Here("The request has a parameter more than once."))?;
        let client = params
            .get("client_id")
            .and_then(|id| clients.iter().find(|client| client.id == id));
        let client = client.ok_or(Refused::Here(
            "The application that sent you here is not known.",
        ))?;
        // RFC 9700, 2.1: letter by letter.
        let redirect_uri = params
            .get("redirect_uri")
            .filter(|uri| client.redirect_uris.iter().any(|known| known == uri));
        let redirect_uri = redirect_uri.ok_or(Refused::Here(
            "The address to go back to (redirect_uri) is not one that the application registered.",
        ))?;
        let state = params.get("state");
        read_rest(&params, client, redirect_uri, state).map_err(|(error, description)| {
            Refused::Back(Back {
                redirect_uri: redirect_uri.to_owned(),
                state: state.map(str::to_owned),
                error,
                description,
            })
        })
    }

    /// The refusal `error` of this request.
    pub(crate) fn refuse(&self, error: &'static str, description: &'static str) -> Back {
        Back {
            redirect_uri: self.redirect_uri.clone(),
            state: self.state.clone(),
            error,
            description,
        }
    }
}

/// The error and its description.
type Wrong = (&'static str, &'static str);

fn read_rest(
    params: &Params,
    client: &ClientConfig,
    redirect_uri: &str,
    state: Option<&str>,
) -> Result<AuthRequest, Wrong> {
    let invalid = |what| ("invalid_request", what);
    if params.get("request").is_some() {
        return Err(("request_not_supported", "request objects are not supported"));
    }
    if params.get("request_uri").is_some() {
        return Err(("request_uri_not_supported", "request_uri is not supported"));
    }
    match params.get("response_type") {
        Some("code") => {}
        Some(_) => return Err(("unsupported_response_type", "response_type must be code")),
        None => return Err(invalid("response_type is missing")),
    }
    if params
        .get("response_mode")
        .is_some_and(|mode| mode != "query")
    {
        return Err(invalid("response_mode must be query"));
    }
    let scopes = Scopes::parse(params.get("scope").unwrap_or_default());
    if scopes.is_empty() {
        return Err(("invalid_scope", "scope is missing"));
    }
    if !scopes.iter().all(is_known) {
        return Err(("invalid_scope", "scope names one that does not exist"));
    }
    let max_age = params.get("max_age").map(str::parse::<u32>).transpose();
    let max_age = max_age.map_err(|_| invalid("max_age must be a number of seconds"))?;
    Ok(AuthRequest {
        client: client.id.clone(),
        client_name: client.name.clone(),
        redirect_uri: redirect_uri.to_owned(),
        state: state.map(str::to_owned),
        scopes,
        nonce: params.get("nonce").map(str::to_owned),
        challenge: read_challenge(params).map_err(invalid)?,
        prompt: read_prompt(params.get("prompt")).map_err(invalid)?,
        max_age: max_age.map(i64::from),
        login_hint: params.get("login_hint").map(str::to_owned),
    })
}

/// RFC 7636, 4.3. `plain` protects from nothing and is refused.
fn read_challenge(params: &Params) -> Result<Option<String>, &'static str> {
    let method = params.get("code_challenge_method");
    let Some(challenge) = params.get("code_challenge") else {
        return match method {
            None => Ok(None),
            Some(_) => Err("code_challenge is missing"),
        };
    };
    if method != Some("S256") {
        return Err("code_challenge_method must be S256");
    }
    let is_base64url = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if challenge.len() != 43 || !challenge.chars().all(is_base64url) {
        return Err("code_challenge is not the base64url of a SHA-256");
    }
    Ok(Some(challenge.to_owned()))
}

fn read_prompt(text: Option<&str>) -> Result<Prompt, &'static str> {
    let mut prompt = Prompt::default();
    for word in text.unwrap_or_default().split(' ') {
        match word {
            "" => {}
            "none" => prompt.none = true,
            "login" | "select_account" => prompt.login = true,
            "consent" => prompt.consent = true,
            _ => return Err("prompt has a value that does not exist"),
        }
    }
    if prompt.none && (prompt.login || prompt.consent) {
        return Err("prompt=none cannot stand beside another value");
    }
    Ok(prompt)
}

fn is_known(scope: &str) -> bool {
    SCOPES.iter().any(|(name, _)| *name == scope)
}

/// `uri` with `parameters` added to its query.
pub(crate) fn with_query(uri: &str, parameters: &[(&str, &str)]) -> String {
    match Url::parse(uri) {
        Ok(mut url) => {
            url.query_pairs_mut().extend_pairs(parameters);
            url.into()
        }
        // A registered address that is no URL is a mistake in the configuration, which shows.
        Err(_) => uri.to_owned(),
    }
}

/// Scheme, host and port of a URL: what a page's policy must name to let a form lead there.
pub(crate) fn origin(uri: &str) -> Option<String> {
    let url = Url::parse(uri).ok()?;
    url.has_host().then(|| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACK: &str = "http://127.0.0.1:8080/auth/callback";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn read(change: &[(&str, Option<&str>)]) -> Result<AuthRequest, Refused> {
        let mut params = vec![
            ("client_id", "aftertone"),
            ("redirect_uri", BACK),
            ("response_type", "code"),
            ("scope", "openid phone"),
            ("state", "s1"),
        ];
        for (name, value) in change {
            params.retain(|(known, _)| known != name);
            params.extend(value.map(|value| (*name, value)));
        }
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(params)
            .finish();
        AuthRequest::read(&query, &[ClientConfig::default()])
    }

    fn error(change: &[(&str, Option<&str>)]) -> &'static str {
        match read(change) {
            Err(Refused::Back(back)) => {
                assert_eq!(back.redirect_uri, BACK);
                assert_eq!(back.state.as_deref(), Some("s1"));
                back.error
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wrong_client_or_address_is_never_sent_anywhere() {
        for change in [
            ("client_id", Some("other")),
            ("client_id", None),
            ("redirect_uri", None),
            ("redirect_uri", Some("https://evil.example")),
            ("redirect_uri", Some("http://127.0.0.1:8080/auth/callback/")),
            (
                "redirect_uri",
                Some("http://127.0.0.1:8080/auth/callback?x=1"),
            ),
            ("redirect_uri", Some("HTTP://127.0.0.1:8080/auth/callback")),
        ] {
            let refused = read(&[change]);
            assert!(matches!(refused, Err(Refused::Here(_))), "{change:?}");
        }
        let twice = format!("client_id=aftertone&client_id=aftertone&redirect_uri={BACK}");
        let refused = AuthRequest::read(&twice, &[ClientConfig::default()]);
        assert!(matches!(refused, Err(Refused::Here(_))));
    }

    #[test]
    fn what_else_is_wrong_is_told_to_the_client() {
        assert_eq!(error(&[("response_type", None)]), "invalid_request");
        let token = ("response_type", Some("token"));
        assert_eq!(error(&[token]), "unsupported_response_type");
        assert_eq!(error(&[("scope", None)]), "invalid_scope");
        assert_eq!(error(&[("scope", Some("openid all"))]), "invalid_scope");
        assert_eq!(error(&[("request", Some("x"))]), "request_not_supported");
        assert_eq!(error(&[("prompt", Some("none login"))]), "invalid_request");
        assert_eq!(error(&[("max_age", Some("-1"))]), "invalid_request");
        let challenge = ("code_challenge", Some(CHALLENGE));
        assert_eq!(error(&[challenge]), "invalid_request");
        let plain = ("code_challenge_method", Some("plain"));
        assert_eq!(error(&[challenge, plain]), "invalid_request");
        let s256 = ("code_challenge_method", Some("S256"));
        assert_eq!(error(&[s256]), "invalid_request");
        let short = ("code_challenge", Some("abc"));
        assert_eq!(error(&[short, s256]), "invalid_request");
        assert!(read(&[challenge, s256]).is_ok());
    }

    #[test]
    fn what_goes_back_is_added_to_the_query_and_escaped() {
        let uri = with_query("http://a/b?c=d", &[("state", "x&y=z#")]);
        assert_eq!(uri, "http://a/b?c=d&state=x%26y%3Dz%23");
        assert_eq!(origin("http://a:81/b?c").as_deref(), Some("http://a:81"));
        assert_eq!(origin("mailto:x"), None);
    }
}
