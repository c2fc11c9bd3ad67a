//! A sandbox in the test's own process, with a clock that the test moves, and a person in front of
//! a browser that follows nothing by itself.

use std::net::SocketAddr;
use std::sync::Arc;

use aftertone::clock::{Clock, ManualClock, SystemClock};
use aftertone::domain::Secret;
use aftertone::sandbox::{ClientConfig, Config, Sandbox};
use reqwest::{RequestBuilder, Response, StatusCode, header};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use url::Url;

/// A number whose phone is busy.
pub const NUMBER: &str = "+4799990002";
/// Where the first client wants its answers.
pub const BACK: &str = "http://127.0.0.1:8080/auth/callback";
/// Where the second does.
pub const OTHER_BACK: &str = "https://other.example/cb?fixed=1";
/// RFC 7636, appendix B.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
/// What most tests ask for.
pub const SCOPES: &str = "openid phone offline_access call.routing:write";

pub struct Stand {
    pub sandbox: Sandbox,
    pub clock: ManualClock,
    pub http: reqwest::Client,
    _stop: DropGuard,
}

/// The tokens of an answer of the token endpoint.
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    pub id: String,
}

impl Stand {
    pub async fn start() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let other = ClientConfig {
            id: "other".into(),
            secret: Secret::new("other secret"),
            name: "Other <app>".into(),
            redirect_uris: vec![OTHER_BACK.into()],
            ..ClientConfig::default()
        };
        let config = Config {
            http: any,
            grpc: any,
            sip: vec!["udp://127.0.0.1:0".parse().unwrap()],
            clients: vec![ClientConfig::default(), other],
            ..Config::default()
        };
        let clock = ManualClock::starting_at(SystemClock.now());
        let stop = CancellationToken::new();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let tasks = TaskTracker::new();
        let sandbox = Sandbox::start(&config, shared, &tasks, &stop, [7; 32]).await;
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            sandbox: sandbox.unwrap(),
            clock,
            http,
            _stop: stop.drop_guard(),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.sandbox.issuer())
    }

    /// The authorization request of the first client, with these parameters changed (`""`: left
    /// out).
    pub fn request(&self, change: &[(&str, &str)]) -> String {
        let mut params = vec![
            ("client_id", "aftertone"),
            ("redirect_uri", BACK),
            ("response_type", "code"),
            ("scope", SCOPES),
            ("state", "st-1"),
            ("nonce", "no-1"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in change {
            params.retain(|(known, _)| known != name);
            params.push((name, value));
        }
        params.retain(|(_, value)| !value.is_empty());
        Url::parse_with_params(&self.url("/oauth2/auth"), params)
            .unwrap()
            .into()
    }

    /// The token endpoint, as the first client.
    pub async fn token(&self, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let request = self.http.post(self.url("/oauth2/token")).form(form);
        json(request.basic_auth("aftertone", Some("sandbox-secret"))).await
    }

    /// Tokens for a code of [`Stand::request`].
    pub async fn redeem(&self, code: &str) -> (StatusCode, Value) {
        self.token(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", BACK),
            ("code_verifier", VERIFIER),
        ])
        .await
    }

    pub async fn refresh(&self, token: &str) -> (StatusCode, Value) {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        self.token(&form).await
    }

    /// A token of the first client itself.
    pub async fn client_token(&self) -> String {
        let (status, body) = self.token(&[("grant_type", "client_credentials")]).await;
        assert_eq!(status, 200, "{body}");
        text(&body, "access_token")
    }

    pub async fn userinfo(&self, token: &str) -> (StatusCode, Value) {
        json(self.http.get(self.url("/userinfo")).bearer_auth(token)).await
    }

    /// The control API: GET.
    pub async fn look(&self, path: &str) -> Value {
        let (status, body) = json(self.http.get(self.url(path))).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The control API: POST.
    pub async fn tell(&self, path: &str, body: Value) -> (StatusCode, Value) {
        json(self.http.post(self.url(path)).json(&body)).await
    }

    /// The PIN of the latest text message to a number.
    pub async fn pin(&self, number: &str) -> String {
        let inbox = self.look(&format!("/sandbox/sms/{number}")).await;
        let text = inbox["messages"][0]["text"].as_str().unwrap();
        text[..6].to_owned()
    }

    /// A whole sign-in of [`NUMBER`] in a new browser.
    pub async fn enrolled(&self) -> (Person<'_>, Tokens) {
        let mut person = Person::new(self);
        let back = person.sign_in(&self.request(&[]), NUMBER).await;
        let (status, body) = self.redeem(&param(&back, "code").unwrap()).await;
        assert_eq!(status, 200, "{body}");
        (person, Tokens::of(&body))
    }
}

impl Tokens {
    pub fn of(body: &Value) -> Self {
        Self {
            access: text(body, "access_token"),
            refresh: text(body, "refresh_token"),
            id: text(body, "id_token"),
        }
    }
}

/// A person with a browser of his own.
pub struct Person<'a> {
    stand: &'a Stand,
    pub cookie: Option<String>,
}

