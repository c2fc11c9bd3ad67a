//! From the first click to a subscriber with a registration, and every way not to get there.

use std::collections::HashMap;
use std::sync::Arc;

use aftertone::domain::{Msisdn, RegistrationState};
use aftertone::enrolment::{Callback, Config, Enrolment, Parts, SignInError, SignedIn};
use aftertone::mobile_core;
use aftertone::mobile_core::{CoreError, FakeMobileCore};
use aftertone::storage::Storage;
use aftertone::storage::sqlite::SqliteStorage;
use aftertone::telemetry;
use aftertone::vault::Vault;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::issuer::{Issuer, NUMBER, Trouble};

/// A service without its listeners, and an identity server.
pub(crate) struct World {
    pub(crate) issuer: Issuer,
    core: Arc<FakeMobileCore>,
    storage: Arc<dyn Storage>,
    pub(crate) enrolment: Enrolment,
    dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        let issuer = Issuer::start().await;
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/aftertone.db", dir.path().display());
        let storage: Arc<dyn Storage> = Arc::new(SqliteStorage::open(&url).await.unwrap());
        let (core, stop) = (Arc::new(FakeMobileCore::new()), CancellationToken::new());
        let parts = Parts {
            config: Config::default(),
            storage: storage.clone(),
            vault: Arc::new(Vault::from_keys(&[[5; 32]]).unwrap()),
            oauth: Some(issuer.client()),
            core: Some(core.clone()),
            consents: None,
            core_config: mobile_core::Config::default(),
            sip_uri: Some("sips:voicemail.example.com".into()),
            left_url: Url::parse("https://voicemail.example.com/left").unwrap(),
            language: "nb".into(),
            clock: Arc::new(issuer.clock.clone()),
            seed: [6; 32],
        };
        let enrolment = Enrolment::start(parts, &TaskTracker::new(), &stop);
        Self {
            issuer,
            core,
            storage,
            enrolment,
            dir,
            stop,
        }
    }

    /// Begins a sign-in, and lets the subscriber consent.
    pub(crate) async fn begin(&self) -> (String, Callback) {
        let begun = self.enrolment.begin().await.unwrap();
        (begun.pending, callback(self.issuer.authorize(&begun.url)))
    }

    async fn sign_in(&self) -> Result<SignedIn, SignInError> {
        let (pending, callback) = self.begin().await;
        self.enrolment.complete(&pending, callback).await
    }

    async fn is_enrolled(&self, number: &str) -> bool {
        let number: Msisdn = number.parse().unwrap();
        self.storage
            .mailbox_of_first(&[number])
            .await
            .unwrap()
            .is_some()
    }
}

fn callback(mut query: HashMap<String, String>) -> Callback {
    Callback {
        code: query.remove("code"),
        state: query.remove("state"),
        error: query.remove("error"),
        iss: query.remove("iss"),
    }
}

#[tokio::test]
async fn who_consents_has_a_mailbox_and_a_registration_when_he_comes_back() {
    let world = World::start().await;
    let signed_in = world.sign_in().await.unwrap();
    assert!(signed_in.is_new);
    assert_eq!(signed_in.subscriber.number.e164(), NUMBER);
    assert_eq!(signed_in.subscriber.language, "nb");
    let registration = signed_in.registration.unwrap();
    assert_eq!(registration.state, RegistrationState::Active);
    let asked = world.core.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].wish.sip_uri, "sips:voicemail.example.com");
    assert!(asked[0].token.expose().starts_with("access-"));

    let again = world.sign_in().await.unwrap();
    assert!(!again.is_new);
    assert_eq!(again.subscriber.id, signed_in.subscriber.id);
}

#[tokio::test]
async fn an_enrolment_is_kept_while_the_core_is_down() {
    let world = World::start().await;
    world
        .core
        .will_answer(Err(CoreError::Unavailable("down".into())));
    let signed_in = world.sign_in().await.unwrap();
    assert_eq!(
        signed_in.registration.unwrap().state,
        RegistrationState::Wanted
    );
    assert!(world.is_enrolled(NUMBER).await);
}

