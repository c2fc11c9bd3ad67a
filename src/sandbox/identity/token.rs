//! `/oauth2/token`, `/oauth2/revoke` and `/userinfo`, and the ID token.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::config::ClientConfig;
use crate::sandbox::identity::Identity;
use crate::sandbox::identity::client_auth::{bearer, client};
use crate::sandbox::identity::oauth_error::{OauthError, uncached};
use crate::sandbox::identity::params::Params;
use crate::sandbox::identity::request::{SCOPES, origin};
use crate::sandbox::world::{Authorization, Issued, Mode, Scopes, TokenFacts};

/// Scopes that say something about a person, which a client by itself is not.
const SCOPES_OF_PERSONS: [&str; 3] = ["openid", "phone", "offline_access"];

/// `POST /oauth2/token`
pub(crate) async fn token(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    body: String,
) -> Result<Response, OauthError> {
    let params = form(&headers, &body)?;
    let client = client(&headers, &params, &identity.clients)?;
    let now = identity.world.now();
    let modes = &identity.world.modes;
    if modes.is_on(Mode::IdentityUnavailable, None, now) {
        return Err(OauthError::Unavailable);
    }
    let needed = |name, why| params.get(name).ok_or(OauthError::InvalidRequest(why));
    let tokens = &identity.world.tokens;
    let (issued, is_first) = match needed("grant_type", "grant_type is missing")? {
        "authorization_code" => {
            let code = needed("code", "code is missing")?;
            let redirect_uri = needed("redirect_uri", "redirect_uri is missing")?;
            let verifier = params.get("code_verifier");
            let issued = tokens.redeem(code, &client.id, redirect_uri, verifier, now)?;
            (issued, true)
        }
        "refresh_token" => {
            let refresh = needed("refresh_token", "refresh_token is missing")?;
            let scopes = params.get("scope").map(Scopes::parse);
            (tokens.refresh(refresh, &client.id, scopes, now)?, false)
        }
        "client_credentials" => {
            let scopes = client_scopes(params.get("scope"))?;
            (tokens.for_client(&client.id, scopes, now), false)
        }
        _ => return Err(OauthError::UnsupportedGrantType),
    };
    Ok(uncached(Json(identity.token_response(&issued, is_first, now))).into_response())
}

/// `POST /oauth2/revoke` (RFC 7009)
pub(crate) async fn revoke(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    body: String,
) -> Result<Response, OauthError> {
    let params = form(&headers, &body)?;
    let client = client(&headers, &params, &identity.clients)?;
    let token = params.get("token");
    let token = token.ok_or(OauthError::InvalidRequest("token is missing"))?;
    let revoked = identity
        .world
        .tokens
        .revoke(token, &client.id, identity.world.now());
    // RFC 7009, 2.2: a token that is not known is revoked already.
    match revoked {
        Ok(()) => Ok(uncached(StatusCode::OK).into_response()),
        Err(_) => Err(OauthError::UnauthorizedClient(
            "the token was issued to another client",
        )),
    }
}

/// `GET` and `POST /userinfo` (OpenID Connect Core, 5.3)
pub(crate) async fn userinfo(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
) -> Result<Response, OauthError> {
    let facts = identity.bearer(&headers)?;
    let number = facts.number.filter(|_| facts.scopes.contains("openid"));
    let number = number.ok_or(OauthError::InsufficientScope)?;
    let mut claims = Map::new();
    let subject = identity.subject(&facts.client, &number);
    claims.insert("sub".into(), subject.into());
    add_phone(&mut claims, &facts.scopes, &number);
    Ok(uncached(Json(claims)).into_response())
}

impl Identity {
    /// What the bearer token of these headers stands for.
    pub(crate) fn bearer(&self, headers: &HeaderMap) -> Result<TokenFacts, OauthError> {
        let token = bearer(headers).ok_or(OauthError::InvalidToken)?;
        let now = self.world.now();
        let facts = self.world.tokens.check(token, now);
        let facts = facts.ok_or(OauthError::InvalidToken)?;
        let number = facts.number.as_ref();
        match self.world.modes.is_on(Mode::ExpiredToken, number, now) {
            true => Err(OauthError::InvalidToken),
            false => Ok(facts),
        }
    }

