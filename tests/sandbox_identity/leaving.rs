//! Taking a consent back, and signing out.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::stand::{BACK, NUMBER, Person, Stand, json as send, param, text};

const MAKE: &str = "/ext-api/v0/auth/create-revoke-consent-magic-link";
const LEFT: &str = "http://127.0.0.1:8080/left";

async fn make(stand: &Stand, bearer: &str, token: &str, to: &str) -> (StatusCode, Value) {
    let form = [("token", token), ("redirectTo", to), ("state", "bye & so")];
    let request = stand.http.post(stand.url(MAKE)).form(&form);
    send(request.bearer_auth(bearer)).await
}

#[tokio::test]
async fn a_link_takes_the_consent_back_once_and_leads_home_with_the_state() {
    let stand = Stand::start().await;
    let (mut person, tokens) = stand.enrolled().await;
    let bearer = stand.client_token().await;
    let (status, body) = make(&stand, &bearer, &tokens.refresh, LEFT).await;
    assert_eq!(status, 200, "{body}");
    let link = text(&body, "redirectTo");
    let page = person.open(&link).await;
    assert!(page.html.contains("Aftertone voicemail"), "{}", page.html);
    assert_eq!(
        stand.userinfo(&tokens.access).await.0,
        200,
        "to look does nothing"
    );
    let sure = [("decision", "revoke")];
    let forged = Person::new(&stand)
        .submit(&page, "/revoke-consent", &sure)
        .await;
    assert_eq!(forged.status, 410);
    let answer = person.submit(&page, "/revoke-consent", &sure).await;
    let back = answer.location();
    assert!(back.starts_with(LEFT), "{back}");
    let back = back.parse().unwrap();
    assert_eq!(param(&back, "state").as_deref(), Some("bye & so"));
    assert_eq!(param(&back, "error"), None);
    assert_eq!(stand.userinfo(&tokens.access).await.0, 401);
    assert_eq!(stand.refresh(&tokens.refresh).await.0, 400);
    let consents = stand.look("/sandbox/consents").await;
    assert_eq!(consents["consents"], json!([]));
    assert_eq!(person.open(&link).await.status, 410);
    let again = person.submit(&page, "/revoke-consent", &sure).await;
    assert_eq!(again.status, 410);
    let next = person.open(&stand.request(&[])).await.location();
    assert!(
        next.starts_with("/oauth2/consent"),
        "he is asked again: {next}"
    );
}

#[tokio::test]
async fn who_keeps_his_consent_comes_home_with_an_error_and_nothing_has_changed() {
    let stand = Stand::start().await;
    let (mut person, tokens) = stand.enrolled().await;
    let bearer = stand.client_token().await;
    let (_, body) = make(&stand, &bearer, &tokens.access, LEFT).await;
    let page = person.open(&text(&body, "redirectTo")).await;
    let keep = [("decision", "keep")];
    let answer = person.submit(&page, "/revoke-consent", &keep).await;
    let back = answer.location().parse().unwrap();
    assert_eq!(param(&back, "error").as_deref(), Some("access_denied"));
    assert_eq!(param(&back, "state").as_deref(), Some("bye & so"));
    assert_eq!(stand.userinfo(&tokens.access).await.0, 200);
}

#[tokio::test]
async fn a_link_is_made_for_a_client_about_its_own_subscriber_and_to_its_own_host_only() {
    let stand = Stand::start().await;
    let (mut person, tokens) = stand.enrolled().await;
    let bearer = stand.client_token().await;
    let refused = async |bearer: &str, token: &str, to: &str| {
        let (status, body) = make(&stand, bearer, token, to).await;
        assert_eq!(body.get("redirectTo"), None);
        status.as_u16()
    };
    assert_eq!(refused("nonsense", &tokens.access, LEFT).await, 401);
    assert_eq!(refused(&tokens.access, &tokens.access, LEFT).await, 403);
    assert_eq!(refused(&bearer, "nonsense", LEFT).await, 400);
    assert_eq!(refused(&bearer, &bearer, LEFT).await, 400);
    for evil in [
        "https://evil.example/",
        "http://127.0.0.1:8080@evil.example/",
        "http://127.0.0.1:80801/",
        "//evil.example/",
        "javascript:alert(1)",
        "/left",
    ] {
        assert_eq!(refused(&bearer, &tokens.access, evil).await, 400, "{evil}");
    }
    let request = stand.http.post(stand.url("/oauth2/token"));
    let request = request.basic_auth("other", Some("other%20secret"));
    let form = [("grant_type", "client_credentials")];
    let (_, body) = send(request.form(&form)).await;
    let other = text(&body, "access_token");
    assert_eq!(refused(&other, &tokens.access, LEFT).await, 400);

    let (_, body) = make(&stand, &bearer, &tokens.access, BACK).await;
    stand.clock.advance_ms(15 * 60_000);
    let late = person.open(&text(&body, "redirectTo")).await;
    assert_eq!(late.status, 410, "it is too old");
}

#[tokio::test]
async fn an_operator_takes_a_consent_back_without_asking() {
    let stand = Stand::start().await;
    let (_, tokens) = stand.enrolled().await;
    let revoke = json!({ "number": NUMBER });
    let (status, body) = stand.tell("/sandbox/revoke-consent", revoke.clone()).await;
    assert_eq!(
        (status, &body),
        (StatusCode::OK, &json!({ "revoked": true }))
    );
    assert_eq!(stand.refresh(&tokens.refresh).await.0, 400);
    let (_, body) = stand.tell("/sandbox/revoke-consent", revoke).await;
    assert_eq!(body, json!({ "revoked": false }));
}

#[tokio::test]
async fn signing_out_needs_an_id_token_of_the_person_or_his_own_yes() {
    let stand = Stand::start().await;
    let (mut person, tokens) = stand.enrolled().await;
    let home = "http://127.0.0.1:8080/";
    let logout = |hint: &str| {
        let query = [
            ("id_token_hint", hint),
            ("post_logout_redirect_uri", home),
            ("client_id", "aftertone"),
            ("state", "s"),
        ];
        let at = stand.url("/oauth2/sessions/logout");
        String::from(url::Url::parse_with_params(&at, query).unwrap())
    };
    let silently = stand.request(&[("prompt", "none")]);
    let page = person.open(&logout("forged")).await;
    assert_eq!(page.status, 200, "he is asked");
    let still = person.open(&silently).await.location();
    assert!(still.contains("code="), "{still}");
    let done = person.submit(&page, "/oauth2/sessions/logout", &[]).await;
    assert_eq!(done.location(), "http://127.0.0.1:8080/?state=s");
    let out = person.open(&silently).await.location();
    assert!(out.contains("login_required"), "{out}");

    person.sign_in(&stand.request(&[]), NUMBER).await;
    let done = person.open(&logout(&tokens.id)).await;
    assert_eq!(done.location(), "http://127.0.0.1:8080/?state=s");
    let out = person.open(&silently).await.location();
    assert!(out.contains("login_required"), "{out}");

    let elsewhere = "client_id=aftertone&post_logout_redirect_uri=https://evil.example/";
    let elsewhere = format!("/oauth2/sessions/logout?{elsewhere}");
    let page = person.open(&elsewhere).await;
    assert_eq!(page.status, 200, "to no unknown address");
}
