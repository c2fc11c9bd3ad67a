//! An identity server of its own on loopback. It follows the standards as far as a client can tell,
//! until a test makes it lie.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use aftertone::clock::{Clock, ManualClock};
use aftertone::domain::{Secret, Timestamp};
use aftertone::oauth::{Client, Config};
use axum::Router;
use axum::body::Body;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt;
use url::Url;

pub(crate) const CLIENT: &str = "aftertone test";
pub(crate) const SECRET: &str = "p:w&d ü";
pub(crate) const REDIRECT: &str = "https://voicemail.example.com/auth/callback";
pub(crate) const NUMBER: &str = "+4799990001";
pub(crate) const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// How the server misbehaves at one path.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Trouble {
    Status(u16),
    /// Never answers.
    Silent,
    Nonsense,
    Huge,
    Redirect,
}

/// Who signs ID tokens, and how.
#[derive(Clone)]
pub(crate) enum Signing {
    /// The key of this index, under its own name and algorithm.
    Key(usize),
    /// The key of this index, with a header of the test's own.
    As(usize, Box<Header>),
    /// `alg: none`, without a signature.
    Nothing,
    /// HS256 with the public key's modulus as the secret.
    Hs256,
}

pub(crate) struct World {
    base: String,
    clock: ManualClock,
    /// Requests by path.
    pub(crate) asked: HashMap<String, usize>,
    pub(crate) trouble: HashMap<&'static str, Trouble>,
    /// Keys in the key set.
    pub(crate) published: Vec<usize>,
    pub(crate) signing: Signing,
    /// What replaces claims of ID tokens; null takes one out.
    pub(crate) claims: Value,
    pub(crate) user_info: Value,
    /// What replaces members of the discovery document, and of token answers.
    pub(crate) discovery: Value,
    pub(crate) token: Value,
    codes: HashMap<String, Code>,
    refresh: HashSet<String>,
    pub(crate) revoked: Vec<String>,
    pub(crate) rotates: bool,
    /// The form of the last consent link that was asked for, with its bearer token.
    pub(crate) link: Option<(HashMap<String, String>, String)>,
    made: usize,
}

struct Code {
    challenge: String,
    nonce: Option<String>,
}

/// The server, until it is dropped.
pub(crate) struct Issuer {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) clock: ManualClock,
    pub(crate) base: String,
    _alive: TaskTrackerToken,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Shared = Arc<Mutex<World>>;

impl Issuer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let clock = ManualClock::starting_at(START);
        let world = Arc::new(Mutex::new(World {
            base: base.clone(),
            clock: clock.clone(),
            asked: HashMap::new(),
            trouble: HashMap::new(),
            published: vec![0],
            signing: Signing::Key(0),
            claims: json!({}),
            user_info: json!({}),
            discovery: json!({}),
            token: json!({}),
            codes: HashMap::new(),
            refresh: HashSet::new(),
            revoked: Vec::new(),
            rotates: true,
            link: None,
            made: 0,
        }));
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .route("/userinfo", get(user_info))
            .route("/revoke", post(revoke))
            .route("/link", post(link))
            .route("/elsewhere", get(discovery))
            .with_state(world.clone());
        let tasks = TaskTracker::new();
        let server = tasks.spawn(serve(listener, app, world.clone(), tasks.clone()));
        Self {
            world,
            clock,
            base,
            _alive: tasks.token(),
            server,
        }
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            issuer: self.base.clone(),
            client_id: CLIENT.into(),
            client_secret: Some(Secret::new(SECRET)),
            revoke_consent_endpoint: Some(format!("{}/link", self.base)),
            timeout_ms: 2_000,
            ..Config::default()
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client_of(&self.config())
    }

    pub(crate) fn client_of(&self, config: &Config) -> Client {
        let redirect = Url::parse(REDIRECT).unwrap();
        Client::new(config, redirect, Arc::new(self.clock.clone()), [7; 32]).unwrap()
    }

    pub(crate) fn lie(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap());
    }

    /// Lets every request for `path` go wrong from now on.
    pub(crate) fn trouble(&self, path: &'static str, trouble: Trouble) {
        self.lie(|world| {
            world.trouble.insert(path, trouble);
        });
    }

    /// Every grant is revoked, and nobody is told.
    pub(crate) fn forget_grants(&self) {
        self.lie(|world| world.refresh.clear());
    }

    pub(crate) fn asked(&self, path: &str) -> usize {
        let world = self.world.lock().unwrap();
        world.asked.get(path).copied().unwrap_or(0)
    }

    /// What a browser does at the authorization endpoint, with a subscriber who consents: the
    /// query of the callback.
    pub(crate) fn authorize(&self, url: &Url) -> HashMap<String, String> {
        let asked: HashMap<String, String> = url.query_pairs().into_owned().collect();
        assert!(url.as_str().starts_with(&format!("{}/auth?", self.base)));
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["client_id"], CLIENT);
        assert_eq!(asked["redirect_uri"], REDIRECT);
        assert_eq!(asked["code_challenge_method"], "S256");
        assert_eq!(
            asked["scope"],
            "openid offline_access phone call.routing:write"
        );
        let mut world = self.world.lock().unwrap();
        let code = world.new_name("code");
        let made = Code {
            challenge: asked["code_challenge"].clone(),
            nonce: asked.get("nonce").cloned(),
        };
        world.codes.insert(code.clone(), made);
        let state = asked["state"].clone();
        [("code", code), ("state", state), ("iss", self.base.clone())]
            .map(|(key, value)| (key.to_owned(), value))
            .into()
    }
}

