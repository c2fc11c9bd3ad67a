//! The client of one identity server.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oauth2::http::{Method, StatusCode, header};
use oauth2::{CsrfToken, HttpRequest, PkceCodeChallenge, PkceCodeVerifier, Scope};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use crate::clock::Clock;
use crate::domain::{Secret, Timestamp};
use crate::oauth::config::{self, Config};
use crate::oauth::error::{Error, SetupError, Step};
use crate::oauth::fetched::Fetched;
use crate::oauth::http::{self, Http};
use crate::oauth::id_token::{Claims, UserInfo};
use crate::oauth::keys::{self, KeySet, Verdict};
use crate::oauth::metadata::{self, Metadata};
use crate::oauth::token_endpoint::{self, Protocol};
use crate::oauth::{Authorization, Identity, Tokens};
use crate::telemetry;

/// Our own token is renewed so long before its end, or a fifth of its life where that is less.
const RENEW_BEFORE_MS: i64 = 60_000;
/// Longest ID token that is looked at.
const MAX_ID_TOKEN: usize = 32 * 1024;

/// The client of one identity server. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    config: Config,
    redirect_uri: Url,
    clock: Arc<dyn Clock>,
    random: Mutex<StdRng>,
    http: Http,
    metadata: Fetched<Arc<Metadata>>,
    keys: Fetched<Arc<KeySet>>,
    client_token: Fetched<ClientToken>,
}

#[derive(Debug, Clone)]
struct ClientToken {
    access: Secret,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

impl Client {
    /// A client that sends browsers back to `redirect_uri`. Opens no connection; `seed` is for the
    /// secrets of sign-ins and must be unpredictable.
    pub fn new(
        config: &Config,
        redirect_uri: Url,
        clock: Arc<dyn Clock>,
        seed: [u8; 32],
    ) -> Result<Self, SetupError> {
        if let Some(problem) = config.problems().into_iter().next() {
            return Err(SetupError::Setting(problem));
        }
        Ok(Self(Arc::new(Inner {
            http: Http::new(config)?,
            config: config.clone(),
            redirect_uri,
            clock,
            random: Mutex::new(StdRng::from_seed(seed)),
            metadata: Fetched::new(),
            keys: Fetched::new(),
            client_token: Fetched::new(),
        })))
    }

    /// The identity server's name, as it stands in ID tokens.
    pub fn issuer(&self) -> &str {
        &self.0.config.issuer
    }

    /// Begins a sign-in (authorization code flow with PKCE S256).
    pub async fn authorize(&self) -> Result<Authorization, Error> {
        let config = &self.0.config;
        let protocol = self.protocol().await?;
        let [state, nonce, verifier] = [self.secret(), self.secret(), self.secret()];
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(
            verifier.expose().to_owned(),
        ));
        let mut request = protocol
            .authorize_url(|| CsrfToken::new(state.expose().to_owned()))
            .add_scopes(config.scopes.iter().cloned().map(Scope::new))
            .set_pkce_challenge(challenge)
            .add_extra_param("nonce", nonce.expose());
        if !config.prompt.is_empty() {
            request = request.add_extra_param("prompt", config.prompt.as_str());
        }
        let (url, _) = request.url();
        Ok(Authorization {
            url,
            state,
            nonce,
            verifier,
        })
    }

    /// Where the identity server sends browsers back to.
    pub(crate) fn redirect_uri(&self) -> &Url {
        &self.0.redirect_uri
    }

    /// What sends requests.
    pub(crate) fn http(&self) -> &Http {
        &self.0.http
    }

    /// Checks the `iss` parameter of a callback (RFC 9207 section 2.4): it must be ours where it is
    /// there, and must be there where the issuer says that it always is.
    pub async fn check_issuer(&self, iss: Option<&str>) -> Result<(), Error> {
        let is_ours = match iss {
            Some(iss) => iss == self.issuer(),
            None => !self.metadata().await?.promises_iss,
        };
        is_ours.then_some(()).ok_or(Error::OtherIssuer)
    }

