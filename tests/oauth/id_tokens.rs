//! Which ID tokens are believed.

use aftertone::domain::Secret;
use aftertone::oauth::{Authorization, Client, Error, Identity};
use jsonwebtoken::{Algorithm, Header};
use serde_json::json;

use crate::issuer::{Issuer, NUMBER, Signing, Trouble, World};

/// Signs in up to the exchange.
async fn sign_in(issuer: &Issuer, client: &Client) -> Result<Identity, Error> {
    let begun = client.authorize().await.unwrap();
    let callback = issuer.authorize(&begun.url);
    let exchanged = client
        .exchange(&callback["code"], &begun.verifier, &begun.nonce)
        .await;
    exchanged.map(|(_, identity)| identity)
}

/// Signs in at an issuer that lies.
async fn refusal(change: impl FnOnce(&mut World)) -> String {
    let issuer = Issuer::start().await;
    issuer.lie(change);
    let error = sign_in(&issuer, &issuer.client())
        .await
        .expect_err("the sign-in is refused");
    error.to_string()
}

#[tokio::test]
async fn each_allowed_algorithm_is_believed() {
    let issuer = Issuer::start().await;
    issuer.lie(|world| world.published = vec![0, 2]);
    let client = issuer.client();
    for signing in [Signing::Key(0), Signing::Key(2)] {
        issuer.lie(|world| world.signing = signing);
        let identity = sign_in(&issuer, &client).await.unwrap();
        assert_eq!(identity.number.e164(), NUMBER);
        assert_eq!(identity.account.issuer, issuer.base);
        assert_eq!(identity.account.subject, "pairwise-1");
    }
    issuer.lie(|world| world.signing = Signing::As(0, Box::new(Header::new(Algorithm::RS256))));
    assert!(
        sign_in(&issuer, &client).await.is_ok(),
        "without kid every key that fits is tried"
    );
}

#[tokio::test]
async fn a_token_without_signature_is_refused() {
    let refusal = refusal(|world| world.signing = Signing::Nothing).await;
    assert!(refusal.contains("header cannot be read"), "{refusal}");
}

#[tokio::test]
async fn a_token_signed_with_the_public_key_as_a_password_is_refused() {
    let refusal = refusal(|world| world.signing = Signing::Hs256).await;
    assert!(refusal.contains("algorithm is not allowed"), "{refusal}");
}

#[tokio::test]
async fn an_algorithm_other_than_the_keys_is_refused() {
    for algorithm in [Algorithm::RS512, Algorithm::PS512] {
        let mut header = Header::new(algorithm);
        header.kid = Some("key-0".into());
        let refusal = refusal(|world| world.signing = Signing::As(0, Box::new(header))).await;
        assert!(refusal.contains("algorithm is not allowed"), "{refusal}");
    }
}

#[tokio::test]
async fn another_key_under_a_known_name_is_refused() {
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some("key-0".into());
    let refusal = refusal(|world| world.signing = Signing::As(1, Box::new(header))).await;
    assert!(refusal.contains("signature is wrong"), "{refusal}");
}

#[tokio::test]
async fn a_critical_extension_that_is_not_understood_is_refused() {
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some("key-0".into());
    header.crit = Some(vec!["exp".into()]);
    let refusal = refusal(|world| world.signing = Signing::As(0, Box::new(header))).await;
    assert!(refusal.contains("extension"), "{refusal}");
}

#[tokio::test]
async fn claims_that_are_not_ours_or_not_now_are_refused() {
    for (claims, reason) in [
        (json!({"iss": "https://evil.example"}), "another issuer"),
        (json!({"aud": "another-client"}), "for another client"),
        (json!({"azp": "another-client"}), "issued to another client"),
        (json!({"exp": 1_799_990_000}), "expired"),
        (json!({"iat": 1_799_990_000}), "not issued just now"),
        (json!({"nonce": "of another sign-in"}), "another nonce"),
        (json!({"nonce": null}), "another nonce"),
        (json!({"sub": null}), "claims cannot be read"),
        (json!({"exp": "tomorrow"}), "claims cannot be read"),
        (
            json!({"phone_number_verified": false}),
            "not verified the telephone number",
        ),
        (
            json!({"phone_number": "99990001"}),
            "no usable telephone number",
        ),
    ] {
        let refusal = refusal(|world| world.claims = claims.clone()).await;
        assert!(refusal.contains(reason), "{claims}: {refusal}");
    }
}