    /// Whom `client` knows by this: another client knows the same person by another name (OpenID
    /// Connect Core, 8.1). It stays the same over a restart.
    pub(crate) fn subject(&self, client: &str, number: &Msisdn) -> String {
        let mut hash = Sha256::new();
        for part in ["aftertone sandbox", client, number.e164()] {
            hash.update(part);
            hash.update([0]);
        }
        URL_SAFE_NO_PAD.encode(hash.finalize())
    }

    fn token_response(&self, issued: &Issued, is_first: bool, now: Timestamp) -> Value {
        let mut response = json!({
            "access_token": issued.access,
            "token_type": "bearer",
            "expires_in": issued.lives.as_secs(),
            "scope": issued.scopes.to_string(),
        });
        if let Some(refresh) = &issued.refresh {
            response["refresh_token"] = refresh.as_str().into();
        }
        let authorization = issued.authorization.as_ref();
        if let Some(authorization) = authorization.filter(|_| issued.scopes.contains("openid")) {
            let claims = self.id_token(issued, authorization, is_first, now);
            response["id_token"] = self.keys.sign(&claims).into();
        }
        response
    }

    /// OpenID Connect Core, 2; after a refresh, 12.2.
    fn id_token(
        &self,
        issued: &Issued,
        authorization: &Authorization,
        is_first: bool,
        now: Timestamp,
    ) -> Map<String, Value> {
        let (number, client) = (&authorization.number, &authorization.client);
        let now_secs = now.as_millis() / 1000;
        let lives = i64::try_from(issued.lives.as_secs()).unwrap_or(i64::MAX);
        // 3.1.3.6: the left half of the hash of the access token.
        let hash = Sha256::digest(issued.access.as_bytes());
        let mut claims = Map::new();
        let mut claim = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        claim("iss", self.issuer.as_str().into());
        claim("sub", self.subject(client, number).into());
        claim("aud", client.as_str().into());
        claim("iat", now_secs.into());
        claim("exp", now_secs.saturating_add(lives).into());
        let authenticated = authorization.authenticated_at.as_millis() / 1000;
        claim("auth_time", authenticated.into());
        let half = hash.get(..16).unwrap_or_default();
        claim("at_hash", URL_SAFE_NO_PAD.encode(half).into());
        if let Some(nonce) = authorization.nonce.as_deref().filter(|_| is_first) {
            claim("nonce", nonce.into());
        }
        add_phone(&mut claims, &issued.scopes, number);
        claims
    }
}

/// OpenID Connect Core, 5.4.
fn add_phone(claims: &mut Map<String, Value>, scopes: &Scopes, number: &Msisdn) {
    if scopes.contains("phone") {
        claims.insert("phone_number".into(), number.e164().into());
        claims.insert("phone_number_verified".into(), true.into());
    }
}

/// The scopes of a client's own token: what it asks for, else all that a client can have.
fn client_scopes(asked: Option<&str>) -> Result<Scopes, OauthError> {
    let all = SCOPES.iter().map(|(scope, _)| *scope);
    let all = all.filter(|scope| !SCOPES_OF_PERSONS.contains(scope));
    let all = Scopes::parse(&all.collect::<Vec<_>>().join(" "));
    match asked.map(Scopes::parse) {
        None => Ok(all),
        Some(asked) if asked.is_within(&all) => Ok(asked),
        Some(_) => Err(OauthError::InvalidScope(
            "scope names one that does not exist, or that only a person can grant",
        )),
    }
}

/// The parameters of a form.
pub(crate) fn form(headers: &HeaderMap, body: &str) -> Result<Params, OauthError> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(OauthError::InvalidRequest(
            "the body must be application/x-www-form-urlencoded",
        ));
    }
    Params::parse(body).map_err(|_| OauthError::InvalidRequest("a parameter comes more than once"))
}

/// Whether the client registered an address at the same origin as `uri`.
pub(crate) fn is_at_home(client: &ClientConfig, uri: &str) -> bool {
    let Some(asked) = origin(uri) else {
        return false;
    };
    let mut known = client.redirect_uris.iter();
    known.any(|known| origin(known).is_some_and(|known| known == asked))
}
