//! A service without its listeners, an identity server on loopback, and a core that does as it is
//! told.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aftertone::domain::{Registration, RegistrationState, Secret, SubscriberId};
use aftertone::enrolment::{Callback, Config, Enrolment, Parts, SignedIn};
use aftertone::mobile_core::{
    self, Asked, CoreError, FakeMobileCore, Method, MobileCore, TokenKind, Wish,
};
use aftertone::storage::Storage;
use aftertone::storage::sqlite::SqliteStorage;
use aftertone::vault::Vault;
use async_trait::async_trait;
use serde_json::json;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::issuer::Issuer;

/// Longer than anything takes on a slow machine.
const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const MINUTE_MS: i64 = 60_000;

/// A scripted core that can also be silent, or have a defect.
#[derive(Default)]
pub(crate) struct Core {
    pub(crate) script: FakeMobileCore,
    mood: AtomicU8,
    now: Mutex<usize>,
    pub(crate) most_at_once: Mutex<usize>,
}

#[derive(Clone, Copy)]
pub(crate) enum Mood {
    Well = 0,
    Silent = 1,
    Panics = 2,
    Down = 3,
    Slow = 4,
}

impl Core {
    pub(crate) fn is(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    pub(crate) fn upserts(&self) -> Vec<Asked> {
        let asked = self.script.asked().into_iter();
        asked
            .filter(|asked| asked.method == Method::Upsert)
            .collect()
    }
}

#[async_trait]
impl MobileCore for Core {
    async fn upsert(&self, wish: &Wish, token: &Secret) -> Result<Duration, CoreError> {
        let answer = self.script.upsert(wish, token).await;
        match self.mood.load(Ordering::SeqCst) {
            1 => std::future::pending().await,
            2 => panic!("a defect that the test wants"),
            3 => Err(CoreError::Unavailable("down".into())),
            4 => {
                {
                    let mut now = self.now.lock().unwrap();
                    *now += 1;
                    let mut most = self.most_at_once.lock().unwrap();
                    *most = (*most).max(*now);
                }
                time::sleep(Duration::from_millis(50)).await;
                *self.now.lock().unwrap() -= 1;
                answer
            }
            _ => answer,
        }
    }

    async fn delete(&self, wish: &Wish, token: &Secret) -> Result<(), CoreError> {
        self.script.delete(wish, token).await
    }
}

pub(crate) struct World {
    pub(crate) issuer: Issuer,
    pub(crate) core: Arc<Core>,
    pub(crate) core_config: mobile_core::Config,
    pub(crate) sip_uri: String,
    service: Option<Service>,
    dir: tempfile::TempDir,
}

struct Service {
    storage: Arc<dyn Storage>,
    enrolment: Enrolment,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl World {
    pub(crate) async fn start() -> Self {
        let mut world = Self::stopped().await;
        world.start_service().await;
        world
    }

    pub(crate) async fn stopped() -> Self {
        let core_config = mobile_core::Config {
            timeout_ms: 1000,
            ..mobile_core::Config::default()
        };
        Self {
            issuer: Issuer::start().await,
            core: Arc::default(),
            core_config,
            sip_uri: "sips:voicemail.example.com".into(),
            service: None,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn with_our_own_token(mut self) -> Self {
        self.core_config.token = TokenKind::Client;
        self
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("aftertone.db")
    }

    pub(crate) async fn start_service(&mut self) {
        let url = format!("sqlite://{}", self.database().display());
        let storage: Arc<dyn Storage> = Arc::new(SqliteStorage::open(&url).await.unwrap());
        let parts = Parts {
            config: Config::default(),
            storage: storage.clone(),
            vault: Arc::new(Vault::from_keys(&[[5; 32]]).unwrap()),
            oauth: Some(self.issuer.client()),
            core: Some(self.core.clone()),
            core_config: self.core_config.clone(),
            consents: None,
            sip_uri: Some(self.sip_uri.clone()),
            left_url: Url::parse("https://voicemail.example.com/left").unwrap(),
            language: "nb".into(),
            clock: Arc::new(self.issuer.clock.clone()),
            seed: [6; 32],
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        self.service = Some(Service {
            enrolment: Enrolment::start(parts, &tasks, &stop),
            storage,
            tasks,
            stop,
        });
    }

    pub(crate) async fn stop_service(&mut self) {
        let service = self.service.take().unwrap();
        service.stop.cancel();
        service.tasks.close();
        service.tasks.wait().await;
        service.storage.close().await;
    }

    pub(crate) async fn restart_service(&mut self) {
        self.stop_service().await;
        self.start_service().await;
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.service.as_ref().unwrap().storage
    }

    pub(crate) fn enrolment(&self) -> &Enrolment {
        &self.service.as_ref().unwrap().enrolment
    }

    pub(crate) fn minutes_pass(&self, minutes: i64) {
        self.issuer.clock.advance_ms(minutes * MINUTE_MS);
    }

    pub(crate) async fn sign_in(&self) -> SignedIn {
        let begun = self.enrolment().begin().await.unwrap();
        let query = self.issuer.authorize(&begun.url);
        let signed_in = self.enrolment().complete(&begun.pending, callback(query));
        signed_in.await.unwrap()
    }

    /// Another person, with another number.
    pub(crate) async fn sign_in_as(&self, number: &str) -> SignedIn {
        self.issuer.lie(|world| {
            world.claims = json!({"sub": format!("pairwise-{number}"), "phone_number": number});
        });
        self.sign_in().await
    }

    pub(crate) async fn registration(&self, of: SubscriberId) -> Option<Registration> {
        self.storage().registration(of).await.unwrap()
    }

    pub(crate) async fn state(&self, of: SubscriberId) -> Option<RegistrationState> {
        self.registration(of).await.map(|it| it.state)
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

/// Waits until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        let mut look = time::interval(Duration::from_millis(10));
        while !is_so().await {
            look.tick().await;
        }
    };
    let waited = time::timeout(DEADLINE, wait).await;
    assert!(waited.is_ok(), "it never came that {what}");
}