    /// Exchanges the code of a callback, and verifies who it is for.
    pub async fn exchange(
        &self,
        code: &str,
        verifier: &Secret,
        nonce: &Secret,
    ) -> Result<(Tokens, Identity), Error> {
        let protocol = self.protocol().await?;
        let (inner, now) = (&self.0, self.0.clock.now());
        let tokens = token_endpoint::exchange(&protocol, &inner.http, code, verifier, now).await;
        let tokens = counted(Step::Exchange, tokens)?;
        let id_token = tokens.id_token.as_ref();
        let id_token = id_token.ok_or(Error::InvalidIdToken("there is none"))?;
        let claims = self.verify(id_token).await?;
        let config = &inner.config;
        let account =
            claims.account(&config.issuer, &config.client_id, nonce, inner.clock.now())?;
        let number = if claims.number.are_told() {
            claims.number.verified()?
        } else {
            let told = self.user_info(&tokens.access, &claims.sub).await?;
            told.number.verified()?
        };
        Ok((tokens, Identity { account, number }))
    }

    /// New tokens for a refresh token. [`Error::InvalidGrant`] is decisive: the consent is gone.
    pub async fn refresh(&self, refresh: &Secret) -> Result<Tokens, Error> {
        let protocol = self.protocol().await?;
        let now = self.0.clock.now();
        let tokens = token_endpoint::refresh(&protocol, &self.0.http, refresh, now).await;
        let mut tokens = counted(Step::Refresh, tokens)?;
        // RFC 6749 section 6: without a new one the old one stays valid.
        tokens.refresh.get_or_insert_with(|| refresh.clone());
        Ok(tokens)
    }

    /// The service's own access token (client credentials). It is cached and renewed before it
    /// ends; who waits for a renewal shares its outcome.
    pub async fn client_token(&self) -> Result<Secret, Error> {
        let now = self.0.clock.now();
        let fetch = || async {
            let (protocol, inner) = (self.protocol().await?, &self.0);
            let scopes = &inner.config.client_scopes;
            let tokens =
                token_endpoint::client_credentials(&protocol, &inner.http, scopes, now).await;
            let tokens = counted(Step::ClientToken, tokens)?;
            let life_ms = tokens.expires_at.as_millis() - now.as_millis();
            let before_ms = RENEW_BEFORE_MS.min(life_ms / 5);
            Ok(ClientToken {
                access: tokens.access,
                renew_at: tokens.expires_at.plus_millis(-before_ms),
                expires_at: tokens.expires_at,
            })
        };
        let cached = &self.0.client_token;
        let token = cached.get(
            |token| now < token.renew_at,
            |token| now < token.expires_at,
            fetch,
        );
        Ok(token.await?.access)
    }

    /// Forgets the cached client token where it still is `token`: a server refused it.
    pub async fn reject_client_token(&self, token: &Secret) {
        let cached = &self.0.client_token;
        cached.forget(|cached| cached.access == *token).await;
    }

    /// Revokes a refresh or access token (RFC 7009). Without a revocation endpoint it does nothing.
    pub async fn revoke(&self, token: &Secret) -> Result<(), Error> {
        const STEP: Step = Step::Revocation;
        let metadata = self.metadata().await?;
        let Some(url) = &metadata.revocation else {
            return Ok(());
        };
        let mut form = vec![("token", token.expose())];
        let config = &self.0.config;
        let mut basic = None;
        match &config.client_secret {
            Some(secret) if !metadata.secret_in_body => {
                basic = Some(basic_credentials(&config.client_id, secret));
            }
            secret => {
                form.push(("client_id", &config.client_id));
                form.extend(
                    secret
                        .iter()
                        .map(|secret| ("client_secret", secret.expose())),
                );
            }
        }
        let request = post(STEP, url, &form, basic)?;
        let answer = self.0.http.send(request).await;
        let outcome = match answer.map_err(|fault| fault.at(STEP)) {
            Ok(answer) if answer.status() == StatusCode::OK => Ok(()),
            Ok(answer) => Err(http::refused(STEP, answer.status())),
            Err(error) => Err(error),
        };
        counted(STEP, outcome)
    }

