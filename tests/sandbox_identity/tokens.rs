//! The endpoints that clients call.

use std::process::Command;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};

use crate::peers;
use crate::stand::{BACK, NUMBER, OTHER_BACK, Person, SCOPES, Stand, Tokens, VERIFIER};
use crate::stand::{json as send, param, text};

/// The claims of an ID token, verified as a client does it.
async fn verified(stand: &Stand, token: &str) -> Value {
    let keys = stand.look("/.well-known/jwks.json").await;
    let keys: JwkSet = serde_json::from_value(keys).unwrap();
    let kid = decode_header(token).unwrap().kid.unwrap();
    let key = DecodingKey::from_jwk(keys.find(&kid).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&["aftertone"]);
    validation.set_issuer(&[stand.sandbox.issuer()]);
    decode(token, &key, &validation).unwrap().claims
}

#[tokio::test]
async fn discovery_names_the_vendors_paths_under_the_issuer() {
    let stand = Stand::start().await;
    let found = stand.look("/.well-known/openid-configuration").await;
    assert_eq!(found["issuer"], stand.sandbox.issuer());
    for (name, path) in [
        ("authorization_endpoint", "/oauth2/auth"),
        ("token_endpoint", "/oauth2/token"),
        ("revocation_endpoint", "/oauth2/revoke"),
        ("userinfo_endpoint", "/userinfo"),
        ("end_session_endpoint", "/oauth2/sessions/logout"),
        ("jwks_uri", "/.well-known/jwks.json"),
    ] {
        assert_eq!(found[name], stand.url(path), "{name}");
    }
    let keys = stand.look("/.well-known/jwks.json").await;
    let key = &keys["keys"][0];
    assert_eq!(
        (&key["kty"], &key["alg"], &key["use"]),
        (&json!("RSA"), &json!("RS256"), &json!("sig"))
    );
    assert_eq!(key["e"], "AQAB");
    assert!(key.get("d").is_none(), "{keys}");
}

#[tokio::test]
async fn the_id_token_says_who_it_is_and_for_whom() {
    let stand = Stand::start().await;
    let (_, tokens) = stand.enrolled().await;
    let claims = verified(&stand, &tokens.id).await;
    assert_eq!(claims["aud"], "aftertone");
    assert_eq!(claims["nonce"], "no-1");
    assert_eq!(claims["phone_number"], NUMBER);
    assert_eq!(claims["phone_number_verified"], true);
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        3600
    );
    let (status, person) = stand.userinfo(&tokens.access).await;
    assert_eq!(status, 200);
    assert_eq!(person["sub"], claims["sub"]);
    assert_eq!(person["phone_number"], NUMBER);

    let request = stand.request(&[("client_id", "other"), ("redirect_uri", OTHER_BACK)]);
    let back = Person::new(&stand).sign_in(&request, NUMBER).await;
    let code = param(&back, "code").unwrap();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", OTHER_BACK),
        ("code_verifier", VERIFIER),
    ];
    let request = stand.http.post(stand.url("/oauth2/token")).form(&form);
    let (_, body) = send(request.basic_auth("other", Some("other%20secret"))).await;
    let (_, same) = stand.userinfo(&text(&body, "access_token")).await;
    assert_ne!(
        same["sub"], claims["sub"],
        "each client knows him by another name"
    );
}

#[tokio::test]
async fn without_openid_and_offline_access_there_is_neither_id_token_nor_refresh_token() {
    let stand = Stand::start().await;
    let request = stand.request(&[
        ("scope", "call.routing:write"),
        ("code_challenge", ""),
        ("code_challenge_method", ""),
        ("state", ""),
    ]);
    let back = Person::new(&stand).sign_in(&request, NUMBER).await;
    assert_eq!(param(&back, "state"), None);
    let code = param(&back, "code").unwrap();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", BACK),
    ];
    let (status, body) = stand.token(&form).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["scope"], "call.routing:write");
    assert_eq!(body.get("id_token"), None);
    assert_eq!(body.get("refresh_token"), None);
    let (status, body) = stand.userinfo(&text(&body, "access_token")).await;
    assert_eq!(
        (status.as_u16(), text(&body, "error").as_str()),
        (403, "insufficient_scope")
    );
}

#[tokio::test]
async fn a_code_that_comes_again_ends_what_was_issued_for_it() {
    let stand = Stand::start().await;
    let back = Person::new(&stand)
        .sign_in(&stand.request(&[]), NUMBER)
        .await;
    let code = param(&back, "code").unwrap();
    let (_, body) = stand.redeem(&code).await;
    let tokens = Tokens::of(&body);
    assert_eq!(stand.userinfo(&tokens.access).await.0, 200);
    let (status, body) = stand.redeem(&code).await;
    assert_eq!(
        (status.as_u16(), text(&body, "error").as_str()),
        (400, "invalid_grant")
    );
    assert_eq!(stand.userinfo(&tokens.access).await.0, 401);
    assert_eq!(stand.refresh(&tokens.refresh).await.0, 400);
}