impl World {
    fn new_name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}-{}", self.made)
    }

    fn id_token(&self, nonce: Option<&String>) -> String {
        let now = self.clock.now().as_millis() / 1000;
        let mut claims = json!({
            "iss": self.base, "sub": "pairwise-1", "aud": [CLIENT], "nonce": nonce,
            "iat": now, "exp": now + 3600,
            "phone_number": NUMBER, "phone_number_verified": true,
        });
        merge(&mut claims, &self.claims);
        match &self.signing {
            Signing::Key(index) => {
                let (key, algorithm) = &keys()[*index];
                let mut header = Header::new(*algorithm);
                header.kid = Some(format!("key-{index}"));
                jsonwebtoken::encode(&header, &claims, key).unwrap()
            }
            Signing::As(index, header) => {
                jsonwebtoken::encode(header, &claims, &keys()[*index].0).unwrap()
            }
            Signing::Nothing => {
                let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
                let header = json!({"alg": "none", "typ": "JWT", "kid": "key-0"});
                format!("{}.{}.", part(&header), part(&claims))
            }
            Signing::Hs256 => {
                let public = serde_json::to_value(public_key(0)).unwrap();
                let secret = EncodingKey::from_secret(public["n"].as_str().unwrap().as_bytes());
                let mut header = Header::new(Algorithm::HS256);
                header.kid = Some("key-0".into());
                jsonwebtoken::encode(&header, &claims, &secret).unwrap()
            }
        }
    }
}

/// Keys 0 and 1 are RSA, 2 is on P-256.
fn keys() -> &'static [(EncodingKey, Algorithm)] {
    static KEYS: OnceLock<Vec<(EncodingKey, Algorithm)>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let rsa = || {
            let size = rcgen::RsaKeySize::_2048;
            let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
            // PKCS #8 wraps the PKCS #1 key, which is what is wanted, in 26 bytes.
            let der = pair.serialize_der();
            (EncodingKey::from_rsa_der(&der[26..]), Algorithm::RS256)
        };
        let ec = rcgen::KeyPair::generate().unwrap().serialize_der();
        vec![
            rsa(),
            rsa(),
            (EncodingKey::from_ec_der(&ec), Algorithm::ES256),
        ]
    })
}

fn public_key(index: usize) -> Jwk {
    let (key, algorithm) = &keys()[index];
    let mut jwk = Jwk::from_encoding_key(key, *algorithm).unwrap();
    jwk.common.key_id = Some(format!("key-{index}"));
    jwk
}

fn merge(value: &mut Value, changes: &Value) {
    let members = value.as_object_mut().unwrap();
    for (key, change) in changes.as_object().unwrap() {
        if change.is_null() {
            members.remove(key);
        } else {
            members.insert(key.clone(), change.clone());
        }
    }
}

async fn serve(listener: TcpListener, app: Router, world: Shared, tasks: TaskTracker) {
    while let Ok((stream, _)) = listener.accept().await {
        let (app, world) = (app.clone(), world.clone());
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            answer(app.clone(), world.clone(), request.map(Body::new))
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        tasks.spawn(async move { drop(serving.await) });
    }
}

async fn answer(
    app: Router,
    world: Shared,
    request: Request<Body>,
) -> Result<Response, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    let trouble = {
        let mut world = world.lock().unwrap();
        *world.asked.entry(path.clone()).or_default() += 1;
        world.trouble.get(path.as_str()).copied()
    };
    Ok(match trouble {
        None => app.oneshot(request).await?,
        Some(Trouble::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Trouble::Silent) => std::future::pending().await,
        Some(Trouble::Nonsense) => "<html>Welcome to the hotel Wi-Fi!".into_response(),
        Some(Trouble::Huge) => "x".repeat(1 << 20).into_response(),
        Some(Trouble::Redirect) => {
            (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response()
        }
    })
}

