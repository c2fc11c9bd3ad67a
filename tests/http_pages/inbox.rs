//! What a subscriber sees and does, without script.

use aftertone::domain::{AudioFormat, Caller, Gap, Losses, Msisdn, Private, StoredAudio};
use aftertone::storage::Storage;

use crate::api::{Api, Request, Response, SOON};
use crate::browser::{Browser, assert_goes_to};

const SECRET: &str = "5ec2e7";

#[track_caller]
fn is_page(response: &Response, status: u16, headline: &str) {
    assert_eq!(response.status, status, "{response:?}");
    let text = response.text();
    assert!(text.contains(&format!("<h1>{headline}</h1>")), "{text}");
    assert!(text.contains("<html lang=\"en\">"), "{text}");
    assert!(text.contains("name=\"viewport\""), "{text}");
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(response.header(name), Some(value));
    }
    let policy = response.header("content-security-policy").unwrap();
    for directive in [
        "default-src 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(directive), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    // What the policy forbids is not there either.
    for forbidden in ["<style", " style=", "javascript:", " onclick=", "<script>"] {
        assert!(!text.contains(forbidden), "{forbidden}: {text}");
    }
}

#[tokio::test]
async fn a_stranger_is_told_what_this_is_and_sees_nobodys_messages() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let id = kari.receives(b"recording").await;
    let page = Browser::new(&api).get("/").await;
    is_page(&page, 200, "Your missed calls, kept and ready to play");
    assert!(!page.text().contains(&id.to_string()));
    assert!(page.text().contains("Signing in is not set up here"));
    assert!(!page.text().contains("<form"));
}

#[tokio::test]
async fn the_inbox_shows_the_own_messages_in_the_own_time_and_escapes_what_callers_send() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let ola = api.subscriber("+4799990002").await;
    let others = ola.receives(b"for Ola").await;
    let hostile = "</bdi><script>alert(1)</script>\"><img src=x onerror=alert(2)>";
    let caller = Caller {
        number: Some(Msisdn::parse("+4721000000").unwrap()),
        name: Some(Private(hostile.into())),
    };
    let first = kari.receives_from(caller, b"first").await;
    let second = kari.receives_from(Caller::default(), b"second").await;
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    let page = browser.get("/").await;
    assert_eq!(page.status, 200);
    let text = page.text();
    assert!(
        !text.contains("<script>") && !text.contains("<img src=x"),
        "{text}"
    );
    assert!(text.contains("&#60;script&#62;alert(1)"), "{text}");
    assert!(
        text.contains("(2) Messages") && text.contains("2 new messages."),
        "{text}"
    );
    assert!(
        text.contains("+4799990001") && text.contains("tel:+4721000000"),
        "{text}"
    );
    assert!(
        !text.contains(&others.to_string()),
        "a message of somebody else"
    );
    let place = |id: &str| text.find(&format!("id=\"m-{id}\"")).unwrap();
    assert!(place(&second.to_string()) < place(&first.to_string()));
    let player =
        format!("<source src=\"/api/v1/messages/{first}/audio?format=wav\" type=\"audio/wav\">");
    assert!(text.contains(&player), "{text}");
    // 03:04 UTC is 04:04 in Oslo.
    assert!(
        text.contains("Today, 04:04</time> · 2 s · You did not answer"),
        "{text}"
    );
    assert!(text.contains("Number withheld") && text.contains("All times are Oslo time."));
    assert!(
        text.contains("Calls that you do not take come here"),
        "{text}"
    );

    // The player asks with the cookie alone.
    let audio = format!("/api/v1/messages/{first}/audio");
    let range = browser.request("GET", &audio).header("Range", "bytes=1-2");
    let part = range.send().await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"ir"[..]));
}

