//! Consents that change at the operator: the sandbox tells, the service follows.
#![cfg(feature = "sandbox")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "sandbox_identity/stand.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
mod stand;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aftertone::clock::{Clock, ManualClock};
use aftertone::domain::{Msisdn, RegistrationState, Secret, Subscriber, Timestamp};
use aftertone::enrolment;
use aftertone::enrolment::{Callback, Enrolment, Parts};
use aftertone::mobile_core;
use aftertone::mobile_core::GrpcCore;
use aftertone::oauth;
use aftertone::storage::Storage;
use aftertone::storage::sqlite::SqliteStorage;
use aftertone::vault::Vault;
use serde_json::json;
use stand::{BACK, NUMBER, Person, Stand};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use url::Url;

const OTHER: &str = "+4799990001";
const SOON: Duration = Duration::from_secs(30);
const MINUTE_MS: i64 = 60_000;

/// A sandbox, and the database of a service.
struct Scene {
    stand: Stand,
    storage: Arc<dyn Storage>,
    _dir: tempfile::TempDir,
}

/// The service without its listeners, until it is forgotten.
struct Service {
    enrolment: Enrolment,
    _stop: DropGuard,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/aftertone.db", dir.path().display());
        Self {
            stand: Stand::start().await,
            storage: Arc::new(SqliteStorage::open(&url).await.unwrap()),
            _dir: dir,
        }
    }

    fn service(&self, follows_consents: bool) -> Service {
        let clock: Arc<ManualClock> = Arc::new(self.stand.clock.clone());
        let oauth = oauth::Config {
            issuer: self.stand.sandbox.issuer().to_owned(),
            client_id: "aftertone".into(),
            client_secret: Some(Secret::new("sandbox-secret")),
            ..oauth::Config::default()
        };
        let back = Url::parse(BACK).unwrap();
        let core_config = mobile_core::Config {
            endpoint: Some(format!("http://{}", self.stand.sandbox.grpc_addr())),
            ..mobile_core::Config::default()
        };
        let core = GrpcCore::new(&core_config).unwrap();
        let parts = Parts {
            config: enrolment::Config::default(),
            storage: self.storage.clone(),
            vault: Arc::new(Vault::from_keys(&[[5; 32]]).unwrap()),
            oauth: Some(oauth::Client::new(&oauth, back, clock.clone(), [3; 32]).unwrap()),
            core: Some(Arc::new(core.clone())),
            consents: follows_consents.then_some(core),
            core_config,
            sip_uri: Some("sips:voicemail.example.com".into()),
            left_url: Url::parse("https://voicemail.example.com/left").unwrap(),
            language: "en".into(),
            clock,
            seed: [6; 32],
        };
        let stop = CancellationToken::new();
        Service {
            enrolment: Enrolment::start(parts, &TaskTracker::new(), &stop),
            _stop: stop.drop_guard(),
        }
    }

    async fn sign_in(&self, service: &Service, number: &str) -> Subscriber {
        let begun = service.enrolment.begin().await.unwrap();
        let mut person = Person::new(&self.stand);
        let back = person.sign_in(begun.url.as_str(), number).await;
        let mut query: HashMap<_, _> = back.query_pairs().into_owned().collect();
        let callback = Callback {
            code: query.remove("code"),
            state: query.remove("state"),
            error: query.remove("error"),
            iss: query.remove("iss"),
        };
        let signed_in = service.enrolment.complete(&begun.pending, callback).await;
        signed_in.unwrap().subscriber
    }

    /// The subscriber goes to the operator and takes his consent back.
    async fn withdraw(&self, number: &str) {
        let body = json!({ "number": number });
        let (status, answer) = self.stand.tell("/sandbox/revoke-consent", body).await;
        assert_eq!((status.as_u16(), &answer["revoked"]), (200, &json!(true)));
    }

    async fn subscriber(&self, number: &str) -> Option<Subscriber> {
        let number = Msisdn::parse(number).unwrap();
        self.storage.subscriber_by_number(&number).await.unwrap()
    }

    async fn until(&self, mut is_so: impl AsyncFnMut(&Self) -> bool) {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        let wait = async {
            while !is_so(self).await {
                again.tick().await;
            }
        };
        tokio::time::timeout(SOON, wait)
            .await
            .expect("it comes to that");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_withdraws_his_consent_at_the_operator_leaves_and_nobody_else_does() {
    let scene = Scene::new().await;
    let service = scene.service(true);
    scene.sign_in(&service, NUMBER).await;
    scene.sign_in(&service, OTHER).await;
    scene.withdraw(NUMBER).await;
    scene
        .until(async |scene| scene.subscriber(NUMBER).await.is_none())
        .await;
    assert!(scene.subscriber(OTHER).await.is_some());
    let registered = scene.stand.look("/sandbox/registrations").await;
    let registered = registered["registrations"].as_array().unwrap();
    assert!(
        registered.iter().any(|one| one["number"] == OTHER),
        "{registered:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_withdrawn_while_the_service_was_away_counts_unless_it_was_given_again() {
    let scene = Scene::new().await;
    let deaf = scene.service(false);
    scene.sign_in(&deaf, NUMBER).await;
    scene.sign_in(&deaf, OTHER).await;
    scene.withdraw(NUMBER).await;
    scene.stand.clock.advance_ms(5 * MINUTE_MS);
    let came_back = scene.sign_in(&deaf, NUMBER).await;
    // Later in the order of events: when it has been followed, the first has been too.
    scene.withdraw(OTHER).await;
    drop(deaf);
    scene.stand.clock.advance_ms(5 * MINUTE_MS);

    let _service = scene.service(true);
    scene
        .until(async |scene| scene.subscriber(OTHER).await.is_none())
        .await;
    let still_here = scene.subscriber(NUMBER).await.unwrap();
    assert_eq!(still_here.id, came_back.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_back_at_once_stays_though_the_event_comes_late() {
    let scene = Scene::new().await;
    let deaf = scene.service(false);
    scene.sign_in(&deaf, NUMBER).await;
    scene.sign_in(&deaf, OTHER).await;
    scene.withdraw(NUMBER).await;
    // Less than clocks may differ by.
    scene.stand.clock.advance_ms(1_000);
    let came_back = scene.sign_in(&deaf, NUMBER).await;
    scene.withdraw(OTHER).await;
    drop(deaf);

    let _service = scene.service(true);
    scene
        .until(async |scene| scene.subscriber(OTHER).await.is_none())
        .await;
    let still_here = scene.subscriber(NUMBER).await.unwrap();
    assert_eq!(still_here.id, came_back.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_was_refused_is_tried_again_when_the_consent_changes() {
    let scene = Scene::new().await;
    let service = scene.service(true);
    let refuse = |on: bool| json!({ "mode": "registration-refused", "on": on, "number": NUMBER });
    scene.stand.tell("/sandbox/modes", refuse(true)).await;
    let subscriber = scene.sign_in(&service, NUMBER).await.id;
    let state = async |scene: &Scene| {
        let registration = scene.storage.registration(subscriber).await.unwrap();
        registration.unwrap().state
    };
    assert_eq!(state(&scene).await, RegistrationState::Refused);
    scene.stand.tell("/sandbox/modes", refuse(false)).await;

    let now: Timestamp = scene.stand.clock.now();
    let mut person = Person::new(&scene.stand);
    let more = format!("{} call.control.answer_and_initiate", stand::SCOPES);
    let request = scene.stand.request(&[("scope", &more)]);
    person.sign_in(&request, NUMBER).await;
    scene
        .until(async |scene| state(scene).await == RegistrationState::Active)
        .await;
    assert_eq!(scene.stand.clock.now(), now, "long before its time");
}
