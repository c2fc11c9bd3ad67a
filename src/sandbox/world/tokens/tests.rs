use super::*;
use crate::sandbox::world::{Chance, Changes};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// RFC 7636, appendix B.
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const BACK: &str = "http://127.0.0.1/back";

fn tokens() -> Tokens {
    let config = Config {
        access_token_secs: 100,
        refresh_token_secs: 1000,
        ..Config::default()
    };
    let chance = Arc::new(Chance::from_seed([1; 32]));
    Tokens::new(&config, chance, Changes::default())
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_millis(secs * 1000)
}

fn number() -> Msisdn {
    Msisdn::parse("+4799990001").unwrap()
}

fn authorization(challenge: Option<&str>) -> Authorization {
    Authorization {
        client: "a".into(),
        number: number(),
        scopes: Scopes::parse("openid phone offline_access"),
        redirect_uri: BACK.into(),
        nonce: None,
        challenge: challenge.map(str::to_owned),
        authenticated_at: at(0),
    }
}

fn invalid(result: &Result<Issued, Refusal>) -> bool {
    matches!(result, Err(Refusal::InvalidGrant(_)))
}

#[test]
fn a_code_is_good_once_and_its_replay_ends_what_was_issued() {
    let tokens = tokens();
    let code = tokens.authorize(authorization(None), at(0));
    let issued = tokens.redeem(&code, "a", BACK, None, at(1)).unwrap();
    let facts = tokens.check(&issued.access, at(2)).unwrap();
    assert_eq!((facts.client.as_str(), facts.number), ("a", Some(number())));
    assert!(invalid(&tokens.redeem(&code, "a", BACK, None, at(70))));
    assert_eq!(tokens.check(&issued.access, at(71)), None);
    let refresh = issued.refresh.unwrap();
    assert!(invalid(&tokens.refresh(&refresh, "a", None, at(72))));
}

#[test]
fn a_code_is_refused_to_others_elsewhere_and_too_late() {
    let tokens = tokens();
    let code = || tokens.authorize(authorization(None), at(0));
    let one = code();
    assert!(invalid(&tokens.redeem(&one, "b", BACK, None, at(1))));
    assert!(tokens.redeem(&one, "a", BACK, None, at(1)).is_ok());
    let other = "http://127.0.0.1/back/";
    assert!(invalid(&tokens.redeem(&code(), "a", other, None, at(1))));
    assert!(invalid(&tokens.redeem(&code(), "a", BACK, None, at(60))));
    assert!(tokens.redeem(&code(), "a", BACK, None, at(59)).is_ok());
}

#[test]
fn a_challenge_needs_its_verifier_and_a_verifier_its_challenge() {
    let tokens = tokens();
    let redeem = |challenge, verifier| {
        let code = tokens.authorize(authorization(challenge), at(0));
        tokens.redeem(&code, "a", BACK, verifier, at(1))
    };
    assert!(redeem(Some(CHALLENGE), Some(VERIFIER)).is_ok());
    assert!(invalid(&redeem(Some(CHALLENGE), None)));
    assert!(invalid(&redeem(Some(CHALLENGE), Some(CHALLENGE))));
    assert!(invalid(&redeem(None, Some(VERIFIER))));
}

#[test]
fn a_refresh_token_is_good_once_and_its_replay_ends_the_grant() {
    let tokens = tokens();
    let code = tokens.authorize(authorization(None), at(0));
    let first = tokens.redeem(&code, "a", BACK, None, at(1)).unwrap();
    let first = first.refresh.unwrap();
    assert!(invalid(&tokens.refresh(&first, "b", None, at(2))));
    let more = Some(Scopes::parse("openid everything"));
    let too_much = tokens.refresh(&first, "a", more, at(2));
    assert_eq!(too_much.unwrap_err(), Refusal::InvalidScope);
    let less = Some(Scopes::parse("openid"));
    let second = tokens.refresh(&first, "a", less, at(2)).unwrap();
    assert_eq!(second.scopes, Scopes::parse("openid"));
    let facts = tokens.check(&second.access, at(3)).unwrap();
    assert!(!facts.scopes.contains("phone"));
    assert!(invalid(&tokens.refresh(&first, "a", None, at(3))));
    let second = second.refresh.unwrap();
    assert!(invalid(&tokens.refresh(&second, "a", None, at(4))));
}

#[test]
fn what_a_subscriber_takes_back_ends_for_that_client_only() {
    let tokens = tokens();
    let issue = |client: &str| {
        let authorization = Authorization {
            client: client.into(),
            ..authorization(None)
        };
        let code = tokens.authorize(authorization, at(0));
        tokens.redeem(&code, client, BACK, None, at(0)).unwrap()
    };
    let (a, b) = (issue("a"), issue("b"));
    let own = tokens.for_client("a", Scopes::parse("x"), at(0));
    let pending = tokens.authorize(authorization(None), at(0));
    tokens.revoke_all_of(Some("a"), &number());
    assert_eq!(tokens.check(&a.access, at(1)), None);
    assert!(invalid(&tokens.redeem(&pending, "a", BACK, None, at(1))));
    assert!(tokens.check(&b.access, at(1)).is_some());
    assert!(tokens.check(&own.access, at(1)).is_some());
    assert!(tokens.check(&own.access, at(100)).is_none(), "it expires");
}

#[test]
fn revoking_a_token_needs_its_client_and_with_a_refresh_token_ends_all() {
    let tokens = tokens();
    let code = tokens.authorize(authorization(None), at(0));
    let issued = tokens.redeem(&code, "a", BACK, None, at(0)).unwrap();
    let refresh = issued.refresh.unwrap();
    assert_eq!(
        tokens.subject_of(&refresh, at(1)),
        Some(("a".into(), number()))
    );
    assert_eq!(tokens.revoke(&refresh, "b", at(1)), Err(NotYours));
    assert_eq!(tokens.revoke("unknown", "a", at(1)), Ok(()));
    assert!(tokens.check(&issued.access, at(1)).is_some());
    assert_eq!(tokens.revoke(&refresh, "a", at(1)), Ok(()));
    assert_eq!(tokens.check(&issued.access, at(1)), None);
    assert_eq!(tokens.subject_of(&refresh, at(1)), None);
}