#[tokio::test]
async fn a_recording_that_lies_as_opus_is_offered_so_and_as_wav() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let audio = StoredAudio {
        format: AudioFormat::OggOpus,
        codec: Some("opus".into()),
        sample_rate: 48_000,
        samples: 96_000,
        stored_bytes: 6,
        sha256: [1; 32],
        losses: Losses::new([Gap {
            at_ms: 100,
            duration_ms: 1_400,
        }]),
    };
    let id = kari
        .receives_audio(Caller::default(), audio, b"opaque")
        .await;
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    let page = browser.get("/").await;
    let text = page.text();
    // A browser takes the first that it can play.
    let path = format!("/api/v1/messages/{id}/audio");
    let sources = format!(
        "<source src=\"{path}?format=ogg\" type=\"audio/ogg; codecs=opus\">\n\
         <source src=\"{path}?format=wav\" type=\"audio/wav\">\n</audio>"
    );
    assert!(text.contains(&sources), "{text}");
    assert!(
        text.contains("Parts of it were lost on the way, 2 s in all."),
        "{text}"
    );
    let first = browser.request("GET", &format!("{path}?format=ogg"));
    assert_eq!(first.send().await.body, b"opaque");
}

#[tokio::test]
async fn calls_without_a_message_are_shown_with_the_reason() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    let none = browser.get("/").await;
    assert!(
        none.text()
            .contains("aria-labelledby=\"missed-head\" hidden>")
    );
    kari.misses_a_call().await;
    let page = browser.get("/").await;
    let text = page.text();
    assert!(text.contains("aria-labelledby=\"missed-head\">"), "{text}");
    assert!(text.contains("No sound could be exchanged"), "{text}");
}

#[tokio::test]
async fn messages_are_marked_and_deleted_by_forms_alone() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let ola = api.subscriber("+4799990002").await;
    let id = kari.receives(b"recording").await;
    let others = ola.receives(b"for Ola").await;
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    let is_read = async || {
        let message = api.storage.message(kari.subscriber.id, id).await.unwrap();
        message.unwrap().read
    };

    let page = browser.get("/").await;
    let marked = browser.press(&page, &format!("/messages/{id}/read")).await;
    assert_goes_to(&marked, &format!("/#m-{id}"));
    assert!(is_read().await);
    let page = browser.get("/").await;
    assert!(page.text().contains("<title>Messages"), "{}", page.text());
    assert!(page.text().contains("No new messages."));
    browser
        .press(&page, &format!("/messages/{id}/unread"))
        .await;
    assert!(!is_read().await);

    // Nobody reaches the messages of others, however well the form is made.
    let forged = page.text().replace(&id.to_string(), &others.to_string());
    let page = Response {
        body: forged.into(),
        ..page
    };
    for what in ["unread", "delete"] {
        let refused = browser
            .press(&page, &format!("/messages/{others}/{what}"))
            .await;
        is_page(&refused, 404, "This message is gone");
    }
    let untouched = api.storage.message(ola.subscriber.id, others).await;
    assert!(untouched.unwrap().is_some());

    let page = browser.get("/").await;
    let deleted = browser
        .press(&page, &format!("/messages/{id}/delete"))
        .await;
    assert_goes_to(&deleted, "/");
    let page = browser.get("/").await;
    assert!(!page.text().contains(&id.to_string()));
    assert!(page.text().contains("No messages"));
}

#[tokio::test]
async fn many_messages_are_shown_by_the_page() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let oldest = kari.receives(b"oldest").await.to_string();
    for _ in 0..50 {
        kari.receives(b"another").await;
    }
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    let page = browser.get("/").await;
    assert!(!page.text().contains(&oldest));
    let (_, link) = page.text().split_once("<a href=\"/?cursor=").unwrap();
    let cursor = link.split('"').next().unwrap();
    let older = browser.get(&format!("/?cursor={cursor}")).await;
    assert!(older.text().contains(&oldest) && older.text().contains("Newest messages"));
    let nowhere = browser.get("/?cursor=%22%3E%3Cscript%3E").await;
    is_page(&nowhere, 404, "There is nothing at this address");
}

