//! Sessions, and the requests that other sites would like a browser to make.

use aftertone::storage::Storage;

use crate::api::{Api, Holder, Request};
use crate::browser::{Browser, SESSION, assert_goes_to, form};

const SECRET: &str = "5ec2e7";
const OWN_ORIGIN: &str = "https://voicemail.example.com";

async fn unread(kari: &Holder<'_>) -> u64 {
    let me = kari.get("/api/v1/me").await.ok(200);
    me["messages"]["unread"].as_u64().unwrap()
}

#[tokio::test]
async fn a_form_counts_only_with_the_token_of_its_session_and_from_our_own_page() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let id = kari.receives(b"recording").await;
    let path = format!("/messages/{id}/read");
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    let page = browser.get("/").await;
    let good = form(page.text(), &path).unwrap();
    let mut elsewhere = Browser::signed_in(&api, &kari.subscriber, "0the7").await;
    let other = form(elsewhere.get("/").await.text(), &path).unwrap();
    assert_ne!(good, other, "each session has a token of its own");
    assert!(!page.text().contains(SECRET));

    let cut = &good[..good.len() - 1];
    for (body, field) in [
        ("csrf=", ("Sec-Fetch-Site", "same-origin")),
        (cut, ("Sec-Fetch-Site", "same-origin")),
        (other.as_str(), ("Sec-Fetch-Site", "same-origin")),
        (good.as_str(), ("Sec-Fetch-Site", "cross-site")),
        (good.as_str(), ("Sec-Fetch-Site", "same-site")),
        (good.as_str(), ("Sec-Fetch-Site", "none")),
        (good.as_str(), ("Origin", "https://evil.example")),
        (good.as_str(), ("Origin", "http://voicemail.example.com")),
    ] {
        let request = browser.request("POST", &path).header(field.0, field.1);
        let refused = browser.send_form(request, body).await;
        assert_eq!(refused.status, 403, "{body} {field:?}");
        assert!(refused.text().contains("That was not done"));
    }
    assert_eq!(unread(&kari).await, 1);

    // A browser of old says nothing of where it is; the token does.
    let request = browser.request("POST", &path);
    assert_eq!(browser.send_form(request, &good).await.status, 303);
    assert_eq!(unread(&kari).await, 0);
    // Without a session the token is worth nothing.
    let mut stranger = Browser::new(&api);
    let refused = stranger
        .send_form(stranger.request("POST", &path), &good)
        .await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("You are signed out"));
}

#[tokio::test]
async fn the_api_takes_the_cookie_for_reading_and_changes_from_our_own_pages() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let id = kari.receives(b"recording").await;
    let path = format!("/api/v1/messages/{id}");
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    let me = browser.get("/api/v1/me").await.ok(200);
    assert_eq!(me["number"], "+4799990001");

    let page = browser.get("/").await;
    let token = form(page.text(), "/auth/logout").unwrap();
    let token = token.strip_prefix("csrf=").unwrap();
    for (name, value, status) in [
        ("X-Nothing", "said", 403),
        ("Origin", "null", 403),
        ("Origin", "https://evil.example", 403),
        ("Sec-Fetch-Site", "cross-site", 403),
        ("X-CSRF-Token", SECRET, 403),
        ("X-CSRF-Token", token, 200),
        ("Origin", OWN_ORIGIN, 200),
        ("Sec-Fetch-Site", "same-origin", 200),
    ] {
        let change = browser.request("PATCH", &path).header(name, value);
        let answer = change.json(r#"{"read":true}"#).send().await;
        if status == 403 {
            answer.is_problem(403);
            assert_eq!(unread(&kari).await, 1, "{name} {value}");
        } else {
            answer.ok(200);
        }
    }
    browser
        .request("DELETE", "/api/v1/me")
        .send()
        .await
        .is_problem(403);

    // A token says who asks, whatever cookie comes along; a wrong one is not mended by a cookie.
    let ola = api.subscriber("+4799990002").await;
    let bearer = |token: &str| format!("Bearer {token}");
    let both = browser
        .request("GET", "/api/v1/me")
        .header("Authorization", &bearer(&ola.token));
    assert_eq!(both.send().await.ok(200)["number"], "+4799990002");
    let wrong = browser
        .request("GET", "/api/v1/me")
        .header("Authorization", "Bearer at_0");
    wrong.send().await.is_problem(401);
}

#[tokio::test]
async fn a_session_ends_by_signing_out_and_by_its_time() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    let stolen = browser.cookies.clone();
    // Asking is not doing, so that no link can sign anybody out.
    let page = browser.get("/auth/logout").await;
    assert!(page.text().contains("Sign out of this browser?"));
    assert_eq!(browser.get("/api/v1/me").await.status, 200);
    let refused = browser
        .request("POST", "/auth/logout")
        .header("Origin", "https://evil.example");
    assert_eq!(browser.send_form(refused, "csrf=0").await.status, 403);

    assert_goes_to(&browser.press(&page, "/auth/logout").await, "/");
    assert_eq!(browser.cookies.get(SESSION), None);
    browser.cookies = stolen;
    browser.get("/api/v1/me").await.is_problem(401);
    assert!(browser.get("/").await.text().contains("Your missed calls"));
    assert_goes_to(&browser.get("/auth/logout").await, "/");

    let mut browser = Browser::signed_in(&api, &kari.subscriber, "0the7").await;
    assert_eq!(browser.get("/api/v1/me").await.status, 200);
    api.clock.advance_ms(3_600_000);
    browser.get("/api/v1/me").await.is_problem(401);
}

#[tokio::test]
async fn what_is_no_session_of_ours_is_nobodys() {
    let api = Api::start().await;
    api.subscriber("+4799990001").await;
    for cookie in [
        format!("{SESSION}={}", "ab".repeat(32)),
        format!("{SESSION}="),
        format!("{SESSION}={}", "x".repeat(5000)),
        format!("aftertone={SECRET}"),
        "=;;=".to_owned(),
    ] {
        let request = Request::new(api.address, "GET", "/api/v1/me").header("Cookie", &cookie);
        request.send().await.is_problem(401);
    }
    let gone = api
        .storage
        .subscriber_by_session(&[0; 32], crate::api::NOW)
        .await;
    assert_eq!(gone.unwrap(), None);
}