#[tokio::test]
async fn a_code_is_refused_late_elsewhere_and_without_its_verifier() {
    let stand = Stand::start().await;
    let mut person = Person::new(&stand);
    person.sign_in(&stand.request(&[]), NUMBER).await;
    let mut refused = async |redirect_uri: &str, verifier: &str, wait_ms: i64| {
        let page = person.open(&stand.request(&[])).await;
        let code = param(&page.location().parse().unwrap(), "code").unwrap();
        stand.clock.advance_ms(wait_ms);
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        let (status, body) = stand.token(&form).await;
        status != 200 && body["error"] == "invalid_grant"
    };
    assert!(!refused(BACK, VERIFIER, 59_000).await);
    assert!(refused(BACK, VERIFIER, 60_000).await);
    assert!(refused("http://127.0.0.1:8080/", VERIFIER, 0).await);
    assert!(refused(BACK, "", 0).await);
    assert!(refused(BACK, &VERIFIER.replace('d', "e"), 0).await);
}

#[tokio::test]
async fn a_refresh_token_is_replaced_by_its_use_and_its_second_use_ends_all() {
    let stand = Stand::start().await;
    let (_, first) = stand.enrolled().await;
    let (status, body) = stand.refresh(&first.refresh).await;
    assert_eq!(status, 200, "{body}");
    let second = Tokens::of(&body);
    assert_ne!(second.refresh, first.refresh);
    let claims = verified(&stand, &second.id).await;
    assert_eq!(claims["sub"], verified(&stand, &first.id).await["sub"]);
    assert_eq!(claims.get("nonce"), None);
    assert_eq!(stand.userinfo(&second.access).await.0, 200);
    let (status, body) = stand.refresh(&first.refresh).await;
    assert_eq!(
        (status.as_u16(), text(&body, "error").as_str()),
        (400, "invalid_grant")
    );
    assert_eq!(stand.userinfo(&second.access).await.0, 401);
    assert_eq!(stand.refresh(&second.refresh).await.0, 400);
}

#[tokio::test]
async fn an_access_token_ends_after_its_hour() {
    let stand = Stand::start().await;
    let (_, tokens) = stand.enrolled().await;
    stand.clock.advance_ms(3_599_000);
    assert_eq!(stand.userinfo(&tokens.access).await.0, 200);
    stand.clock.advance_ms(1_000);
    let request = stand.http.get(stand.url("/userinfo"));
    let response = request.bearer_auth(&tokens.access).send().await.unwrap();
    assert_eq!(response.status(), 401);
    let challenge = response.headers()[header::WWW_AUTHENTICATE].to_str();
    assert!(challenge.unwrap().contains("invalid_token"));
}

#[tokio::test]
async fn a_client_has_a_token_of_its_own_for_what_is_no_persons_affair() {
    let stand = Stand::start().await;
    let token = async |scope: &str| {
        let form = [("grant_type", "client_credentials"), ("scope", scope)];
        stand.token(&form).await
    };
    let (status, body) = token("call.routing:write").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["scope"], "call.routing:write");
    assert_eq!(body.get("refresh_token"), None);
    assert_eq!(stand.userinfo(&text(&body, "access_token")).await.0, 403);
    for scope in ["openid", "phone", SCOPES, "gold"] {
        let (status, body) = token(scope).await;
        assert_eq!(status, 400);
        assert_eq!(body["error"], "invalid_scope", "{scope}");
    }
}

