//! `/oauth2/auth` and the pages behind it.

use reqwest::header;

use crate::stand::{BACK, NUMBER, OTHER_BACK, Person, Stand, param};

#[tokio::test]
async fn a_subscriber_proves_the_number_allows_the_client_and_comes_back() {
    let stand = Stand::start().await;
    let mut person = Person::new(&stand);
    let begun = person.open(&stand.request(&[])).await;
    let before = person.cookie.clone();
    let page = person.open(&begun.location()).await;
    assert!(page.html.contains("Aftertone voicemail"), "{}", page.html);
    let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str();
    assert!(
        policy
            .unwrap()
            .contains("form-action 'self' http://127.0.0.1:8080;")
    );
    assert_eq!(page.headers[header::CACHE_CONTROL], "no-store");
    let sent = person.submit(&page, "/oauth2/number", &[("number", NUMBER)]);
    let page = sent.await;
    let page = person.open(&page.location()).await;
    assert!(
        !page.html.contains(&stand.pin(NUMBER).await),
        "the PIN is on the phone only"
    );
    let phone = person.open(&format!("/phone/{NUMBER}")).await;
    let pin = stand.pin(NUMBER).await;
    assert!(phone.html.contains(&pin), "{}", phone.html);
    let page = person.submit(&page, "/oauth2/pin", &[("pin", &pin)]).await;
    assert_ne!(
        person.cookie, before,
        "a cookie from before the sign-in is not the session"
    );
    let page = person.open(&page.location()).await;
    for asked in ["openid", "phone", "offline_access", "call.routing:write"] {
        assert!(
            page.html.contains(&format!("<code>{asked}</code>")),
            "{asked}"
        );
    }
    let allow = [("decision", "allow")];
    let answer = person.submit(&page, "/oauth2/consent", &allow).await;
    let back = answer.location();
    assert!(back.starts_with(BACK), "{back}");
    let back = back.parse().unwrap();
    assert_eq!(param(&back, "state").as_deref(), Some("st-1"));
    assert_eq!(param(&back, "iss").as_deref(), Some(stand.sandbox.issuer()));
    let again = person.submit(&page, "/oauth2/consent", &allow).await;
    assert_eq!(again.status, 400, "a sign-in ends once");
    let consents = stand.look("/sandbox/consents").await;
    assert_eq!(consents["consents"][0]["number"], NUMBER);
}

#[tokio::test]
async fn an_unknown_client_or_address_is_told_to_the_person_and_sent_nowhere() {
    let stand = Stand::start().await;
    for change in [
        ("client_id", "nobody"),
        ("redirect_uri", "https://evil.example/"),
        ("redirect_uri", OTHER_BACK),
        ("redirect_uri", "http://127.0.0.1:8080/auth/callback/../x"),
        ("redirect_uri", ""),
    ] {
        let page = Person::new(&stand).open(&stand.request(&[change])).await;
        assert_eq!(page.status, 400, "{change:?}");
        assert!(!page.headers.contains_key(header::LOCATION), "{change:?}");
    }
    let twice = format!("{}&redirect_uri=x", stand.request(&[]));
    let page = Person::new(&stand).open(&twice).await;
    assert_eq!(page.status, 400);
}

#[tokio::test]
async fn what_else_is_wrong_goes_back_to_the_client_with_state_and_issuer() {
    let stand = Stand::start().await;
    for (change, error) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("scope", "openid gold"), "invalid_scope"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("request", "x.y.z"), "request_not_supported"),
        (("prompt", "none"), "login_required"),
    ] {
        let page = Person::new(&stand).open(&stand.request(&[change])).await;
        let back = page.location().parse().unwrap();
        assert_eq!(param(&back, "error").as_deref(), Some(error));
        assert_eq!(param(&back, "state").as_deref(), Some("st-1"));
        assert_eq!(param(&back, "iss").as_deref(), Some(stand.sandbox.issuer()));
        assert_eq!(param(&back, "code"), None);
    }
}

