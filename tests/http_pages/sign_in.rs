//! From the first click to the inbox, every way not to get there, and the way out again.

use std::sync::Arc;

use aftertone::domain::{Msisdn, Subscriber};
use aftertone::enrolment::{Config, Enrolment, Parts};
use aftertone::http;
use aftertone::mobile_core;
use aftertone::mobile_core::{CoreError, FakeMobileCore};
use aftertone::storage::Storage;
use aftertone::vault::Vault;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::api::{Api, PUBLIC_URL, Response};
use crate::browser::{Browser, SESSION, assert_goes_to};
use crate::issuer::{Issuer, NUMBER, Trouble};

const PENDING: &str = "__Host-aftertone-sign-in";

/// A service with an identity server and a core.
struct World {
    api: Api,
    issuer: Issuer,
    core: Arc<FakeMobileCore>,
}

impl World {
    async fn start() -> Self {
        let issuer = Issuer::start().await;
        let core = Arc::new(FakeMobileCore::new());
        let (oauth, clock) = (issuer.client(), issuer.clock.clone());
        let parts = |storage: Arc<dyn Storage>| Parts {
            config: Config::default(),
            storage,
            vault: Arc::new(Vault::from_keys(&[[5; 32]]).unwrap()),
            oauth: Some(oauth),
            core: Some(core.clone()),
            consents: None,
            core_config: mobile_core::Config::default(),
            sip_uri: Some("sips:voicemail.example.com".into()),
            left_url: Url::parse("https://voicemail.example.com/left").unwrap(),
            language: "en".into(),
            clock: Arc::new(clock.clone()),
            seed: [6; 32],
        };
        let config = http::Config::default();
        let api = Api::at(
            PUBLIC_URL,
            config,
            clock.clone(),
            |state, storage, tasks| {
                let parts = parts(storage.clone());
                let enrolment = Enrolment::start(parts, tasks, &CancellationToken::new());
                state.with_enrolment(enrolment, &Config::default())
            },
        )
        .await;
        Self { api, issuer, core }
    }

    /// Goes to the identity server, where the subscriber consents; the way back.
    async fn consent(&self, browser: &mut Browser) -> String {
        let begun = browser.get("/enrol").await;
        assert_eq!(begun.status, 303);
        let there = Url::parse(begun.header("location").unwrap()).unwrap();
        let mut back = Url::parse("https://voicemail.example.com/auth/callback").unwrap();
        back.query_pairs_mut()
            .extend_pairs(self.issuer.authorize(&there));
        format!("{}?{}", back.path(), back.query().unwrap())
    }

    async fn sign_in(&self, browser: &mut Browser) -> Response {
        let back = self.consent(browser).await;
        browser.get(&back).await
    }

    async fn subscriber(&self) -> Option<Subscriber> {
        let number = Msisdn::parse(NUMBER).unwrap();
        let found = self.api.storage.subscriber_by_number(&number).await;
        found.unwrap()
    }
}