#[tokio::test]
async fn a_number_that_the_id_token_lacks_is_asked_for_and_must_be_of_the_same_subscriber() {
    let lacking = json!({"phone_number": null, "phone_number_verified": null});
    let told = json!({"phone_number": "+4799990002", "phone_number_verified": true});
    let issuer = Issuer::start().await;
    issuer.lie(|world| {
        world.claims = lacking.clone();
        world.user_info = told.clone();
    });
    let identity = sign_in(&issuer, &issuer.client()).await.unwrap();
    assert_eq!(identity.number.e164(), "+4799990002");

    let of_another = refusal(|world| {
        world.claims = lacking.clone();
        world.user_info = told.clone();
        world.user_info["sub"] = json!("pairwise-2");
    });
    let of_another = of_another.await;
    assert!(of_another.contains("subject"), "{of_another}");

    let nowhere = refusal(|world| world.claims = lacking.clone()).await;
    assert!(nowhere.contains("no usable telephone number"), "{nowhere}");
    let no_place = refusal(|world| {
        world.claims = lacking;
        world.discovery = json!({"userinfo_endpoint": null});
    });
    let no_place = no_place.await;
    assert!(
        no_place.contains("no usable telephone number"),
        "{no_place}"
    );
}

#[tokio::test]
async fn an_answer_without_id_token_is_refused() {
    let refusal = refusal(|world| world.token = json!({"id_token": null})).await;
    assert!(refusal.contains("there is none"), "{refusal}");
    let refusal = self::refusal(|world| world.token = json!({"id_token": "a.b.c"})).await;
    assert!(refusal.contains("header cannot be read"), "{refusal}");
}

#[tokio::test]
async fn rotated_keys_are_fetched_once_and_the_sign_in_goes_on() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    sign_in(&issuer, &client).await.unwrap();
    sign_in(&issuer, &client).await.unwrap();
    assert_eq!(issuer.asked("/jwks"), 1, "keys are kept");

    issuer.lie(|world| {
        world.published = vec![1];
        world.signing = Signing::Key(1);
    });
    issuer.clock.advance_ms(31_000);
    sign_in(&issuer, &client).await.unwrap();
    sign_in(&issuer, &client).await.unwrap();
    assert_eq!(issuer.asked("/jwks"), 2);

    issuer.lie(|world| world.signing = Signing::Key(0));
    let error = sign_in(&issuer, &client).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidIdToken("its key is none of the issuer's")
        ),
        "a withdrawn key has ended: {error}"
    );
}

#[tokio::test]
async fn a_flood_of_unknown_keys_does_not_hammer_the_issuer() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    sign_in(&issuer, &client).await.unwrap();
    issuer.clock.advance_ms(31_000);
    for forged in 0..20 {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(format!("forged-{forged}"));
        issuer.lie(|world| world.signing = Signing::As(1, Box::new(header)));
        let error = sign_in(&issuer, &client).await.unwrap_err();
        assert!(matches!(error, Error::InvalidIdToken(_)), "{error}");
    }
    assert_eq!(
        issuer.asked("/jwks"),
        2,
        "one at the start, one for all the forged"
    );
}

#[tokio::test]
async fn keys_are_fetched_anew_after_an_hour_and_not_believed_longer() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    sign_in(&issuer, &client).await.unwrap();
    issuer.clock.advance_ms(3_600_000);
    issuer.trouble("/jwks", Trouble::Status(503));
    let error = sign_in(&issuer, &client).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    issuer.lie(|world| world.trouble.clear());
    sign_in(&issuer, &client).await.unwrap();
    assert_eq!(issuer.asked("/jwks"), 3);
}

#[tokio::test]
async fn a_code_of_another_sign_in_is_refused_by_its_verifier_and_its_nonce() {
    let issuer = Issuer::start().await;
    let client = issuer.client();
    let [mine, theirs]: [Authorization; 2] = [
        client.authorize().await.unwrap(),
        client.authorize().await.unwrap(),
    ];
    assert_ne!(mine.state, theirs.state);
    assert_ne!(mine.nonce, theirs.nonce);
    assert_ne!(mine.verifier, theirs.verifier);

    let injected = issuer.authorize(&theirs.url);
    let error = client
        .exchange(&injected["code"], &mine.verifier, &mine.nonce)
        .await;
    assert!(matches!(error, Err(Error::InvalidGrant)), "PKCE: {error:?}");

    let injected = issuer.authorize(&theirs.url);
    let error = client
        .exchange(&injected["code"], &theirs.verifier, &mine.nonce)
        .await;
    assert!(
        matches!(error, Err(Error::InvalidIdToken("it has another nonce"))),
        "{error:?}"
    );
    let error = client
        .exchange("no such code", &mine.verifier, &Secret::new(""))
        .await;
    assert!(matches!(error, Err(Error::InvalidGrant)), "{error:?}");
}
