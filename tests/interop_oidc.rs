//! An identity server that others wrote (`oidc-provider`) judges the client: the authorization code
//! flow as a browser goes through it, rotation, revocation and the service's own token.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aftertone::clock::SystemClock;
use aftertone::domain::{RegistrationState, Secret};
use aftertone::enrolment;
use aftertone::enrolment::{Callback, Enrolment, Parts};
use aftertone::mobile_core;
use aftertone::mobile_core::FakeMobileCore;
use aftertone::oauth::{Authorization, Client, Config, Error};
use aftertone::storage::sqlite::SqliteStorage;
use aftertone::vault::Vault;
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::support::peers::{self, Running};

const REDIRECT: &str = "https://voicemail.example.com/auth/callback";
const NUMBER: &str = "+4799990001";
/// Long enough for a machine that is busy with other tests.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// The server; it ends when this is forgotten.
struct Server {
    issuer: String,
    _running: Running,
}

/// Starts the server, or says why the test is skipped.
async fn start(arguments: &[&str]) -> Option<Server> {
    let node = peers::find("node")?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/oidc");
    peers::find_file(&folder.join("node_modules/oidc-provider/package.json"))?;
    let mut child = Command::new(node)
        .arg(folder.join("server.mjs"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a program that is installed starts");
    let output = child.stdout.take().unwrap();
    let running = Running(Some(child));
    let first_line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).map(|_| line)
    });
    let line = tokio::time::timeout(START_DEADLINE, first_line).await;
    let issuer = line.expect("it starts in time").unwrap().unwrap();
    assert!(issuer.starts_with("http://127.0.0.1:"), "it did not start");
    Some(Server {
        issuer: issuer.trim().to_owned(),
        _running: running,
    })
}

impl Server {
    fn config(&self) -> Config {
        Config {
            issuer: self.issuer.clone(),
            client_id: "aftertone".into(),
            client_secret: Some(Secret::new("a secret: with %, + and &")),
            ..Config::default()
        }
    }

    fn client(&self) -> Client {
        let redirect = Url::parse(REDIRECT).unwrap();
        Client::new(&self.config(), redirect, Arc::new(SystemClock), [3; 32]).unwrap()
    }
}

/// As much of a browser as a sign-in needs: cookies, redirects, and the form of a page.
struct Browser {
    http: reqwest::Client,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    fn new() -> Self {
        let http = reqwest::Client::builder().redirect(Policy::none());
        Self {
            http: http.timeout(START_DEADLINE).build().unwrap(),
            cookies: BTreeMap::new(),
        }
    }

    /// Goes where the identity server leads, signs in as `login` and consents, or aborts; back come
    /// the parameters of the callback.
    async fn sign_in(
        &mut self,
        begun: &Url,
        login: &str,
        consents: bool,
    ) -> HashMap<String, String> {
        let mut request = self.http.get(begun.clone());
        let mut at = begun.clone();
        // A handful of redirects and two pages; a server that leads in a circle fails the test.
        for _ in 0..20 {
            let cookies: Vec<_> = self
                .cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let response = request
                .header(COOKIE, cookies.join("; "))
                .send()
                .await
                .unwrap();
            for cookie in response.headers().get_all(SET_COOKIE) {
                let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
                let (name, value) = cookie.split_once('=').unwrap();
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
            if let Some(location) = response.headers().get(LOCATION) {
                at = at.join(location.to_str().unwrap()).unwrap();
                if at.as_str().starts_with(REDIRECT) {
                    return at.query_pairs().into_owned().collect();
                }
                request = self.http.get(at.clone());
                continue;
            }
            let status = response.status();
            let page = response.text().await.unwrap();
            assert!(status.is_success(), "{at}: {status}\n{page}");
            if consents {
                let form = [
                    ("prompt", prompt_of(&page)),
                    ("login", login),
                    ("password", "x"),
                ];
                request = self.http.post(link(&page, "action=\"")).form(&form);
            } else {
                request = self.http.get(link(&page, "<a href=\""));
            }
        }
        panic!("the identity server never came back to us");
    }
}

fn prompt_of(page: &str) -> &'static str {
    let is_login = page.contains("name=\"prompt\" value=\"login\"");
    if is_login { "login" } else { "consent" }
}

fn link(page: &str, before: &str) -> Url {
    let (_, rest) = page
        .split_once(before)
        .expect("the page has a form and a way out");
    Url::parse(rest.split_once('"').unwrap().0).unwrap()
}

/// Signs in up to the callback.
async fn callback(
    client: &Client,
    login: &str,
    consents: bool,
) -> (Authorization, HashMap<String, String>) {
    let begun = client.authorize().await.unwrap();
    let back = Browser::new().sign_in(&begun.url, login, consents).await;
    assert_eq!(back["state"], begun.state.expose());
    client
        .check_issuer(back.get("iss").map(String::as_str))
        .await
        .unwrap();
    (begun, back)
}

#[tokio::test]
async fn a_subscriber_signs_in_and_his_tokens_are_rotated_and_revoked() {
    // The number is told at /userinfo in the first round, and in the ID token in the second.
    for arguments in [&[][..], &["claims-in-id-token"]] {
        let Some(server) = start(arguments).await else {
            return;
        };
        let client = server.client();
        let (begun, back) = callback(&client, NUMBER, true).await;
        let exchanged = client
            .exchange(&back["code"], &begun.verifier, &begun.nonce)
            .await;
        let (tokens, identity) = exchanged.unwrap();
        assert_eq!(identity.number.e164(), NUMBER);
        assert_eq!(identity.account.issuer, server.issuer);
        assert_eq!(
            identity.account.subject.len(),
            64,
            "the subject is pairwise"
        );

        let first = tokens
            .refresh
            .expect("offline_access gives a refresh token");
        let second = client.refresh(&first).await.unwrap().refresh.unwrap();
        assert_ne!(first, second, "it is rotated");
        client.revoke(&second).await.unwrap();
        let revoked = client.refresh(&second).await;
        assert!(matches!(revoked, Err(Error::InvalidGrant)), "{revoked:?}");
    }
}