#[tokio::test]
async fn clients_and_requests_that_are_not_in_order_are_told_what_is_wrong() {
    let stand = Stand::start().await;
    let (_, tokens) = stand.enrolled().await;
    let refresh = [
        ("grant_type", "refresh_token"),
        ("refresh_token", tokens.refresh.as_str()),
    ];
    let endpoint = || stand.http.post(stand.url("/oauth2/token"));
    for (id, secret) in [
        ("aftertone", "wrong"),
        ("nobody", "sandbox-secret"),
        ("", ""),
    ] {
        let request = endpoint().form(&refresh).basic_auth(id, Some(secret));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 401);
        let challenge = response.headers()[header::WWW_AUTHENTICATE].to_str();
        assert!(challenge.unwrap().starts_with("Basic "));
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"], "invalid_client");
    }
    let in_body = [
        ("client_id", "aftertone"),
        ("client_secret", "sandbox-secret"),
    ];
    let (status, _) = send(endpoint().form(&[&refresh[..], &in_body[..]].concat())).await;
    assert_eq!(status, 401, "Basic is the only way");
    let foreign = endpoint().form(&refresh);
    let (_, body) = send(foreign.basic_auth("other", Some("other%20secret"))).await;
    assert_eq!(body["error"], "invalid_grant", "it is another client's");
    for (form, error) in [
        (vec![], "invalid_request"),
        (vec![("grant_type", "password")], "unsupported_grant_type"),
        (
            vec![("grant_type", "authorization_code")],
            "invalid_request",
        ),
        (vec![refresh[0], refresh[0], refresh[1]], "invalid_request"),
    ] {
        let (status, body) = stand.token(&form).await;
        assert_eq!(
            (status, &body["error"]),
            (StatusCode::BAD_REQUEST, &json!(error)),
            "{form:?}"
        );
    }
    let typed = endpoint().json(&json!({ "grant_type": "client_credentials" }));
    let (status, _) = send(typed.basic_auth("aftertone", Some("sandbox-secret"))).await;
    assert_eq!(status, 400);
    assert_eq!(
        stand.refresh(&tokens.refresh).await.0,
        200,
        "none of it used the token"
    );
}

#[tokio::test]
async fn a_revoked_token_is_good_for_nothing_and_only_its_client_revokes_it() {
    let stand = Stand::start().await;
    let (_, tokens) = stand.enrolled().await;
    let revoke = async |token: &str, id: &str, secret: &str| {
        let form = [("token", token), ("token_type_hint", "refresh_token")];
        let request = stand.http.post(stand.url("/oauth2/revoke")).form(&form);
        send(request.basic_auth(id, Some(secret))).await.0
    };
    assert_eq!(revoke(&tokens.refresh, "aftertone", "no").await, 401);
    assert_eq!(
        revoke(&tokens.refresh, "other", "other%20secret").await,
        400
    );
    assert_eq!(revoke("unknown", "aftertone", "sandbox-secret").await, 200);
    assert_eq!(stand.userinfo(&tokens.access).await.0, 200);
    assert_eq!(
        revoke(&tokens.refresh, "aftertone", "sandbox-secret").await,
        200
    );
    assert_eq!(stand.userinfo(&tokens.access).await.0, 401);
    assert_eq!(stand.refresh(&tokens.refresh).await.0, 400);
    assert_eq!(
        revoke(&tokens.refresh, "aftertone", "sandbox-secret").await,
        200
    );
}

#[tokio::test]
async fn a_new_key_signs_from_now_on_and_the_old_one_is_still_shown() {
    let stand = Stand::start().await;
    let (_, before) = stand.enrolled().await;
    let old = decode_header(&before.id).unwrap().kid;
    let (status, rotated) = stand.tell("/sandbox/rotate-keys", json!({})).await;
    assert_eq!(status, 200);
    let (_, body) = stand.refresh(&before.refresh).await;
    let after = Tokens::of(&body);
    let new = decode_header(&after.id).unwrap().kid;
    assert_ne!(new, old);
    assert_eq!(new.as_deref(), rotated["kid"].as_str());
    verified(&stand, &before.id).await;
    verified(&stand, &after.id).await;
    for _ in 0..3 {
        stand.tell("/sandbox/rotate-keys", json!({})).await;
    }
    let keys = stand.look("/.well-known/jwks.json").await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_token_endpoint_that_is_to_be_out_of_order_is() {
    let stand = Stand::start().await;
    let (_, tokens) = stand.enrolled().await;
    let mode = json!({ "mode": "identity-unavailable", "on": true, "seconds": 60 });
    stand.tell("/sandbox/modes", mode).await;
    assert_eq!(stand.refresh(&tokens.refresh).await.0, 503);
    stand.clock.advance_ms(60_000);
    assert_eq!(stand.refresh(&tokens.refresh).await.0, 200);
    let mode = json!({ "mode": "expired-token", "number": NUMBER, "on": true });
    stand.tell("/sandbox/modes", mode).await;
    assert_eq!(stand.userinfo(&tokens.access).await.0, 401);
}

#[tokio::test]
async fn curl_has_a_token_of_the_client() {
    let Some(curl) = peers::find("curl") else {
        return;
    };
    let stand = Stand::start().await;
    let mut command = Command::new(curl);
    command
        .args([
            "--silent",
            "--show-error",
            "--include",
            "--user",
            "aftertone:sandbox-secret",
        ])
        .args(["--data", "grant_type=client_credentials"])
        .arg(stand.url("/oauth2/token"));
    let output = peers::run(command, Duration::from_secs(20)).await;
    let answer = String::from_utf8(output.stdout).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(head.to_lowercase().contains("cache-control: no-store"));
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&body["token_type"], &body["expires_in"]),
        (&json!("bearer"), &json!(3600))
    );
}