/// A page that a person sees.
pub struct Page {
    pub status: StatusCode,
    pub headers: header::HeaderMap,
    pub html: String,
}

impl<'a> Person<'a> {
    pub fn new(stand: &'a Stand) -> Self {
        Self {
            stand,
            cookie: None,
        }
    }

    /// Opens an address, ours or one that begins with the path.
    pub async fn open(&mut self, address: &str) -> Page {
        let address = self.address(address);
        let request = self.stand.http.get(address);
        self.send(request).await
    }

    /// Fills in the first form of the page that leads to `action` and sends it.
    pub async fn submit(&mut self, page: &Page, action: &str, fields: &[(&str, &str)]) -> Page {
        let mut form = page.hidden(action);
        form.extend(
            fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let address = self.address(action);
        let request = self.stand.http.post(address).form(&form);
        self.send(request).await
    }

    /// From the authorization request to the address of the client: number, PIN, consent.
    pub async fn sign_in(&mut self, request: &str, number: &str) -> Url {
        let page = self.open(request).await;
        let page = self.open(&page.location()).await;
        let number_typed = [("number", number)];
        let page = self.submit(&page, "/oauth2/number", &number_typed).await;
        let page = self.open(&page.location()).await;
        let pin = self.stand.pin(number).await;
        let page = self.submit(&page, "/oauth2/pin", &[("pin", &pin)]).await;
        let next = page.location();
        if !next.starts_with('/') {
            return next.parse().unwrap();
        }
        let page = self.open(&next).await;
        let allow = [("decision", "allow")];
        let page = self.submit(&page, "/oauth2/consent", &allow).await;
        page.location().parse().unwrap()
    }

    fn address(&self, address: &str) -> String {
        match address.starts_with('/') {
            true => self.stand.url(address),
            false => address.to_owned(),
        }
    }

    async fn send(&mut self, mut request: RequestBuilder) -> Page {
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response: Response = request.send().await.unwrap();
        if let Some(cookie) = response.headers().get(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.contains("HttpOnly; SameSite=Lax"), "{cookie}");
            self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        }
        Page {
            status: response.status(),
            headers: response.headers().clone(),
            html: response.text().await.unwrap(),
        }
    }
}

impl Page {
    /// Where it leads.
    pub fn location(&self) -> String {
        assert_eq!(self.status, 303, "{}", self.html);
        self.headers[header::LOCATION].to_str().unwrap().to_owned()
    }

    /// The hidden fields of the first form that leads to `action`.
    fn hidden(&self, action: &str) -> Vec<(String, String)> {
        let begin = format!("action=\"{action}\"");
        let form = self.html.split(&begin).nth(1);
        let form = form.unwrap_or_else(|| panic!("no form for {action} in {}", self.html));
        let form = form.split("</form>").next().unwrap();
        let inputs = form.split("<input type=\"hidden\" name=\"").skip(1);
        let fields = inputs.map(|input| {
            let mut parts = input.split('"');
            let name = parts.next().unwrap().to_owned();
            (name, parts.nth(1).unwrap().replace("&#38;", "&"))
        });
        fields.collect()
    }
}

/// Sends it: status and JSON.
pub async fn json(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let body = response.text().await.unwrap();
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// A parameter of an address.
pub fn param(url: &Url, name: &str) -> Option<String> {
    let mut pairs = url.query_pairs();
    pairs.find_map(|(known, value)| (known == name).then(|| value.into_owned()))
}

/// A text of an answer.
pub fn text(body: &Value, name: &str) -> String {
    let text = body[name].as_str();
    text.unwrap_or_else(|| panic!("no {name} in {body}"))
        .to_owned()
}