#[tokio::test]
async fn who_signs_in_sees_at_once_what_happens_with_his_calls() {
    let world = World::start().await;
    let mut browser = Browser::new(&world.api);
    let welcome = browser.get("/").await;
    assert!(
        welcome
            .text()
            .contains("<a class=\"button\" href=\"/enrol\">Sign in</a>")
    );

    let back = world.consent(&mut browser).await;
    assert!(browser.cookies.contains_key(PENDING));
    let done = browser.get(&back).await;
    assert_goes_to(&done, "/");
    let cookie = |name: &str| {
        let set = done
            .headers
            .iter()
            .filter(|(header, _)| header == "set-cookie");
        let mut set = set.map(|(_, cookie)| cookie.as_str());
        set.find(|cookie| cookie.starts_with(&format!("{name}=")))
            .unwrap()
    };
    let secret = &browser.cookies[SESSION];
    assert!(secret.len() == 64 && secret.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(
        cookie(SESSION),
        format!("{SESSION}={secret}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax; Secure")
    );
    assert!(!browser.cookies.contains_key(PENDING), "it is used up");

    let page = browser.get("/").await;
    let text = page.text();
    assert!(
        text.contains(NUMBER) && text.contains("Calls that you do not take come here"),
        "{text}"
    );
    // 2027-01-15 08:00 UTC, and an hour of life.
    assert!(text.contains("confirmed this until today, 09:00"), "{text}");
    let me = browser.get("/api/v1/me").await.ok(200);
    let registration = &me["registration"];
    assert_eq!(
        (&registration["state"], &registration["reason"]),
        (&json!("active"), &json!(null))
    );
    let until = registration["until"].as_str().unwrap();
    assert!(until.starts_with("2027-01-15T09:00:0"), "{until}");
    // The way back leads nowhere a second time, and does no harm.
    assert_goes_to(&browser.get(&back).await, "/");
    assert_eq!(browser.get("/api/v1/me").await.status, 200);
}

#[tokio::test]
async fn a_session_that_was_there_before_is_never_the_one_after() {
    let world = World::start().await;
    let mut browser = Browser::new(&world.api);
    let planted = "ab".repeat(32);
    browser.cookies.insert(SESSION.into(), planted.clone());
    world.sign_in(&mut browser).await;
    let first = browser.cookies[SESSION].clone();
    assert_ne!(first, planted);

    // A sign-in anew makes a new session, and ends the one before.
    world.sign_in(&mut browser).await;
    assert_ne!(browser.cookies[SESSION], first);
    assert_eq!(browser.get("/api/v1/me").await.status, 200);
    for old in [planted, first] {
        browser.cookies.insert(SESSION.into(), old);
        browser.get("/api/v1/me").await.is_problem(401);
    }
}

#[tokio::test]
async fn every_refusal_is_told_on_a_page_whose_address_tells_no_secret() {
    let world = World::start().await;
    for (claims, path, status, headline) in [
        (
            json!({"phone_number_verified": false}),
            "/enrol/number-not-verified",
            403,
            "Your number is not confirmed",
        ),
        (
            json!({"phone_number": null}),
            "/enrol/no-number",
            403,
            "Your operator did not tell your number",
        ),
        (
            json!({"nonce": "of another"}),
            "/enrol/invalid-id-token",
            502,
            "Your operator&#39;s answer could not be believed",
        ),
    ] {
        world.issuer.lie(|issuer| issuer.claims = claims);
        let mut browser = Browser::new(&world.api);
        assert_goes_to(&world.sign_in(&mut browser).await, path);
        assert!(
            browser.cookies.is_empty(),
            "no session, and no sign-in under way"
        );
        let page = browser.get(path).await;
        assert_eq!(page.status, status);
        assert!(page.text().contains(headline), "{}", page.text());
        assert!(page.text().contains("href=\"/enrol\">Sign in again"));
    }
    world.issuer.lie(|issuer| issuer.claims = json!({}));
    assert_eq!(world.subscriber().await, None);

    let mut browser = Browser::new(&world.api);
    let back = world.consent(&mut browser).await;
    let denied = back.replace("code=", "error=access_denied&x=");
    assert_goes_to(&browser.get(&denied).await, "/enrol/consent-denied");
    let page = browser.get("/enrol/consent-denied").await;
    assert_eq!(page.status, 403);
    assert!(page.text().contains("You did not agree"));

    world.issuer.lie(|issuer| {
        issuer.trouble.insert("/token", Trouble::Status(503));
    });
    let down = world.sign_in(&mut browser).await;
    assert_goes_to(&down, "/enrol/issuer-unavailable");
    let page = browser.get("/enrol/issuer-unavailable").await;
    assert_eq!(page.status, 503);
    assert!(page.header("retry-after").is_some());
}

#[tokio::test]
async fn an_identity_server_that_is_down_at_the_beginning_is_told_as_well() {
    let world = World::start().await;
    world.issuer.lie(|issuer| {
        let discovery = "/.well-known/openid-configuration";
        issuer.trouble.insert(discovery, Trouble::Status(500));
    });
    let begun = Browser::new(&world.api).get("/enrol").await;
    assert_goes_to(&begun, "/enrol/issuer-unavailable");
}

#[tokio::test]
async fn a_way_back_that_this_browser_did_not_begin_signs_nobody_in() {
    let world = World::start().await;
    let (mut attacker, mut victim) = (Browser::new(&world.api), Browser::new(&world.api));
    let of_attacker = world.consent(&mut attacker).await;
    // Neither without a sign-in of its own, nor with one.
    assert_goes_to(&victim.get(&of_attacker).await, "/enrol/forged");
    world.consent(&mut victim).await;
    assert_goes_to(&victim.get(&of_attacker).await, "/enrol/forged");
    assert!(victim.cookies.is_empty());
    for nonsense in [
        "",
        "?",
        "?code=1",
        "?state=%00",
        "?code=1&code=2",
        "?state=1&state=2",
    ] {
        world.consent(&mut victim).await;
        let refused = victim.get(&format!("/auth/callback{nonsense}")).await;
        assert_goes_to(&refused, "/enrol/forged");
    }
    assert_eq!(victim.get("/enrol/forged").await.status, 400);

    let back = world.consent(&mut attacker).await;
    world.api.clock.advance_ms(600_000);
    assert_goes_to(&attacker.get(&back).await, "/enrol/expired");
    assert_eq!(world.subscriber().await, None);
}

#[tokio::test]
async fn no_request_chooses_where_it_is_sent() {
    let world = World::start().await;
    let mut browser = Browser::new(&world.api);
    let evil = "next=https%3A%2F%2Fevil.example&redirect_uri=https%3A%2F%2Fevil.example";
    let begun = browser.get(&format!("/enrol?{evil}")).await;
    let there = begun.header("location").unwrap();
    assert!(
        there.starts_with(&world.issuer.base) && !there.contains("evil"),
        "{there}"
    );
    let back = world.consent(&mut browser).await;
    assert_goes_to(&browser.get(&format!("{back}&{evil}")).await, "/");
    let page = browser.get("/auth/logout?next=https://evil.example").await;
    assert_goes_to(&browser.press(&page, "/auth/logout").await, "/");
    let lost = browser.get("//evil.example/%2e%2e").await;
    assert_eq!((lost.status, lost.header("location")), (404, None));
}

#[tokio::test]
async fn an_enrolment_is_kept_while_the_core_is_down_and_the_page_says_so() {
    let world = World::start().await;
    let down = CoreError::Unavailable("connection refused".into());
    world.core.will_answer(Err(down));
    let mut browser = Browser::new(&world.api);
    assert_goes_to(&world.sign_in(&mut browser).await, "/");
    let page = browser.get("/").await;
    assert!(
        page.text().contains("Your voicemail will be set up later"),
        "{}",
        page.text()
    );
    assert!(page.text().contains("data-waits"), "the script asks again");
    let me = browser.get("/api/v1/me").await.ok(200);
    assert_eq!(me["registration"]["state"], "refreshing");
    assert_eq!(me["registration"]["until"], json!(null));
}

#[tokio::test]
async fn a_core_that_refuses_is_quoted_and_a_sign_in_tries_again() {
    let world = World::start().await;
    let why = "sip_uri <b>unknown</b>".to_owned();
    world.core.will_answer(Err(CoreError::NotAcceptable(why)));
    let mut browser = Browser::new(&world.api);
    assert_goes_to(&world.sign_in(&mut browser).await, "/");
    let page = browser.get("/").await;
    let text = page.text();
    assert!(text.contains("refuses to send calls here"), "{text}");
    assert!(text.contains("sip_uri") && !text.contains("<b>"), "{text}");
    assert!(text.contains("href=\"/enrol\">Sign in again"), "{text}");
    let me = browser.get("/api/v1/me").await.ok(200);
    assert_eq!(me["registration"]["state"], "refused");

    world.sign_in(&mut browser).await;
    let me = browser.get("/api/v1/me").await.ok(200);
    assert_eq!(me["registration"]["state"], "active");
}

#[tokio::test]
async fn who_leaves_is_gone_and_comes_back_from_his_operator_with_a_state_that_counts_once() {
    let world = World::start().await;
    let mut browser = Browser::new(&world.api);
    world.sign_in(&mut browser).await;
    let other_device = browser.cookies.clone();
    let page = browser.get("/leave").await;
    assert!(
        page.text().contains("take back the consent"),
        "{}",
        page.text()
    );
    let refused = browser
        .request("POST", "/leave")
        .header("Sec-Fetch-Site", "cross-site");
    assert_eq!(browser.send_form(refused, "csrf=0").await.status, 403);

    let left = browser.press(&page, "/leave").await;
    assert_eq!(left.status, 200, "{}", left.text());
    let text = left.text();
    assert!(text.contains("One last step at your operator"), "{text}");
    assert!(
        text.contains("http-equiv=\"refresh\" content=\"0; url=http"),
        "{text}"
    );
    assert!(browser.cookies.is_empty());
    assert_eq!(world.subscriber().await, None);
    browser.cookies = other_device;
    browser.get("/api/v1/me").await.is_problem(401);

    let asked = world.issuer.world.lock().unwrap().link.clone();
    let (form, _) = asked.expect("a link was asked for");
    let state = &form["state"];
    assert!(form["redirectTo"].ends_with("/left"), "{form:?}");
    for (query, status, headline) in [
        ("".to_owned(), 400, "This link is not valid any more"),
        (
            "?state=guessed".to_owned(),
            400,
            "This link is not valid any more",
        ),
        (
            format!("?state={state}"),
            200,
            "your operator has your consent no more",
        ),
        (
            format!("?state={state}"),
            400,
            "This link is not valid any more",
        ),
    ] {
        let back = browser.get(&format!("/left{query}")).await;
        assert_eq!(back.status, status, "{query}");
        let text = back.text().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(headline), "{text}");
    }
}

#[tokio::test]
async fn who_leaves_while_the_identity_server_is_down_is_gone_all_the_same() {
    let world = World::start().await;
    let mut browser = Browser::new(&world.api);
    world.sign_in(&mut browser).await;
    world.issuer.lie(|issuer| {
        issuer.trouble.insert("/link", Trouble::Status(503));
    });
    let page = browser.get("/leave").await;
    let left = browser.press(&page, "/leave").await;
    assert!(
        left.text().contains("<h1>You have left</h1>"),
        "{}",
        left.text()
    );
    assert_eq!(world.subscriber().await, None);
}