#[tokio::test]
async fn a_code_is_good_once_and_only_with_its_verifier() {
    let Some(server) = start(&[]).await else {
        return;
    };
    let client = server.client();
    let (begun, back) = callback(&client, NUMBER, true).await;
    let stolen = client
        .exchange(&back["code"], &Secret::new("x".repeat(43)), &begun.nonce)
        .await;
    assert!(matches!(stolen, Err(Error::InvalidGrant)), "{stolen:?}");

    let (begun, back) = callback(&client, NUMBER, true).await;
    let other = client
        .exchange(&back["code"], &begun.verifier, &Secret::new("other"))
        .await;
    assert!(
        matches!(other, Err(Error::InvalidIdToken("it has another nonce"))),
        "{other:?}"
    );
    let replayed = client
        .exchange(&back["code"], &begun.verifier, &begun.nonce)
        .await;
    assert!(matches!(replayed, Err(Error::InvalidGrant)), "{replayed:?}");
}

#[tokio::test]
async fn who_says_no_or_has_no_verified_number_does_not_come_in() {
    let Some(server) = start(&[]).await else {
        return;
    };
    let client = server.client();
    let (_, back) = callback(&client, NUMBER, false).await;
    let refused = Error::of_callback(&back["error"]);
    assert!(matches!(refused, Error::ConsentDenied), "{back:?}");

    for (login, fault) in [
        ("unverified +4799990001", "not verified"),
        ("99990001", "no usable"),
    ] {
        let (begun, back) = callback(&client, login, true).await;
        let refused = client
            .exchange(&back["code"], &begun.verifier, &begun.nonce)
            .await;
        let shown = refused.unwrap_err().to_string();
        assert!(shown.contains(fault), "{login}: {shown}");
    }
}

#[tokio::test]
async fn the_number_of_who_consents_is_registered_with_his_token() {
    let Some(server) = start(&[]).await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/aftertone.db", dir.path().display());
    let core = Arc::new(FakeMobileCore::new());
    let stop = CancellationToken::new();
    let parts = Parts {
        config: enrolment::Config::default(),
        storage: Arc::new(SqliteStorage::open(&url).await.unwrap()),
        vault: Arc::new(Vault::from_keys(&[[5; 32]]).unwrap()),
        oauth: Some(server.client()),
        core: Some(core.clone()),
        consents: None,
        core_config: mobile_core::Config::default(),
        sip_uri: Some("sips:voicemail.example.com".into()),
        left_url: Url::parse("https://voicemail.example.com/left").unwrap(),
        language: "en".into(),
        clock: Arc::new(SystemClock),
        seed: [6; 32],
    };
    let enrolment = Enrolment::start(parts, &TaskTracker::new(), &stop);
    let begun = enrolment.begin().await.unwrap();
    let mut back = Browser::new().sign_in(&begun.url, NUMBER, true).await;
    let callback = Callback {
        code: back.remove("code"),
        state: back.remove("state"),
        error: None,
        iss: back.remove("iss"),
    };
    let signed_in = enrolment.complete(&begun.pending, callback).await.unwrap();
    stop.cancel();
    assert_eq!(signed_in.subscriber.number.e164(), NUMBER);
    let registration = signed_in.registration.unwrap();
    assert_eq!(registration.state, RegistrationState::Active);
    assert_eq!(core.asked().len(), 1);
}

#[tokio::test]
async fn the_service_has_a_token_of_its_own_and_finds_everything_it_needs() {
    let Some(server) = start(&[]).await else {
        return;
    };
    let client = server.client();
    let token = client.client_token().await.unwrap();
    assert_eq!(client.client_token().await.unwrap(), token);
    let reached = client.reach(true).await;
    assert!(reached.iter().all(|one| one.found.is_ok()), "{reached:?}");
    assert!(
        client
            .sign_out_url(&Url::parse(REDIRECT).unwrap())
            .await
            .is_some()
    );

    let wrong = Config {
        client_secret: Some(Secret::new("wrong")),
        ..server.config()
    };
    let redirect = Url::parse(REDIRECT).unwrap();
    let client = Client::new(&wrong, redirect, Arc::new(SystemClock), [4; 32]).unwrap();
    let refused = client.client_token().await.unwrap_err();
    assert!(refused.to_string().contains("invalid_client"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_uri_that_is_not_registered_is_noticed_before_anybody_signs_in() {
    let Some(server) = start(&[]).await else {
        return;
    };
    let told = |reached: Vec<aftertone::oauth::Reached>| {
        let mut of_client = reached.into_iter();
        let found = of_client.find(|one| one.setting == "oauth.client_id");
        found.unwrap().found
    };
    assert!(told(server.client().reach(false).await).is_ok());
    let elsewhere = Url::parse("https://elsewhere.example.com/auth/callback").unwrap();
    let client = Client::new(&server.config(), elsewhere, Arc::new(SystemClock), [3; 32]).unwrap();
    let fault = told(client.reach(false).await);
    assert!(matches!(fault, Err(Error::Refused { .. })), "{fault:?}");
}