async fn discovery(State(world): State<Shared>) -> Response {
    let world = world.lock().unwrap();
    let base = &world.base;
    let mut document = json!({
        "issuer": base,
        "authorization_endpoint": format!("{base}/auth"),
        "token_endpoint": format!("{base}/token"),
        "jwks_uri": format!("{base}/jwks"),
        "userinfo_endpoint": format!("{base}/userinfo"),
        "revocation_endpoint": format!("{base}/revoke"),
        "end_session_endpoint": format!("{base}/logout"),
        "authorization_response_iss_parameter_supported": true,
    });
    merge(&mut document, &world.discovery);
    axum::Json(document).into_response()
}

async fn jwks(State(world): State<Shared>) -> Response {
    let world = world.lock().unwrap();
    let mut keys: Vec<Value> = world
        .published
        .iter()
        .map(|index| json!(public_key(*index)))
        .collect();
    // What a client does not understand must not hide the rest.
    keys.insert(
        0,
        json!({"kty": "AKP", "alg": "ML-DSA-44", "kid": "post-quantum", "pub": "AA"}),
    );
    keys.insert(0, json!({"kty": "oct", "kid": "key-0", "k": "AAAA"}));
    axum::Json(json!({"keys": keys})).into_response()
}

fn refuse(status: StatusCode, code: &str) -> Response {
    let body = json!({"error": code, "error_description": "seen: token s3cret"});
    (status, axum::Json(body)).into_response()
}

fn is_our_client(headers: &HeaderMap) -> bool {
    // Form-encoded by RFC 6749 section 2.3.1, written out.
    let expected = format!(
        "Basic {}",
        STANDARD.encode("aftertone+test:p%3Aw%26d+%C3%BC")
    );
    headers
        .get(header::AUTHORIZATION)
        .is_some_and(|value| value == expected.as_str())
}

async fn token(
    State(world): State<Shared>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let mut world = world.lock().unwrap();
    if !is_our_client(&headers) {
        return refuse(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    let mut answer = json!({"token_type": "bearer", "expires_in": 3600});
    match form["grant_type"].as_str() {
        "authorization_code" => {
            let code = world.codes.remove(&form["code"]);
            let verified = URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
            let Some(code) = code.filter(|code| {
                code.challenge == verified
                    && form.get("redirect_uri").is_some_and(|uri| uri == REDIRECT)
            }) else {
                return refuse(StatusCode::BAD_REQUEST, "invalid_grant");
            };
            answer["id_token"] = json!(world.id_token(code.nonce.as_ref()));
            answer["refresh_token"] = json!(world.new_name("refresh"));
        }
        "refresh_token" => {
            if !world.refresh.remove(&form["refresh_token"]) {
                return refuse(StatusCode::BAD_REQUEST, "invalid_grant");
            }
            if world.rotates {
                answer["refresh_token"] = json!(world.new_name("refresh"));
            } else {
                world.refresh.insert(form["refresh_token"].clone());
            }
        }
        "client_credentials" => answer["scope"] = json!(form["scope"]),
        _ => return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type"),
    }
    if let Some(refresh) = answer["refresh_token"].as_str() {
        world.refresh.insert(refresh.to_owned());
    }
    answer["access_token"] = json!(world.new_name("access"));
    let changes = world.token.clone();
    merge(&mut answer, &changes);
    axum::Json(answer).into_response()
}

async fn user_info(State(world): State<Shared>, headers: HeaderMap) -> Response {
    let world = world.lock().unwrap();
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    if !bearer.is_some_and(|bearer| bearer.starts_with("Bearer access-")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut told = json!({"sub": "pairwise-1"});
    merge(&mut told, &world.user_info);
    axum::Json(told).into_response()
}

async fn revoke(
    State(world): State<Shared>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let mut world = world.lock().unwrap();
    if !is_our_client(&headers) {
        return refuse(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    world.refresh.remove(&form["token"]);
    world.revoked.push(form["token"].clone());
    StatusCode::OK.into_response()
}

async fn link(
    State(world): State<Shared>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let mut world = world.lock().unwrap();
    let bearer = headers[header::AUTHORIZATION].to_str().unwrap().to_owned();
    world.link = Some((form, bearer));
    let to = format!("{}/revoke-consent?ticket=1", world.base);
    axum::Json(json!({"redirectTo": to})).into_response()
}