#[tokio::test]
async fn an_answer_to_another_sign_in_is_forged_and_reaches_nobody() {
    let world = World::start().await;
    // Login CSRF: the attacker lets the victim's browser finish the attacker's sign-in.
    let (of_victim, _) = world.begin().await;
    let (_, of_attacker) = world.begin().await;
    let refused = world
        .enrolment
        .complete(&of_victim, of_attacker.clone())
        .await;
    assert!(matches!(refused, Err(SignInError::Forged)), "{refused:?}");

    for state in [None, Some(String::new()), Some("x".repeat(9000))] {
        let forged = Callback {
            state,
            ..of_attacker.clone()
        };
        let refused = world.enrolment.complete(&of_victim, forged).await;
        assert!(matches!(refused, Err(SignInError::Forged)), "{refused:?}");
    }
    assert_eq!(world.issuer.asked("/token"), 0, "no code is exchanged");
    assert!(!world.is_enrolled(NUMBER).await);
}

#[tokio::test]
async fn a_cookie_that_is_missing_changed_or_not_ours_is_forged() {
    let world = World::start().await;
    let (pending, callback) = world.begin().await;
    let mut bytes = URL_SAFE_NO_PAD.decode(&pending).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let other = Vault::from_keys(&[[5; 32]]).unwrap();
    let for_another_use = other.seal([1; 24], b"{}", b"a grant");
    let not_what_we_seal = other.seal([1; 24], b"{}", b"pending sign-in");
    for bad in [
        String::new(),
        "not base64!".into(),
        "A".repeat(100_000),
        URL_SAFE_NO_PAD.encode(bytes),
        URL_SAFE_NO_PAD.encode(for_another_use),
        URL_SAFE_NO_PAD.encode(not_what_we_seal),
    ] {
        let refused = world.enrolment.complete(&bad, callback.clone()).await;
        assert!(matches!(refused, Err(SignInError::Forged)), "{refused:?}");
    }
    assert!(world.enrolment.complete(&pending, callback).await.is_ok());
}

#[tokio::test]
async fn the_cookie_shows_nothing_and_differs_each_time() {
    let world = World::start().await;
    let (first, callback) = world.begin().await;
    let (second, _) = world.begin().await;
    assert_ne!(first, second);
    let bytes = URL_SAFE_NO_PAD.decode(&first).unwrap();
    let state = callback.state.unwrap();
    assert!(
        !bytes
            .windows(state.len())
            .any(|part| part == state.as_bytes())
    );
}

#[tokio::test]
async fn a_sign_in_ends_after_ten_minutes() {
    let world = World::start().await;
    let (pending, callback) = world.begin().await;
    world.issuer.clock.advance_ms(600_000);
    let refused = world.enrolment.complete(&pending, callback.clone()).await;
    assert!(matches!(refused, Err(SignInError::Expired)), "{refused:?}");
    world.issuer.clock.advance_ms(-1);
    assert!(world.enrolment.complete(&pending, callback).await.is_ok());

    let (pending, callback) = world.begin().await;
    world.issuer.clock.advance_ms(-1);
    let refused = world.enrolment.complete(&pending, callback).await;
    assert!(
        matches!(refused, Err(SignInError::Expired)),
        "it is not from the future"
    );
}

#[tokio::test]
async fn a_callback_works_once() {
    let world = World::start().await;
    let (pending, callback) = world.begin().await;
    world
        .enrolment
        .complete(&pending, callback.clone())
        .await
        .unwrap();
    let asked = world.issuer.asked("/token");
    let replayed = world.enrolment.complete(&pending, callback).await;
    assert!(
        matches!(replayed, Err(SignInError::Expired)),
        "{replayed:?}"
    );
    // The identity server would end the grant at the sight of the code.
    assert_eq!(world.issuer.asked("/token"), asked);
}

