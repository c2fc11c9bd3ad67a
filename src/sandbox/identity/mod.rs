//! The identity server: OAuth 2.0 (RFC 6749, 7636, 7009, 9207) and OpenID Connect, at the paths of
//! the vendor's. A person proves a number with the PIN of a text message and then says what an
//! application may do.

mod browsers;
mod client_auth;
mod flows;
mod keys;
mod leave;
mod logout;
pub(crate) mod notice;
mod oauth_error;
mod params;
pub(crate) mod request;
mod sign_in;
mod token;

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::sandbox::StartError;
use crate::sandbox::config::{ClientConfig, Config};
use crate::sandbox::world::World;

use browsers::Browsers;
use flows::Flows;
use keys::Keys;
use leave::Links;

pub(crate) use params::Params;

/// What its handlers work with.
pub(crate) struct Identity {
    pub(crate) issuer: String,
    /// What the operator is called on the pages.
    pub(crate) operator: String,
    pub(crate) world: Arc<World>,
    pub(crate) browsers: Browsers,
    pub(crate) keys: Keys,
    clients: Vec<ClientConfig>,
    flows: Flows,
    links: Links,
}

impl Identity {
    /// The server as it is configured, with a new key.
    pub(crate) async fn new(
        config: &Config,
        issuer: &str,
        world: &Arc<World>,
    ) -> Result<Arc<Self>, StartError> {
        let chance = &world.chance;
        let is_https = issuer.starts_with("https:");
        Ok(Arc::new(Self {
            issuer: issuer.to_owned(),
            operator: config.operator.clone(),
            world: Arc::clone(world),
            browsers: Browsers::new(Arc::clone(chance), is_https),
            keys: Keys::generate(Arc::clone(chance)).await?,
            clients: config.clients.clone(),
            flows: Flows::new(),
            links: Links::new(),
        }))
    }

    /// A client by its id.
    pub(crate) fn client(&self, id: &str) -> Option<&ClientConfig> {
        self.clients.iter().find(|client| client.id == id)
    }
}

/// Its routes.
pub(crate) fn routes(identity: &Arc<Identity>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/.well-known/jwks.json", get(jwks))
        .route(
            "/oauth2/auth",
            get(sign_in::authorize).post(sign_in::authorize_posted),
        )
        .route(
            "/oauth2/number",
            get(sign_in::number).post(sign_in::take_number),
        )
        .route("/oauth2/pin", get(sign_in::pin).post(sign_in::take_pin))
        .route(
            "/oauth2/consent",
            get(sign_in::consent).post(sign_in::take_consent),
        )
        .route("/oauth2/token", post(token::token))
        .route("/oauth2/revoke", post(token::revoke))
        .route("/userinfo", get(token::userinfo).post(token::userinfo))
        .route(
            "/oauth2/sessions/logout",
            get(logout::page).post(logout::confirm),
        )
        .route(
            "/ext-api/v0/auth/create-revoke-consent-magic-link",
            post(leave::create_link),
        )
        .route("/revoke-consent", get(leave::page).post(leave::decide))
        .with_state(Arc::clone(identity))
}

/// `GET /.well-known/openid-configuration` (OpenID Connect Discovery, 3; RFC 8414)
async fn discovery(State(identity): State<Arc<Identity>>) -> Json<Value> {
    let issuer = &identity.issuer;
    let at = |path: &str| format!("{issuer}{path}");
    let scopes: Vec<_> = request::SCOPES.iter().map(|(scope, _)| *scope).collect();
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": at("/oauth2/auth"),
        "token_endpoint": at("/oauth2/token"),
        "userinfo_endpoint": at("/userinfo"),
        "revocation_endpoint": at("/oauth2/revoke"),
        "end_session_endpoint": at("/oauth2/sessions/logout"),
        "jwks_uri": at("/.well-known/jwks.json"),
        "scopes_supported": scopes,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        "revocation_endpoint_auth_methods_supported": ["client_secret_basic"],
        "code_challenge_methods_supported": ["S256"],
        "claims_supported": [
            "iss", "sub", "aud", "iat", "exp", "auth_time", "nonce", "at_hash",
            "phone_number", "phone_number_verified",
        ],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "authorization_response_iss_parameter_supported": true,
        "claims_parameter_supported": false,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
    }))
}

/// `GET /.well-known/jwks.json`
async fn jwks(State(identity): State<Arc<Identity>>) -> Response {
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    (no_store, Json(identity.keys.jwks())).into_response()
}
