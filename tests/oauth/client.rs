//! Requests to the identity server: tokens, and a server that is down, slow or broken.

use std::time::Duration;

use aftertone::domain::Secret;
use aftertone::oauth::{Client, Config, Error, Step, Tokens};
use serde_json::json;
use url::Url;

use crate::issuer::{Issuer, NUMBER, REDIRECT, START, Trouble};

async fn signed_in(issuer: &Issuer, client: &Client) -> Tokens {
    let begun = client.authorize().await.unwrap();
    let callback = issuer.authorize(&begun.url);
    let exchanged = client.exchange(&callback["code"], &begun.verifier, &begun.nonce);
    exchanged.await.unwrap().0
}

#[tokio::test]
async fn requests_may_be_made_from_any_task() {
    fn is_send<T: Send>(_: T) {}
    let issuer = Issuer::start().await;
    let client = issuer.client();
    let (secret, url) = (Secret::new("x"), Url::parse(REDIRECT).unwrap());
    is_send(client.authorize());
    is_send(client.exchange("code", &secret, &secret));
    is_send(client.refresh(&secret));
    is_send(client.client_token());
    is_send(client.revoke(&secret));
    is_send(client.revoke_consent_link(&secret, &url, "state"));
    is_send(client.reach(true));
}

#[tokio::test]
async fn a_sign_in_gives_tokens_and_a_code_works_once() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    let begun = client.authorize().await.unwrap();
    let callback = issuer.authorize(&begun.url);
    assert_eq!(callback["state"], begun.state.expose());
    client.check_issuer(Some(&callback["iss"])).await.unwrap();

    let code = &callback["code"];
    let (tokens, identity) = client
        .exchange(code, &begun.verifier, &begun.nonce)
        .await
        .unwrap();
    assert_eq!(identity.number.e164(), NUMBER);
    assert_eq!(tokens.expires_at, START.plus_millis(3_600_000));
    assert!(tokens.refresh.is_some() && tokens.id_token.is_some());
    assert_eq!(tokens.scopes, None);

    let replayed = client.exchange(code, &begun.verifier, &begun.nonce).await;
    assert!(matches!(replayed, Err(Error::InvalidGrant)), "{replayed:?}");
    assert_eq!(issuer.asked("/.well-known/openid-configuration"), 1);
}

#[tokio::test]
async fn an_answer_of_another_issuer_is_refused_and_a_missing_name_where_it_was_promised() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    for iss in [Some("https://evil.example"), Some(""), None] {
        let refused = client.check_issuer(iss).await;
        assert!(matches!(refused, Err(Error::OtherIssuer)), "{iss:?}");
    }
    issuer.lie(|world| {
        world.discovery = json!({"authorization_response_iss_parameter_supported": null});
    });
    assert!(issuer.client().check_issuer(None).await.is_ok());
}

#[tokio::test]
async fn a_rotated_refresh_token_is_handed_over_and_its_old_one_is_gone() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    let first = signed_in(&issuer, &client).await.refresh.unwrap();
    let second = client.refresh(&first).await.unwrap().refresh.unwrap();
    assert_ne!(first, second);
    let again = client.refresh(&first).await;
    assert!(matches!(again, Err(Error::InvalidGrant)), "{again:?}");
    assert!(!again.unwrap_err().is_transient());

    issuer.lie(|world| world.rotates = false);
    let kept = client.refresh(&second).await.unwrap();
    assert_eq!(
        kept.refresh,
        Some(second),
        "without a new one the old one stays"
    );
}

#[tokio::test]
async fn a_revoked_token_is_of_no_use_any_more() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    let token = signed_in(&issuer, &client).await.refresh.unwrap();
    client.revoke(&token).await.unwrap();
    assert!(matches!(
        client.refresh(&token).await,
        Err(Error::InvalidGrant)
    ));

    issuer.lie(|world| world.discovery = json!({"revocation_endpoint": null}));
    issuer.client().revoke(&token).await.unwrap();
    assert_eq!(issuer.asked("/revoke"), 1, "there is nobody to ask");
}

#[tokio::test]
async fn our_own_token_is_kept_renewed_before_its_end_and_forgotten_when_refused() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    let first = client.client_token().await.unwrap();
    assert_eq!(client.client_token().await.unwrap(), first);
    issuer.clock.advance_ms(3_600_000 - 60_000);
    let second = client.client_token().await.unwrap();
    assert_ne!(first, second);

    client.reject_client_token(&first).await;
    assert_eq!(
        client.client_token().await.unwrap(),
        second,
        "that was the old one"
    );
    client.reject_client_token(&second).await;
    assert_ne!(client.client_token().await.unwrap(), second);
    assert_eq!(issuer.asked("/token"), 3);
}