#[tokio::test]
async fn the_time_zone_is_offered_once_and_taken_where_there_is_one() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let change = aftertone::storage::SettingsChange {
        time_zone: Some("Etc/UTC".into()),
        ..Default::default()
    };
    let changed = api.storage.change_settings(kari.subscriber.id, &change);
    changed.await.unwrap();
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    let page = browser.get("/").await;
    assert!(page.text().contains("All times are UTC."));
    let csrf = crate::browser::form(page.text(), "/time-zone").unwrap();
    for (zone, status) in [("Mars/Olympus", 400), ("Europe/Oslo", 303)] {
        let body = csrf.replace("time_zone=", &format!("time_zone={zone}"));
        let request = browser.request("POST", "/time-zone");
        assert_eq!(browser.send_form(request, &body).await.status, status);
    }
    let page = browser.get("/").await;
    assert!(page.text().contains("All times are Oslo time."));
    assert!(!page.text().contains("action=\"/time-zone\""));
}

#[tokio::test]
async fn what_pages_load_is_named_by_its_content_and_kept() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    let page = browser.get("/").await;
    for (start, media_type) in [
        ("/assets/style-", "text/css; charset=utf-8"),
        ("/assets/script-", "text/javascript; charset=utf-8"),
        ("/assets/icon-", "image/svg+xml"),
    ] {
        let at = page.text().find(start).unwrap();
        let path = page.text()[at..].split('"').next().unwrap();
        let asset = Request::new(api.address, "GET", path).send().await;
        assert_eq!(asset.status, 200, "{path}");
        assert_eq!(asset.header("content-type"), Some(media_type));
        assert!(asset.header("cache-control").unwrap().contains("immutable"));
        let etag = asset.header("etag").unwrap();
        let again = Request::new(api.address, "GET", path).header("If-None-Match", etag);
        assert_eq!(again.send().await.status, 304);
        let other = path.replace('-', "-0");
        is_page(
            &browser.get(&other).await,
            404,
            "There is nothing at this address",
        );
    }
}

#[tokio::test]
async fn a_browser_that_is_lost_gets_a_page_and_a_program_a_problem() {
    let api = Api::start().await;
    let mut browser = Browser::new(&api);
    is_page(
        &browser.get("/inbox").await,
        404,
        "There is nothing at this address",
    );
    is_page(
        &browser.get("/enrol/nonsense").await,
        404,
        "There is nothing at this address",
    );
    browser.get("/api/v1/nothing").await.is_problem(404);
    Request::new(api.address, "GET", "/inbox")
        .send()
        .await
        .is_problem(404);
    browser.request("POST", "/").send().await.is_problem(405);
}

#[tokio::test]
async fn without_an_identity_server_one_leaves_all_the_same() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    kari.receives(b"recording").await;
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    assert_goes_to(&Browser::new(&api).get("/leave").await, "/");
    let page = browser.get("/leave").await;
    is_page(&page, 200, "Leave this service?");
    assert!(page.text().contains("erased at once"), "{}", page.text());
    let left = browser.press(&page, "/leave").await;
    is_page(&left, 200, "You have left");
    assert!(browser.cookies.is_empty());
    let gone = api.storage.subscriber(kari.subscriber.id).await.unwrap();
    assert_eq!(gone, None);
    let begun = browser.get("/enrol").await;
    assert_goes_to(&begun, "/enrol/not-open");
    is_page(
        &browser.get("/enrol/not-open").await,
        404,
        "Signing in is not set up here",
    );
}

#[tokio::test]
async fn a_form_that_comes_too_slowly_or_broken_is_refused_in_words() {
    let config = aftertone::http::Config {
        body_timeout_ms: 50,
        ..Default::default()
    };
    let api = Api::with(config).await;
    let kari = api.subscriber("+4799990001").await;
    let mut browser = Browser::signed_in(&api, &kari.subscriber, SECRET).await;
    for body in ["", "x=1"] {
        let request = browser.request("POST", "/auth/logout");
        let refused = browser.send_form(request, body).await;
        is_page(&refused, 400, "That could not be read");
    }
    let slow = browser
        .request("POST", "/auth/logout")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("Content-Length", "100");
    let refused = tokio::time::timeout(SOON, slow.send()).await.unwrap();
    assert_eq!(refused.status, 400);
}
