//! A service without its listeners, which can be stopped anywhere and started again.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aftertone::domain::{
    AudioFormat, Caller, DivertReason, Losses, MessageId, NewMessage, RecordingEnd, SetupTimes,
    StoredAudio, Subscriber, SubscriberId,
};
use aftertone::enrolment::{Callback, Config, Enrolment, Parts, SignedIn};
use aftertone::mobile_core;
use aftertone::storage::sqlite::SqliteStorage;
use aftertone::storage::{MessageFilter, Storage};
use aftertone::vault::Vault;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::core::Core;
use crate::issuer::{Issuer, NUMBER, START};

/// Longer than anything takes on a slow machine.
const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const HOUR_MS: i64 = 3_600_000;

pub(crate) struct World {
    pub(crate) issuer: Issuer,
    pub(crate) core: Arc<Core>,
    pub(crate) config: Config,
    pub(crate) keys: Vec<[u8; 32]>,
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
        let mut world = Self {
            issuer: Issuer::start().await,
            core: Arc::default(),
            config: Config::default(),
            keys: vec![[5; 32]],
            service: None,
            dir: tempfile::tempdir().unwrap(),
        };
        world.start_service().await;
        world
    }

    pub(crate) async fn start_service(&mut self) {
        let url = format!("sqlite://{}/aftertone.db", self.dir.path().display());
        let storage: Arc<dyn Storage> = Arc::new(SqliteStorage::open(&url).await.unwrap());
        let parts = Parts {
            config: self.config.clone(),
            storage: storage.clone(),
            vault: Arc::new(Vault::from_keys(&self.keys).unwrap()),
            oauth: Some(self.issuer.client()),
            core: Some(self.core.clone()),
            core_config: mobile_core::Config::default(),
            consents: None,
            sip_uri: Some("sips:voicemail.example.com".into()),
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

    /// Whatever is under way is dropped where it stands; what is in the database stays.
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

    fn service(&self) -> &Service {
        self.service.as_ref().unwrap()
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.service().storage
    }

    pub(crate) fn enrolment(&self) -> &Enrolment {
        &self.service().enrolment
    }

    /// The files of the database.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    pub(crate) async fn sign_in(&self) -> SignedIn {
        let begun = self.enrolment().begin().await.unwrap();
        let query = self.issuer.authorize(&begun.url);
        let callback = callback(query);
        let signed_in = self.enrolment().complete(&begun.pending, callback).await;
        signed_in.unwrap()
    }

    /// A subscriber who has signed in, is registered, and has a message.
    pub(crate) async fn subscriber(&self) -> Subscriber {
        let subscriber = self.sign_in().await.subscriber;
        assert!(self.core.is_registered(NUMBER));
        let message = NewMessage {
            id: MessageId::new(START, [1; 10]),
            subscriber: subscriber.id,
            to: subscriber.number.clone(),
            caller: Caller::default(),
            reason: DivertReason::Busy,
            received_at: START,
            audio: StoredAudio {
                format: AudioFormat::WavPcm,
                codec: None,
                sample_rate: 8000,
                samples: 8000,
                stored_bytes: 16_044,
                sha256: [0; 32],
                losses: Losses::default(),
            },
            ended_by: RecordingEnd::HangUp,
            setup: SetupTimes::default(),
        };
        self.storage().deposit(&message).await.unwrap();
        subscriber
    }

    pub(crate) async fn messages_of(&self, subscriber: SubscriberId) -> usize {
        let filter = MessageFilter {
            limit: 10,
            ..MessageFilter::default()
        };
        let messages = self.storage().messages(subscriber, filter).await.unwrap();
        messages.len()
    }

    /// Nothing is left to do for who had the number.
    pub(crate) async fn is_over(&self) -> bool {
        let number = NUMBER.parse().unwrap();
        let left = self.storage().departures_of(&number).await.unwrap();
        left.is_empty()
    }

    /// Everything that ends with a subscriber has ended.
    pub(crate) async fn assert_gone(&self, subscriber: SubscriberId) {
        eventually("the departure is over", async || self.is_over().await).await;
        assert!(!self.core.is_registered(NUMBER));
        assert_eq!(self.storage().subscriber(subscriber).await.unwrap(), None);
        assert_eq!(self.messages_of(subscriber).await, 0);
        let world = self.issuer.world.lock().unwrap();
        assert!(
            world
                .revoked
                .iter()
                .any(|token| token.starts_with("refresh-")),
            "{:?}",
            world.revoked
        );
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