    /// A link at which the subscriber of `token` revokes his consent, and which sends him to
    /// `redirect_to` with `state` afterwards. `None` where `revoke_consent_endpoint` is not set.
    pub async fn revoke_consent_link(
        &self,
        token: &Secret,
        redirect_to: &Url,
        state: &str,
    ) -> Result<Option<Url>, Error> {
        const STEP: Step = Step::RevokeConsent;
        let Some(endpoint) = &self.0.config.revoke_consent_endpoint else {
            return Ok(None);
        };
        let endpoint =
            config::read_url(endpoint).map_err(|_| Error::NoEndpoint("revoke_consent_endpoint"))?;
        let form = [
            ("token", token.expose()),
            ("redirectTo", redirect_to.as_str()),
            ("state", state),
        ];
        let ours = self.client_token().await?;
        let request = post(STEP, &endpoint, &form, Some(bearer(&ours)))?;
        let link = counted(STEP, self.0.http.json::<Link>(STEP, request).await);
        if matches!(&link, Err(Error::Refused { .. })) {
            self.reject_client_token(&ours).await;
        }
        // The browser is sent there: nowhere but to the web.
        let url = config::read_url(&link?.redirect_to).map_err(|_| Error::Nonsense {
            step: STEP,
            what: "its link is no https:// URL",
        })?;
        Ok(Some(url))
    }

    /// Where a browser signs out at the identity server (OpenID Connect RP-Initiated Logout), which
    /// sends it to `back_to` afterwards. `None` where it has no such place, or is not known now.
    pub async fn sign_out_url(&self, back_to: &Url) -> Option<Url> {
        let mut url = self.metadata().await.ok()?.end_session.clone()?;
        url.query_pairs_mut()
            .append_pair("client_id", &self.0.config.client_id)
            .append_pair("post_logout_redirect_uri", back_to.as_str());
        Some(url)
    }

    /// The endpoints, from the settings or the discovery document.
    pub(crate) async fn metadata(&self) -> Result<Arc<Metadata>, Error> {
        let (inner, now) = (&self.0, self.0.clock.now());
        let fetch = || async {
            let config = &inner.config;
            if !config.is_discovered() {
                return Metadata::configured(config, now).map(Arc::new);
            }
            let url = metadata::document_url(&config.issuer);
            let request = get(Step::Discovery, &url, None)?;
            let document = inner.http.json(Step::Discovery, request).await;
            let document = counted(Step::Discovery, document)?;
            Metadata::discovered(config, document, now).map(Arc::new)
        };
        let metadata = &inner.metadata;
        metadata
            .get(
                |known| known.is_fresh(now),
                |known| known.is_usable(now),
                fetch,
            )
            .await
    }

    /// The keys that verify ID tokens; new ones where `is_enough` does not hold for the cached.
    pub(crate) async fn keys(
        &self,
        is_enough: impl Fn(&Arc<KeySet>) -> bool,
    ) -> Result<Arc<KeySet>, Error> {
        let (inner, now) = (&self.0, self.0.clock.now());
        let fetch = || async {
            let metadata = self.metadata().await?;
            let request = get(Step::Keys, metadata.jwks.as_str(), None)?;
            let document: Result<keys::Document, _> = inner.http.json(Step::Keys, request).await;
            let document = counted(Step::Keys, document)?;
            Ok(Arc::new(KeySet::new(document, now)))
        };
        let keys = &inner.keys;
        keys.get(
            |keys| keys.is_fresh(now) && is_enough(keys),
            |_| false,
            fetch,
        )
        .await
    }