#[tokio::test]
async fn our_own_token_outlives_a_short_outage() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    let token = client.client_token().await.unwrap();
    issuer.trouble("/token", Trouble::Status(503));
    issuer.clock.advance_ms(3_600_000 - 1);
    assert_eq!(client.client_token().await.unwrap(), token);
    issuer.clock.advance_ms(1);
    assert!(client.client_token().await.unwrap_err().is_transient());
}

#[tokio::test]
async fn many_who_want_our_own_token_lead_to_one_request_also_when_it_fails() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    let all = || futures_util::future::join_all((0..50).map(|_| client.client_token()));
    issuer.trouble("/token", Trouble::Status(500));
    assert!(all().await.iter().all(Result::is_err));
    assert_eq!(issuer.asked("/token"), 1);
    issuer.lie(|world| world.trouble.clear());
    assert!(all().await.iter().all(Result::is_ok));
    assert_eq!(issuer.asked("/token"), 2);
    assert_eq!(issuer.asked("/.well-known/openid-configuration"), 1);
}

#[tokio::test]
async fn a_link_to_revoke_a_consent_is_asked_for_with_our_own_token() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    let back = Url::parse("https://voicemail.example.com/left").unwrap();
    let token = Secret::new("subscriber-token");
    let link = client
        .revoke_consent_link(&token, &back, "s1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        link.as_str(),
        format!("{}/revoke-consent?ticket=1", issuer.base)
    );
    let (form, bearer) = issuer.world.lock().unwrap().link.take().unwrap();
    assert_eq!(form["token"], "subscriber-token");
    assert_eq!(form["redirectTo"], back.as_str());
    assert_eq!(form["state"], "s1");
    assert!(bearer.starts_with("Bearer access-"), "{bearer}");

    // A refused token of ours is not tried again.
    issuer.trouble("/link", Trouble::Status(401));
    let refused = client.revoke_consent_link(&token, &back, "s1").await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    issuer.lie(|world| world.trouble.clear());
    client
        .revoke_consent_link(&token, &back, "s1")
        .await
        .unwrap();
    assert_eq!(issuer.asked("/token"), 2);

    let without = Config {
        revoke_consent_endpoint: None,
        ..issuer.config()
    };
    let none = issuer
        .client_of(&without)
        .revoke_consent_link(&token, &back, "s1")
        .await;
    assert_eq!(none.unwrap(), None);
}

#[tokio::test]
async fn a_server_in_trouble_is_transient_and_a_broken_one_is_never_followed_or_read_to_its_end() {
    for (trouble, shown) in [
        (Trouble::Status(503), "did not answer"),
        (Trouble::Status(429), "did not answer"),
        (Trouble::Nonsense, "not the JSON"),
        (Trouble::Huge, "too long"),
        (Trouble::Redirect, "redirects"),
    ] {
        for path in ["/token", "/jwks", "/.well-known/openid-configuration"] {
            let issuer = Issuer::start().await;
            issuer.trouble(path, trouble);
            let client = issuer.client();
            let outcome = async {
                let begun = client.authorize().await?;
                let callback = issuer.authorize(&begun.url);
                client
                    .exchange(&callback["code"], &begun.verifier, &begun.nonce)
                    .await
            };
            let error = outcome.await.unwrap_err();
            assert!(error.is_transient(), "{path}: {error}");
            assert!(error.to_string().contains(shown), "{path}: {error}");
            assert_eq!(issuer.asked("/elsewhere"), 0);
        }
    }
}

