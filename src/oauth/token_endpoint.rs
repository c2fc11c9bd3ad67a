//! The token endpoint (RFC 6749 section 3.2), by the `oauth2` crate over our own requests.

use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse,
    BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, EndpointNotSet, EndpointSet,
    ExtraTokenFields, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope,
    StandardRevocableToken, StandardTokenResponse, TokenResponse, TokenUrl,
};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::domain::{Secret, Timestamp};
use crate::oauth::Tokens;
use crate::oauth::config::Config;
use crate::oauth::error::{Error, Step};
use crate::oauth::http::{Fault, Http};
use crate::oauth::metadata::Metadata;

/// A server that does not say how long an access token lives is asked again soon.
const UNTOLD_LIFE_SECS: u64 = 300;
/// No access token is taken to live longer: a month.
const MAX_LIFE_SECS: u64 = 30 * 86_400;
/// Longest token that is taken. It has to fit into a header.
const MAX_TOKEN: usize = 16 * 1024;

/// What OpenID Connect adds to a token response. The secret prints redacted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct OpenId {
    #[serde(skip_serializing)]
    id_token: Option<Secret>,
}

impl ExtraTokenFields for OpenId {}

type Response = StandardTokenResponse<OpenId, BasicTokenType>;
type Failure = RequestTokenError<Fault, BasicErrorResponse>;

/// The `oauth2` client with the two endpoints that every flow needs.
pub(crate) type Protocol = oauth2::Client<
    BasicErrorResponse,
    Response,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// How we talk to the token endpoint of `metadata`.
pub(crate) fn protocol(config: &Config, metadata: &Metadata, redirect_uri: &Url) -> Protocol {
    let auth_type = if metadata.secret_in_body {
        AuthType::RequestBody
    } else {
        AuthType::BasicAuth
    };
    let client = oauth2::Client::new(ClientId::new(config.client_id.clone()))
        .set_auth_type(auth_type)
        .set_auth_uri(AuthUrl::from_url(metadata.authorization.clone()))
        .set_token_uri(TokenUrl::from_url(metadata.token.clone()))
        .set_redirect_uri(RedirectUrl::from_url(redirect_uri.clone()));
    match &config.client_secret {
        Some(secret) => client.set_client_secret(ClientSecret::new(secret.expose().to_owned())),
        None => client,
    }
}

pub(crate) async fn exchange(
    protocol: &Protocol,
    http: &Http,
    code: &str,
    verifier: &Secret,
    now: Timestamp,
) -> Result<Tokens, Error> {
    let response = protocol
        .exchange_code(AuthorizationCode::new(code.to_owned()))
        .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose().to_owned()))
        .request_async(http)
        .await;
    read(Step::Exchange, response, now)
}

pub(crate) async fn refresh(
    protocol: &Protocol,
    http: &Http,
    refresh: &Secret,
    now: Timestamp,
) -> Result<Tokens, Error> {
    let token = RefreshToken::new(refresh.expose().to_owned());
    let response = protocol
        .exchange_refresh_token(&token)
        .request_async(http)
        .await;
    read(Step::Refresh, response, now)
}

pub(crate) async fn client_credentials(
    protocol: &Protocol,
    http: &Http,
    scopes: &[String],
    now: Timestamp,
) -> Result<Tokens, Error> {
    let response = protocol
        .exchange_client_credentials()
        .add_scopes(scopes.iter().cloned().map(Scope::new))
        .request_async(http)
        .await;
    read(Step::ClientToken, response, now)
}

fn read(step: Step, response: Result<Response, Failure>, now: Timestamp) -> Result<Tokens, Error> {
    let response = response.map_err(|failure| explain(step, failure))?;
    let nonsense = |what| Error::Nonsense { step, what };
    if *response.token_type() != BasicTokenType::Bearer {
        return Err(nonsense("its token is no bearer token"));
    }
    let access = response.access_token().secret();
    let refresh = response.refresh_token().map(RefreshToken::secret);
    if !is_token(access) || !refresh.is_none_or(|token| is_token(token)) {
        return Err(nonsense("its token is none of RFC 6750"));
    }
    let told = response.expires_in().map(|life| life.as_secs());
    let life = told.unwrap_or(UNTOLD_LIFE_SECS).min(MAX_LIFE_SECS);
    let life_ms = i64::try_from(life * 1000).expect("a month in milliseconds is an i64");
    let scopes = response.scopes();
    Ok(Tokens {
        access: Secret::new(access.as_str()),
        expires_at: now.plus_millis(life_ms),
        refresh: refresh.map(|token| Secret::new(token.as_str())),
        scopes: scopes.map(|scopes| scopes.iter().map(|scope| scope.to_string()).collect()),
        id_token: response.extra_fields().id_token.clone(),
    })
}

/// Visible ASCII, of some length (RFC 6749 appendices A.12 and A.17).
fn is_token(text: &str) -> bool {
    (1..=MAX_TOKEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What a failure means. What the server wrote in free text is left out: it may hold anything.
fn explain(step: Step, failure: Failure) -> Error {
    let error = match failure {
        RequestTokenError::Request(fault) => return fault.at(step),
        RequestTokenError::ServerResponse(error) => error,
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            return Error::Nonsense {
                step,
                what: "it is not the JSON that was expected",
            };
        }
    };
    match error.error() {
        // Of our own token nobody's consent can be gone.
        BasicErrorResponseType::InvalidGrant if step != Step::ClientToken => Error::InvalidGrant,
        code => Error::of_code(step, code.as_ref()),
    }
}