#[tokio::test]
async fn who_denies_comes_back_without_a_code_and_nothing_is_allowed() {
    let stand = Stand::start().await;
    let mut person = Person::new(&stand);
    let page = person.open(&stand.request(&[])).await;
    let page = person.open(&page.location()).await;
    let sent = person.submit(&page, "/oauth2/number", &[("number", "+47 99 99 00 02")]);
    let page = sent.await;
    let page = person.open(&page.location()).await;
    let pin = stand.pin(NUMBER).await;
    let page = person.submit(&page, "/oauth2/pin", &[("pin", &pin)]).await;
    let page = person.open(&page.location()).await;
    let deny = [("decision", "deny")];
    let page = person.submit(&page, "/oauth2/consent", &deny).await;
    let back = page.location().parse().unwrap();
    assert_eq!(param(&back, "error").as_deref(), Some("access_denied"));
    assert_eq!(param(&back, "state").as_deref(), Some("st-1"));
    assert_eq!(param(&back, "code"), None);
    let consents = stand.look("/sandbox/consents").await;
    assert_eq!(consents["consents"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn who_is_signed_in_and_has_allowed_is_asked_again_only_where_the_client_wants() {
    let stand = Stand::start().await;
    let mut person = Person::new(&stand);
    person.sign_in(&stand.request(&[]), NUMBER).await;
    let leads_to = async |person: &mut Person<'_>, change: &[(&str, &str)]| {
        let page = person.open(&stand.request(change)).await;
        let to = page.location();
        to.split(['?', '&']).next().unwrap().to_owned()
    };
    assert_eq!(leads_to(&mut person, &[]).await, BACK);
    assert_eq!(leads_to(&mut person, &[("prompt", "none")]).await, BACK);
    assert_eq!(
        leads_to(&mut person, &[("prompt", "login")]).await,
        "/oauth2/number"
    );
    assert_eq!(
        leads_to(&mut person, &[("prompt", "consent")]).await,
        "/oauth2/consent"
    );
    assert_eq!(leads_to(&mut person, &[("max_age", "60")]).await, BACK);
    stand.clock.advance_ms(61_000);
    assert_eq!(
        leads_to(&mut person, &[("max_age", "60")]).await,
        "/oauth2/number"
    );
    let more = ("scope", "openid call.control.answer_and_initiate");
    assert_eq!(leads_to(&mut person, &[more]).await, "/oauth2/consent");
    let silent = stand.request(&[more, ("prompt", "none")]);
    let back = person.open(&silent).await.location().parse().unwrap();
    assert_eq!(param(&back, "error").as_deref(), Some("consent_required"));
}

#[tokio::test]
async fn a_pin_is_good_for_a_few_tries_and_minutes_and_once() {
    let stand = Stand::start().await;
    let mut person = Person::new(&stand);
    let page = person.open(&stand.request(&[])).await;
    let page = person.open(&page.location()).await;
    let number = [("number", NUMBER)];
    let page = person.submit(&page, "/oauth2/number", &number).await;
    let page = person.open(&page.location()).await;
    let first = stand.pin(NUMBER).await;
    let wrong = if first == "000000" {
        "000001"
    } else {
        "000000"
    };
    for left in ["2 tries left", "1 try left", "not good any more"] {
        let answer = person.submit(&page, "/oauth2/pin", &[("pin", wrong)]).await;
        assert_eq!(answer.status, 422);
        assert!(answer.html.contains(left), "{left}: {}", answer.html);
    }
    let late = person
        .submit(&page, "/oauth2/pin", &[("pin", &first)])
        .await;
    assert_eq!(late.status, 422, "the right one does not help any more");

    let sent = person.submit(&page, "/oauth2/number", &number).await;
    let page = person.open(&sent.location()).await;
    let second = stand.pin(NUMBER).await;
    stand.clock.advance_ms(5 * 60_000);
    let late = person
        .submit(&page, "/oauth2/pin", &[("pin", &second)])
        .await;
    assert_eq!(late.status, 422, "it is too old");

    let sent = person.submit(&page, "/oauth2/number", &number).await;
    let page = person.open(&sent.location()).await;
    let third = stand.pin(NUMBER).await;
    let right = person
        .submit(&page, "/oauth2/pin", &[("pin", &third)])
        .await;
    assert!(right.location().starts_with("/oauth2/consent"));
    let again = person
        .submit(&page, "/oauth2/pin", &[("pin", &third)])
        .await;
    assert_eq!(again.status, 400);
}

#[tokio::test]
async fn one_sign_in_sends_a_bounded_number_of_texts_and_to_numbers_of_the_network_only() {
    let stand = Stand::start().await;
    let mut person = Person::new(&stand);
    let page = person.open(&stand.request(&[])).await;
    let page = person.open(&page.location()).await;
    for wrong in ["99990002", "", "+4712345678", "<script>"] {
        let number = [("number", wrong)];
        let answer = person.submit(&page, "/oauth2/number", &number).await;
        assert_eq!(answer.status, 422, "{wrong}");
        assert!(!answer.html.contains("<script>"), "{}", answer.html);
    }
    let number = [("number", NUMBER)];
    for _ in 0..5 {
        let sent = person.submit(&page, "/oauth2/number", &number).await;
        assert_eq!(sent.status, 303);
    }
    let more = person.submit(&page, "/oauth2/number", &number).await;
    assert_eq!(more.status, 422);
    let inbox = stand.look(&format!("/sandbox/sms/{NUMBER}")).await;
    assert_eq!(inbox["messages"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn a_sign_in_goes_on_in_its_own_browser_and_from_its_own_pages_only() {
    let stand = Stand::start().await;
    let (mut person, mut thief) = (Person::new(&stand), Person::new(&stand));
    let page = person.open(&stand.request(&[])).await;
    let address = page.location();
    let page = person.open(&address).await;
    assert_eq!(thief.open(&address).await.status, 400, "no cookie");
    thief.open(&stand.request(&[])).await;
    assert_eq!(thief.open(&address).await.status, 400, "another cookie");
    let number = [("number", NUMBER)];
    let stolen = thief.submit(&page, "/oauth2/number", &number).await;
    assert_eq!(stolen.status, 400, "the form is not his");
    let flow = address.split_once("flow=").unwrap().1;
    let form = [("flow", flow), ("number", NUMBER)];
    let request = stand.http.post(stand.url("/oauth2/number")).form(&form);
    let cookie = person.cookie.clone().unwrap();
    let cross_site = request.header(header::COOKIE, cookie).send().await.unwrap();
    assert_eq!(cross_site.status(), 400, "the form token is missing");
    let inbox = stand.look(&format!("/sandbox/sms/{NUMBER}")).await;
    assert_eq!(inbox["messages"].as_array().unwrap().len(), 0);
    let consent = format!("/oauth2/consent?flow={flow}");
    let skipped = person.open(&consent).await;
    assert!(skipped.location().starts_with("/oauth2/number"));
    stand.clock.advance_ms(10 * 60_000);
    assert_eq!(person.open(&address).await.status, 400, "it is too late");
}

#[tokio::test]
async fn what_a_client_is_called_is_text_and_its_address_keeps_its_query() {
    let stand = Stand::start().await;
    let mut person = Person::new(&stand);
    let request = stand.request(&[("client_id", "other"), ("redirect_uri", OTHER_BACK)]);
    let page = person.open(&request).await;
    let page = person.open(&page.location()).await;
    assert!(page.html.contains("Other &#60;app&#62;"), "{}", page.html);
    let back = person.sign_in(&request, NUMBER).await;
    assert!(
        back.as_str()
            .starts_with("https://other.example/cb?fixed=1&code=")
    );
}

#[tokio::test]
async fn a_request_may_also_be_posted_and_goes_nowhere_else_by_that() {
    let stand = Stand::start().await;
    let request = stand.request(&[]);
    let (address, query) = request.split_once('?').unwrap();
    for body in [query.to_owned(), format!("//evil.example/\r\nX: y&{query}")] {
        let posted = stand.http.post(address).body(body);
        let posted = posted.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = posted.send().await.unwrap();
        let to = answer.headers()[header::LOCATION].to_str().unwrap();
        assert!(to.starts_with("/oauth2/auth?"), "{to}");
    }
    let posted = stand.http.post(address).body(query.to_owned()).send();
    let to = posted.await.unwrap().headers()[header::LOCATION].clone();
    let page = Person::new(&stand).open(to.to_str().unwrap()).await;
    assert!(page.location().starts_with("/oauth2/number"));
}