#[tokio::test]
async fn a_server_that_never_answers_costs_the_deadline_and_no_more() {
    let issuer = Issuer::start().await;
    issuer.trouble("/token", Trouble::Silent);
    let config = Config {
        timeout_ms: 200,
        ..issuer.config()
    };
    let client = issuer.client_of(&config);
    let token = Secret::new("r");
    let refused = tokio::time::timeout(Duration::from_secs(5), client.refresh(&token));
    let error = refused.await.expect("within its deadline").unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unavailable {
                step: Step::Refresh,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_is_gone_is_transient() {
    let issuer = Issuer::start().await;
    let mut config = issuer.config();
    config.issuer = "http://127.0.0.1:9".into();
    let error = issuer.client_of(&config).authorize().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unavailable {
                step: Step::Discovery,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_discovery_document_that_grows_old_serves_through_an_outage_but_not_for_ever() {
    const PATH: &str = "/.well-known/openid-configuration";
    const HOUR_MS: i64 = 3_600_000;
    let issuer = Issuer::start().await;
    let client = issuer.client();
    client.authorize().await.unwrap();
    issuer.clock.advance_ms(HOUR_MS);
    client.authorize().await.unwrap();
    assert_eq!(issuer.asked(PATH), 2);

    issuer.trouble(PATH, Trouble::Status(502));
    issuer.clock.advance_ms(HOUR_MS);
    client.authorize().await.unwrap();
    issuer.clock.advance_ms(23 * HOUR_MS);
    assert!(client.authorize().await.unwrap_err().is_transient());
}

#[tokio::test]
async fn errors_of_the_server_are_told_by_their_code_and_never_by_its_text() {
    let issuer = Issuer::start().await;
    let wrong = Config {
        client_secret: Some(Secret::new("wrong")),
        ..issuer.config()
    };
    let error = issuer.client_of(&wrong).client_token().await.unwrap_err();
    assert!(!error.is_transient());
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("invalid_client"), "{shown}");
    assert!(
        !shown.contains("s3cret") && !shown.contains("wrong"),
        "{shown}"
    );
}

#[tokio::test]
async fn tokens_that_fit_into_no_header_are_refused() {
    for token in [
        json!({"access_token": "a\r\nX-Evil: 1"}),
        json!({"access_token": ""}),
        json!({"access_token": "x".repeat(17 * 1024)}),
        json!({"refresh_token": "a b"}),
        json!({"token_type": "mac"}),
    ] {
        let issuer = Issuer::start().await;
        issuer.lie(|world| world.token = token.clone());
        let error = issuer.client().client_token().await.unwrap_err();
        assert!(matches!(error, Error::Nonsense { .. }), "{token}: {error}");
    }
}

#[tokio::test]
async fn a_life_that_is_not_told_or_absurd_is_bounded() {
    for (told, life_ms) in [
        (json!({"expires_in": null}), 300_000),
        (
            json!({"expires_in": 9_007_199_254_740_993_u64}),
            30 * 86_400_000,
        ),
        (json!({"expires_in": 60}), 60_000),
    ] {
        let issuer = Issuer::start().await;
        issuer.lie(|world| world.token = told);
        let tokens = signed_in(&issuer, &issuer.client()).await;
        assert_eq!(tokens.expires_at, START.plus_millis(life_ms));
    }
}

#[tokio::test]
async fn no_token_is_printed() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    let begun = client.authorize().await.unwrap();
    let tokens = signed_in(&issuer, &client).await;
    let shown = format!("{tokens:?} {begun:?} {:?}", issuer.config());
    for secret in [
        tokens.access.expose(),
        tokens.refresh.as_ref().unwrap().expose(),
        tokens.id_token.as_ref().unwrap().expose(),
        begun.state.expose(),
        begun.nonce.expose(),
        begun.verifier.expose(),
        crate::issuer::SECRET,
    ] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[tokio::test]
async fn a_browser_signs_out_at_the_identity_server_and_comes_back() {
    let issuer = Issuer::start().await;
    let back = Url::parse(REDIRECT).unwrap();
    let url = issuer.client().sign_out_url(&back).await.unwrap();
    let asked: Vec<_> = url.query_pairs().into_owned().collect();
    assert_eq!(url.path(), "/logout");
    assert_eq!(
        asked[1],
        ("post_logout_redirect_uri".into(), REDIRECT.into())
    );
}

#[tokio::test]
async fn what_is_reached_is_told_and_what_is_wrong_explained() {
    let issuer = Issuer::start().await;
    let reached = issuer.client().reach(true).await;
    assert!(reached.iter().all(|one| one.found.is_ok()), "{reached:?}");
    assert_eq!(reached.len(), 4);

    issuer.lie(|world| world.published.clear());
    let wrong = Config {
        client_secret: None,
        ..issuer.config()
    };
    let reached = issuer.client_of(&wrong).reach(true).await;
    let faults: Vec<String> = reached
        .iter()
        .filter_map(|one| one.found.as_ref().err())
        .map(ToString::to_string)
        .collect();
    assert!(faults[0].contains("no RS256"), "{faults:?}");
    assert!(faults[1].contains("invalid_client"), "{faults:?}");

    let nobody = Config {
        issuer: "http://127.0.0.1:9".into(),
        ..issuer.config()
    };
    let reached = issuer.client_of(&nobody).reach(true).await;
    assert_eq!(
        reached.len(),
        1,
        "what hangs on the endpoints is not said again"
    );
    assert!(reached[0].found.is_err());
}