#[tokio::test]
async fn an_error_of_the_identity_server_counts_only_with_the_state() {
    let world = World::start().await;
    let (pending, callback) = world.begin().await;
    let error = |code: &str| Callback {
        code: None,
        error: Some(code.to_owned()),
        ..callback.clone()
    };
    let denied = world
        .enrolment
        .complete(&pending, error("access_denied"))
        .await;
    assert!(
        matches!(denied, Err(SignInError::ConsentDenied)),
        "{denied:?}"
    );
    let down = world
        .enrolment
        .complete(&pending, error("temporarily_unavailable"))
        .await;
    assert!(
        matches!(down, Err(SignInError::IssuerUnavailable(_))),
        "{down:?}"
    );
    let refused = world
        .enrolment
        .complete(&pending, error("invalid_scope"))
        .await;
    assert!(matches!(&refused, Err(SignInError::IssuerRefused(code)) if code == "invalid_scope"));
    let shown = world
        .enrolment
        .complete(&pending, error("<b>s3cret</b>"))
        .await;
    assert!(!format!("{shown:?}").contains("s3cret"), "{shown:?}");

    let forged = Callback {
        state: Some("guessed".into()),
        ..error("access_denied")
    };
    let refused = world.enrolment.complete(&pending, forged).await;
    assert!(matches!(refused, Err(SignInError::Forged)), "{refused:?}");
    let empty = Callback {
        code: None,
        ..callback.clone()
    };
    let refused = world.enrolment.complete(&pending, empty).await;
    assert!(matches!(refused, Err(SignInError::Forged)), "{refused:?}");
}

#[tokio::test]
async fn an_answer_that_names_another_issuer_or_none_is_forged() {
    let world = World::start().await;
    let (pending, callback) = world.begin().await;
    for iss in [Some("https://evil.example".to_owned()), None] {
        let mixed_up = Callback {
            iss,
            ..callback.clone()
        };
        let refused = world.enrolment.complete(&pending, mixed_up).await;
        assert!(matches!(refused, Err(SignInError::Forged)), "{refused:?}");
    }
    assert_eq!(world.issuer.asked("/token"), 0);
}

#[tokio::test]
async fn nobody_is_enrolled_by_an_identity_server_that_lies_or_fails() {
    let world = World::start().await;
    for (claims, result) in [
        (
            json!({"phone_number_verified": false}),
            "number-not-verified",
        ),
        (json!({"phone_number": "99990001"}), "no-number"),
        (json!({"nonce": "of another sign-in"}), "invalid-id-token"),
        (json!({"aud": "another-client"}), "invalid-id-token"),
    ] {
        world.issuer.lie(|issuer| issuer.claims = claims);
        assert_eq!(world.sign_in().await.unwrap_err().as_str(), result);
    }
    world.issuer.lie(|issuer| {
        issuer.claims = json!({});
        issuer.trouble.insert("/token", Trouble::Status(503));
    });
    let refused = world.sign_in().await.unwrap_err();
    assert!(
        matches!(refused, SignInError::IssuerUnavailable(_)),
        "{refused:?}"
    );
    assert!(!world.is_enrolled(NUMBER).await);
    assert_eq!(world.core.asked(), []);
}

#[tokio::test]
async fn no_token_lies_readable_on_disk() {
    let world = World::start().await;
    world.sign_in().await.unwrap();
    let mut read = 0;
    for file in std::fs::read_dir(world.dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        read += bytes.len();
        for token in ["access-", "refresh-"] {
            assert!(
                !bytes
                    .windows(token.len())
                    .any(|part| part == token.as_bytes()),
                "{token}"
            );
        }
    }
    assert!(read > 10_000, "the database was read");
}

#[tokio::test]
async fn sign_ins_are_counted_by_their_result() {
    let metrics = telemetry::prometheus();
    let world = World::start().await;
    world.sign_in().await.unwrap();
    let (pending, callback) = world.begin().await;
    let denied = Callback {
        code: None,
        error: Some("access_denied".into()),
        ..callback
    };
    world
        .enrolment
        .complete(&pending, denied)
        .await
        .unwrap_err();
    let told = metrics.render();
    for result in ["ok", "consent-denied"] {
        let line = format!("aftertone_sign_ins_total{{result=\"{result}\"}}");
        assert!(told.contains(&line), "{line} is not in {told}");
    }
    assert!(told.contains("aftertone_oauth_requests_total{step=\"exchange\",result=\"ok\"}"));
}