    /// Verifies the signature of an ID token. A key that is not known is asked for once.
    async fn verify(&self, id_token: &Secret) -> Result<Box<Claims>, Error> {
        let text = id_token.expose();
        if text.len() > MAX_ID_TOKEN {
            return Err(Error::InvalidIdToken("it is too long"));
        }
        let keys = self.keys(|_| true).await?;
        if let Verdict::Signed(claims) = keys.verify(text)? {
            return Ok(claims);
        }
        let now = self.0.clock.now();
        let keys = self.keys(|keys| keys.is_just_fetched(now)).await?;
        match keys.verify(text)? {
            Verdict::Signed(claims) => Ok(claims),
            Verdict::UnknownKey => Err(Error::InvalidIdToken("its key is none of the issuer's")),
        }
    }

    async fn user_info(&self, access: &Secret, subject: &str) -> Result<UserInfo, Error> {
        let metadata = self.metadata().await?;
        let url = metadata.userinfo.as_ref().ok_or(Error::NoNumber)?;
        let request = get(Step::UserInfo, url.as_str(), Some(bearer(access)))?;
        let told: Result<UserInfo, _> = self.0.http.json(Step::UserInfo, request).await;
        let told = counted(Step::UserInfo, told)?;
        // OpenID Connect Core section 5.3.2: else the claims of somebody else would be taken.
        if told.sub != subject {
            return Err(Error::InvalidIdToken(
                "its subject is not that of the claims",
            ));
        }
        Ok(told)
    }

    async fn protocol(&self) -> Result<Protocol, Error> {
        let metadata = self.metadata().await?;
        let (config, redirect_uri) = (&self.0.config, &self.0.redirect_uri);
        Ok(token_endpoint::protocol(config, &metadata, redirect_uri))
    }

    /// 256 bits of chance, as 43 characters: what RFC 7636 section 4.1 wants at least.
    fn secret(&self) -> Secret {
        let mut bytes = [0; 32];
        let mut random = self.0.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.fill_bytes(&mut bytes);
        Secret::new(URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[derive(Deserialize)]
struct Link {
    #[serde(rename = "redirectTo")]
    redirect_to: String,
}

/// RFC 6749 section 2.3.1: the name and the password are form-encoded first.
fn basic_credentials(client_id: &str, secret: &Secret) -> String {
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encoded(client_id), encoded(secret.expose()));
    let pair = base64::engine::general_purpose::STANDARD.encode(pair);
    format!("Basic {pair}")
}

fn bearer(token: &Secret) -> String {
    format!("Bearer {}", token.expose())
}

pub(crate) fn get(
    step: Step,
    url: &str,
    authorization: Option<String>,
) -> Result<HttpRequest, Error> {
    request(step, Method::GET, url, authorization, Vec::new())
}

fn post(
    step: Step,
    url: &Url,
    form: &[(&str, &str)],
    authorization: Option<String>,
) -> Result<HttpRequest, Error> {
    let body = Serializer::new(String::new()).extend_pairs(form).finish();
    request(step, Method::POST, url.as_str(), authorization, body.into())
}

fn request(
    step: Step,
    method: Method,
    url: &str,
    authorization: Option<String>,
    body: Vec<u8>,
) -> Result<HttpRequest, Error> {
    let mut builder = oauth2::http::Request::builder()
        .method(method)
        .uri(url)
        .header(header::ACCEPT, "application/json");
    if !body.is_empty() {
        builder = builder.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    if let Some(authorization) = authorization {
        builder = builder.header(header::AUTHORIZATION, authorization);
    }
    builder.body(body).map_err(|_| Error::Nonsense {
        step,
        what: "a request to its endpoint cannot be written",
    })
}

fn counted<T>(step: Step, outcome: Result<T, Error>) -> Result<T, Error> {
    let result = outcome.as_ref().map_or_else(Error::as_str, |_| "ok");
    metrics::counter!(telemetry::OAUTH_REQUESTS, "step" => step.as_str(), "result" => result)
        .increment(1);
    outcome
}
