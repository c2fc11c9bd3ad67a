//! The sandbox's own pages and its control API.

use reqwest::header;
use serde_json::json;

use crate::stand::{NUMBER, Person, Stand};

#[tokio::test]
async fn the_overview_shows_every_number_and_lets_its_phone_be_told_what_to_do() {
    let stand = Stand::start().await;
    let mut person = Person::new(&stand);
    let page = person.open("/").await;
    assert_eq!(page.status, 200);
    for number in ["+4799990001", "+4799990007", "+4799990011"] {
        assert!(page.html.contains(number), "{number}");
    }
    let policy = page.headers[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let set = [("behaviour", "decline")];
    let first = person.submit(&page, "/pages/behaviour", &set).await;
    assert_eq!(first.location(), "/");
    let number = stand.look("/sandbox/numbers/+4799990001").await;
    assert_eq!(number["behaviour"], "decline");

    let mut stranger = Person::new(&stand);
    let forged = stranger.submit(&page, "/pages/behaviour", &set).await;
    assert_eq!(forged.status, 400);
    let dance = [("behaviour", "dance")];
    let nonsense = person.submit(&page, "/pages/behaviour", &dance).await;
    assert_eq!(nonsense.status, 400);
}

#[tokio::test]
async fn the_pages_make_the_core_misbehave_and_take_consents_back() {
    let stand = Stand::start().await;
    stand.enrolled().await;
    let mut person = Person::new(&stand);
    let page = person.open("/").await;
    assert!(
        page.html.contains("Allows Aftertone voicemail"),
        "{}",
        page.html
    );
    let set = [("lost-ack", "on"), ("media-loss", "on")];
    person.submit(&page, "/pages/modes", &set).await;
    let on = stand.look("/sandbox/modes").await;
    assert_eq!(on["on"].as_array().unwrap().len(), 2);
    assert_eq!(
        on["on"][0],
        json!({ "number": "+4799990001", "mode": "lost-ack" })
    );
    person.submit(&page, "/pages/modes", &[]).await;
    let on = stand.look("/sandbox/modes").await;
    assert_eq!(on["on"], json!([]));
    let before = stand.look("/.well-known/jwks.json").await;
    person.submit(&page, "/pages/rotate-keys", &[]).await;
    assert_ne!(stand.look("/.well-known/jwks.json").await, before);
    person.submit(&page, "/pages/revoke-consent", &[]).await;
    let consents = stand.look("/sandbox/consents").await;
    assert_eq!(consents["consents"], json!([]));
}

#[tokio::test]
async fn the_control_api_changes_what_it_is_told_and_refuses_what_a_form_of_another_site_sends() {
    let stand = Stand::start().await;
    let path = format!("/sandbox/numbers/{NUMBER}");
    let late = json!({ "behaviour": "answer-late:250" });
    let (status, number) = stand.tell(&path, late).await;
    assert_eq!(status, 200);
    assert_eq!(number["behaviour"], "answer-late:250");
    for wrong in [
        json!({ "behaviour": "dance" }),
        json!({}),
        json!({ "x": 1 }),
    ] {
        assert_eq!(stand.tell(&path, wrong).await.0, 400);
    }
    let nobody = json!({ "behaviour": "busy" });
    let (status, _) = stand.tell("/sandbox/numbers/+4700000000", nobody).await;
    assert_eq!(status, 404);
    let text = r#"{"behaviour":"busy"}"#;
    let cross_site = stand.http.post(stand.url(&path));
    let cross_site = cross_site.header(header::CONTENT_TYPE, "text/plain");
    let answer = cross_site.body(text).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let (status, _) = stand
        .tell("/sandbox/modes", json!({ "mode": "x", "on": true }))
        .await;
    assert_eq!(status, 400);
    let registrations = stand.look("/sandbox/registrations").await;
    assert_eq!(registrations, json!({ "registrations": [] }));
    assert_eq!(stand.look("/sandbox/calls").await, json!({ "calls": [] }));
    let missing = stand.http.get(stand.url("/sandbox/calls/7")).send().await;
    assert_eq!(missing.unwrap().status(), 404);
}

#[tokio::test]
async fn a_page_that_is_open_hears_of_every_change() {
    let stand = Stand::start().await;
    let request = stand.http.get(stand.url("/sandbox/events"));
    let mut events = request.send().await.unwrap();
    assert_eq!(events.headers()[header::CONTENT_TYPE], "text/event-stream");
    let path = format!("/sandbox/numbers/{NUMBER}");
    stand.tell(&path, json!({ "behaviour": "off" })).await;
    let event = tokio::time::timeout(std::time::Duration::from_secs(20), events.chunk());
    let event = event.await.unwrap().unwrap().unwrap();
    assert!(event.starts_with(b"data: changed"), "{event:?}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let stand = Stand::start().await;
    let mut person = Person::new(&stand);
    for path in ["/phone/+4700000000", "/phone/x", "/nothing"] {
        assert_eq!(person.open(path).await.status, 404, "{path}");
    }
    for path in ["/style.css", "/live.js"] {
        assert_eq!(person.open(path).await.status, 200, "{path}");
    }
}
