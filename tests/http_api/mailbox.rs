//! Listing, reading, marking and deleting; settings, tokens and leaving.

use std::collections::BTreeSet;

use aftertone::domain::Timestamp;
use aftertone::storage::Storage;
use serde_json::{Value, json};

use crate::support::{Api, NOW, Request};

#[tokio::test]
async fn a_subscriber_pages_through_his_messages_newest_first() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let ola = api.subscriber("+4790000002").await;
    ola.receives(b"not for Kari").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.insert(0, kari.receives(&[n; 100]).await.to_string());
    }

    let mut seen = Vec::new();
    let mut path = "/api/v1/messages?limit=2".to_owned();
    loop {
        let page = kari.get(&path).await;
        let body = page.ok(200);
        let messages = body["messages"].as_array().unwrap();
        seen.extend(
            messages
                .iter()
                .map(|m| m["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = body["next"].as_str() else {
            assert_eq!(page.header("link"), None);
            break;
        };
        assert_eq!(messages.len(), 2);
        path = format!("/api/v1/messages?limit=2&cursor={next}");
        let link = format!("<https://voicemail.example.com{path}>; rel=\"next\"");
        assert_eq!(page.header("link"), Some(link.as_str()));
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn a_message_says_everything_the_contract_promises() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let id = kari.receives(&[0; 1000]).await.to_string();
    let shown = kari.get(&format!("/api/v1/messages/{id}")).await;
    let expected = json!({
        "id": id,
        "from": "+4721000000",
        "from_name": "Ola \"the\" Caller",
        "to": "+4790000001",
        "reason": "no-answer",
        "received_at": NOW.plus_millis(1000).to_string(),
        "duration_ms": 2000,
        "size_bytes": 1000,
        "codec": null,
        "formats": ["audio/wav", "audio/ogg; codecs=opus"],
        "lost_ms": 0,
        "gaps": [],
        "setup": {
            "answered_ms": 5,
            "ice_ms": null,
            "dtls_ms": null,
            "first_rtp_in_ms": 21,
            "first_rtp_out_ms": null,
        },
        "read": false,
        "ended_by": "hang-up",
        "audio_url": format!("https://voicemail.example.com/api/v1/messages/{id}/audio"),
    });
    assert_eq!(shown.ok(200), expected);
    assert_eq!(shown.header("cache-control"), Some("no-store"));
    let listed = kari.get("/api/v1/messages").await.ok(200);
    assert_eq!(listed["messages"], json!([expected]));
}

#[tokio::test]
async fn a_message_is_marked_read_and_back_and_the_lists_follow() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let id = kari.receives(b"x").await;
    kari.receives(b"y").await;
    let path = format!("/api/v1/messages/{id}");
    let count = async |query: &str| {
        let list = kari
            .get(&format!("/api/v1/messages?unread={query}"))
            .await
            .ok(200);
        list["messages"].as_array().unwrap().len()
    };

    let before = kari.get(&path).await;
    let read = kari
        .request("PATCH", &path)
        .json(r#"{"read":true}"#)
        .send()
        .await;
    assert_eq!(read.ok(200)["read"], true);
    assert_ne!(read.header("etag"), before.header("etag"));
    assert_eq!(
        (count("true").await, count("false").await, count("").await),
        (1, 1, 2)
    );
    let me = kari.get("/api/v1/me").await.ok(200);
    assert_eq!(
        me["messages"],
        json!({"total": 2, "unread": 1, "size_bytes": 2})
    );

    let unread = kari
        .request("PATCH", &path)
        .json(r#"{"read":false}"#)
        .send()
        .await;
    assert_eq!(unread.ok(200)["read"], false);
    assert_eq!(count("true").await, 2);
}

#[tokio::test]
async fn a_change_based_on_an_old_state_is_refused() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let id = kari.receives(b"x").await;
    let path = format!("/api/v1/messages/{id}");
    let patch = async |if_match: &str| {
        let request = kari.request("PATCH", &path).header("If-Match", if_match);
        request.json(r#"{"read":true}"#).send().await
    };

    let old = kari.get(&path).await.header("etag").unwrap().to_owned();
    patch("\"something else\"").await.is_problem(412);
    patch(&format!("W/{old}")).await.is_problem(412);
    assert_eq!(kari.get(&path).await.ok(200)["read"], false);
    let new = patch(&format!("\"x\", {old}")).await;
    assert_eq!(new.ok(200)["read"], true);
    patch(&old).await.is_problem(412);
    assert_eq!(patch("*").await.status, 200);

    let has_it = kari
        .request("GET", &path)
        .header("If-None-Match", new.header("etag").unwrap());
    let answer = has_it.send().await;
    assert_eq!((answer.status, answer.body.len()), (304, 0));
    assert_eq!(answer.header("etag"), new.header("etag"));
}

#[tokio::test]
async fn somebody_elses_message_looks_exactly_like_none() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let ola = api.subscriber("+4790000002").await;
    let hers = kari.receives(b"for Kari alone").await;
    let none = "00000000000070008000000000000000";

    for (method, tail, body) in [
        ("GET", "", None),
        ("GET", "/audio", None),
        ("PATCH", "", Some(r#"{"read":true}"#)),
        ("DELETE", "", None),
    ] {
        let mut answers = Vec::new();
        for id in [&hers.to_string(), none, "no-id-at-all", "%00"] {
            let mut request = ola.request(method, &format!("/api/v1/messages/{id}{tail}"));
            if let Some(body) = body {
                request = request.header("If-Match", "\"v1\"").json(body);
            }
            let answer = request.send().await;
            answer.is_problem(404);
            let id_of_request =
                |(name, _): &(String, String)| name == "x-request-id" || name == "date";
            let mut headers = answer.headers;
            headers.retain(|header| !id_of_request(header));
            answers.push((headers, answer.body));
        }
        assert!(
            answers.windows(2).all(|pair| pair[0] == pair[1]),
            "{method} {tail}: {answers:?}"
        );
    }
    let id = hers.to_string();
    assert_eq!(
        kari.get(&format!("/api/v1/messages/{id}")).await.ok(200)["read"],
        false
    );
    let tokens = kari.get("/api/v1/tokens").await.ok(200);
    let token = tokens["tokens"][0]["id"].as_str().unwrap();
    ola.request("DELETE", &format!("/api/v1/tokens/{token}"))
        .send()
        .await
        .is_problem(404);
    assert_eq!(kari.get("/api/v1/me").await.status, 200);
}

#[tokio::test]
async fn a_deleted_message_is_gone_with_its_recording() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let path = format!("/api/v1/messages/{}", kari.receives(b"x").await);
    let deleted = kari.request("DELETE", &path).send().await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    kari.get(&path).await.is_problem(404);
    kari.get(&format!("{path}/audio")).await.is_problem(404);
    kari.request("DELETE", &path).send().await.is_problem(404);
    assert_eq!(
        api.storage
            .blobs_to_delete(Timestamp::MAX, 10)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn calls_without_a_message_are_listed_too() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let first = kari.misses_a_call().await.to_string();
    let second = kari.misses_a_call().await.to_string();
    let page = kari.get("/api/v1/missed-calls?limit=1").await;
    let body = page.ok(200);
    assert_eq!(body["missed_calls"][0]["id"], second);
    assert_eq!(body["missed_calls"][0]["from"], Value::Null);
    assert_eq!(body["missed_calls"][0]["cause"], "no-media");
    assert_eq!(body["missed_calls"][0]["failed_stage"], "ice");
    assert!(
        page.header("link")
            .unwrap()
            .contains("/api/v1/missed-calls?limit=1&cursor=")
    );
    let next = body["next"].as_str().unwrap();
    let body = kari
        .get(&format!("/api/v1/missed-calls?cursor={next}"))
        .await
        .ok(200);
    assert_eq!(body["missed_calls"][0]["id"], first);
    assert_eq!(body["next"], Value::Null);
}

#[tokio::test]
async fn queries_and_bodies_that_make_no_sense_are_refused() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    for query in [
        "limit=0",
        "limit=201",
        "limit=many",
        "limit=-1",
        "cursor=nonsense",
        "unread=maybe",
        "limit=1&limit=2",
        "cursor=%ff",
        "limit=99999999999999999999",
    ] {
        let answer = kari.get(&format!("/api/v1/messages?{query}")).await;
        answer.is_problem(400);
        assert!(answer.json()["detail"].is_string(), "{query}");
    }
    let path = format!("/api/v1/messages/{}", kari.receives(b"x").await);
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"read":1}"#,
        r#"{"read":true,"colour":"red"}"#,
        "\u{0}",
    ] {
        kari.request("PATCH", &path)
            .json(body)
            .send()
            .await
            .is_problem(400);
    }
    let text = kari
        .request("PATCH", &path)
        .body("text/plain", r#"{"read":true}"#);
    text.send().await.is_problem(415);
    let long = format!(r#"{{"read":true,"x":"{}"}}"#, "x".repeat(70_000));
    kari.request("PATCH", &path)
        .json(&long)
        .send()
        .await
        .is_problem(413);
    assert_eq!(kari.get(&path).await.ok(200)["read"], false);
}

#[tokio::test]
async fn settings_are_changed_one_by_one_and_checked() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let patch = async |body: &str| {
        kari.request("PATCH", "/api/v1/settings")
            .json(body)
            .send()
            .await
    };

    let first = kari.get("/api/v1/settings").await.ok(200);
    assert_eq!(first["time_zone"], "Europe/Oslo");
    assert_eq!(first["max_message_secs"], Value::Null);
    let changed = patch(r#"{"time_zone":"america/new_york","max_message_secs":90}"#)
        .await
        .ok(200);
    assert_eq!(changed["time_zone"], "America/New_York");
    assert_eq!(changed["max_message_secs"], 90);
    assert_eq!(changed["language"], first["language"]);
    assert_eq!(patch("{}").await.ok(200), changed);
    let reset = patch(r#"{"max_message_secs":null,"notify":false,"language":"sv"}"#)
        .await
        .ok(200);
    assert_eq!(
        reset,
        json!({"time_zone":"America/New_York","language":"sv","max_message_secs":null,"notify":false})
    );

    for wrong in [
        r#"{"time_zone":"Mars/Olympus"}"#,
        r#"{"language":"en_US!"}"#,
        r#"{"max_message_secs":1}"#,
        r#"{"notify":true,"max_message_secs":100000}"#,
    ] {
        patch(wrong).await.is_problem(422);
    }
    patch(r#"{"max_message_secs":-1}"#).await.is_problem(400);
    patch(r#"{"timezone":"UTC"}"#).await.is_problem(400);
    assert_eq!(kari.get("/api/v1/settings").await.ok(200), reset);
}

#[tokio::test]
async fn a_token_works_until_it_is_revoked_and_its_secret_is_shown_once() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let create = kari.request("POST", "/api/v1/tokens");
    let made = create
        .json(r#"{"name":"CRM","expires_in_days":30}"#)
        .send()
        .await
        .ok(201);
    let secret = made["token"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("at_") && secret.len() > 40, "{secret}");
    assert_eq!(
        made["expires_at"],
        NOW.plus_millis(30 * 86_400_000).to_string()
    );
    let with_new = async || {
        let request = Request::new(api.address, "GET", "/api/v1/tokens");
        request
            .header("Authorization", &format!("Bearer {secret}"))
            .send()
            .await
    };

    let listed = with_new().await;
    let tokens = listed.ok(200)["tokens"].as_array().unwrap().clone();
    assert_eq!(tokens.len(), 2);
    assert_eq!(tokens[1]["name"], "CRM");
    assert!(!listed.text().contains(&secret));
    let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(kari.request("DELETE", &path).send().await.status, 204);
    with_new().await.is_problem(401);
    kari.request("DELETE", &path).send().await.is_problem(404);
}

#[tokio::test]
async fn a_token_ends_at_its_time_and_there_are_not_too_many() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let create = async |body: &str| {
        kari.request("POST", "/api/v1/tokens")
            .json(body)
            .send()
            .await
    };

    let made = create(r#"{"expires_in_days":1}"#).await.ok(201);
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    let me = Request::new(api.address, "GET", "/api/v1/me").header("Authorization", &bearer);
    api.clock.advance_ms(86_400_000 - 1);
    assert_eq!(me.clone().send().await.status, 200);
    api.clock.advance_ms(1);
    me.send().await.is_problem(401);

    for wrong in [
        r#"{"expires_in_days":0}"#.to_owned(),
        format!(r#"{{"name":"{}"}}"#, "x".repeat(101)),
    ] {
        create(&wrong).await.is_problem(422);
    }
    let mut secrets = BTreeSet::new();
    for _ in 0..48 {
        let made = create("{}").await.ok(201);
        assert!(
            secrets.insert(made["token"].to_string()),
            "a secret came twice"
        );
    }
    create("{}").await.is_problem(409);
}

#[tokio::test]
async fn who_leaves_is_erased_and_others_are_not() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let ola = api.subscriber("+4790000002").await;
    kari.receives(b"x").await;
    let his = ola.receives(b"y").await;

    assert_eq!(
        kari.request("DELETE", "/api/v1/me").send().await.status,
        204
    );
    kari.get("/api/v1/me").await.is_problem(401);
    kari.request("DELETE", "/api/v1/me")
        .send()
        .await
        .is_problem(401);
    assert_eq!(
        api.storage.subscriber(kari.subscriber.id).await.unwrap(),
        None
    );
    assert_eq!(
        api.storage
            .blobs_to_delete(Timestamp::MAX, 10)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        ola.get(&format!("/api/v1/messages/{his}/audio")).await.body,
        b"y"
    );
}
