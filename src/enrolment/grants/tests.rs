use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::post;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use url::Url;

use super::*;
use crate::clock::ManualClock;
use crate::domain::{Account, Msisdn};
use crate::oauth;
use crate::storage::sqlite::SqliteStorage;
use crate::storage::{NewEnrolment, NewSubscriber};

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const HOUR_MS: i64 = 3_600_000;

/// A token endpoint that answers when it is let, and a database with one subscriber.
struct World {
    grants: Grants,
    storage: Arc<dyn Storage>,
    clock: ManualClock,
    anna: SubscriberId,
    asked: Arc<AtomicUsize>,
    may_answer: Arc<Semaphore>,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let (asked, may_answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/aftertone.db", dir.path().display());
    let storage: Arc<dyn Storage> = Arc::new(SqliteStorage::open(&url).await.unwrap());
    let clock = ManualClock::starting_at(START);
    let tasks = TaskTracker::new();
    let base = serve(&tasks, asked.clone(), may_answer.clone()).await;
    let config = oauth::Config {
        issuer: base.clone(),
        client_id: "aftertone".into(),
        authorization_endpoint: Some(format!("{base}/auth")),
        token_endpoint: Some(format!("{base}/token")),
        jwks_uri: Some(format!("{base}/jwks")),
        ..oauth::Config::default()
    };
    let back_to = Url::parse("https://voicemail.example.com/auth/callback").unwrap();
    let client = Client::new(&config, back_to, Arc::new(clock.clone()), [1; 32]).unwrap();
    let grants = Grants::new(
        storage.clone(),
        Arc::new(Vault::from_keys(&[[2; 32]]).unwrap()),
        Some(client),
        TokenKind::User,
        Arc::new(clock.clone()),
        tasks,
        [3; 32],
    );
    let anna = enrol(&storage, &grants).await;
    World {
        grants,
        storage,
        clock,
        anna,
        asked,
        may_answer,
        _dir: dir,
    }
}

async fn serve(tasks: &TaskTracker, asked: Arc<AtomicUsize>, may_answer: Arc<Semaphore>) -> String {
    let token = move || async move {
        let round = asked.fetch_add(1, Ordering::SeqCst) + 1;
        may_answer.acquire().await.unwrap().forget();
        axum::Json(json!({
            "access_token": format!("access-{round}"), "refresh_token": format!("refresh-{round}"),
            "token_type": "bearer", "expires_in": 3600,
        }))
    };
    let app = Router::new().route("/token", post(token));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let app = app.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                app.clone().oneshot(request.map(Body::new))
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            connection.await.unwrap();
        }
    });
    base
}

async fn enrol(storage: &Arc<dyn Storage>, grants: &Grants) -> SubscriberId {
    let tokens = Tokens {
        access: Secret::new("access-0"),
        expires_at: START.plus_millis(HOUR_MS),
        refresh: Some(Secret::new("refresh-0")),
        scopes: None,
        id_token: None,
    };
    let enrolment = NewEnrolment {
        account: Account {
            issuer: "https://id.example.com".into(),
            subject: "anna".into(),
        },
        subscriber: NewSubscriber {
            number: Msisdn::parse("+4799990001").unwrap(),
            name: None,
            time_zone: "Etc/UTC".into(),
            language: "en".into(),
        },
        sip_uri: None,
        erase_displaced_at: START,
    };
    let seal = |of| grants.seal(of, &tokens);
    let enrolled = storage.enrol(&enrolment, &seal, START).await.unwrap();
    enrolled.subscriber.id
}

#[tokio::test]
async fn one_refresh_serves_all_who_wait_for_it() {
    let world = world().await;
    let (grants, anna) = (&world.grants, world.anna);
    assert_eq!(
        grants.access(anna, None).await.unwrap().expose(),
        "access-0"
    );
    world.clock.advance_ms(HOUR_MS - MARGIN_MS);
    world.may_answer.add_permits(1);
    let all = futures_util::future::join_all((0..20).map(|_| grants.access(anna, None))).await;
    for access in all {
        assert_eq!(access.unwrap().expose(), "access-1");
    }
    assert_eq!(world.asked.load(Ordering::SeqCst), 1);
    assert!(locked(&grants.0.turns).is_empty(), "nothing is left behind");
}

#[tokio::test]
async fn a_refresh_ends_and_is_stored_though_nobody_waits_any_more() {
    let world = world().await;
    world.clock.advance_ms(HOUR_MS);
    let mut waiting = Box::pin(world.grants.access(world.anna, None));
    while world.asked.load(Ordering::SeqCst) == 0 {
        assert!(futures_util::poll!(&mut waiting).is_pending());
        tokio::task::yield_now().await;
    }
    drop(waiting);
    world.may_answer.add_permits(1);
    let access = world.grants.access(world.anna, None).await.unwrap();
    assert_eq!(access.expose(), "access-1");
    assert_eq!(world.asked.load(Ordering::SeqCst), 1);
    let grant = world.storage.grant(world.anna).await.unwrap().unwrap();
    let opened = world.grants.open(world.anna, &grant).unwrap();
    assert_eq!(opened.refresh, Some(Secret::new("refresh-1")));
}

#[tokio::test]
async fn a_token_that_was_rejected_is_replaced_once_for_all_who_had_it() {
    let world = world().await;
    let (grants, anna) = (&world.grants, world.anna);
    let rejected = grants.access(anna, None).await.unwrap();
    world.may_answer.add_permits(1);
    for _ in 0..3 {
        let access = grants.access(anna, Some(&rejected)).await.unwrap();
        assert_eq!(access.expose(), "access-1");
    }
    assert_eq!(world.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_grant_opens_for_its_subscriber_only_and_shows_nothing() {
    let world = world().await;
    let grant = world.storage.grant(world.anna).await.unwrap().unwrap();
    let bert = SubscriberId::from_bytes([9; 16]);
    let error = world.grants.open(bert, &grant).unwrap_err();
    assert!(
        matches!(error, GrantError::Sealed(VaultError::Broken)),
        "{error}"
    );
    let shown = format!("{:?}", world.grants.open(world.anna, &grant).unwrap());
    assert!(
        !shown.contains("access-0") && !shown.contains("refresh-0"),
        "{shown}"
    );
    assert!(!grant.sealed.windows(7).any(|part| part == b"refresh"));
    let nobody = world.grants.access(bert, None).await.unwrap_err();
    assert!(matches!(nobody, GrantError::None), "{nobody}");
}

#[tokio::test]
async fn a_grant_without_a_refresh_token_serves_until_its_end() {
    let world = world().await;
    let tokens = Tokens {
        access: Secret::new("access-0"),
        expires_at: START.plus_millis(HOUR_MS),
        refresh: None,
        scopes: None,
        id_token: None,
    };
    let sealed = world.grants.seal(world.anna, &tokens);
    let storage = &world.storage;
    let version = storage.grant(world.anna).await.unwrap().unwrap().version;
    assert!(
        storage
            .replace_grant(world.anna, &sealed, version)
            .await
            .unwrap()
    );
    world.clock.advance_ms(HOUR_MS - 1);
    let access = world.grants.access(world.anna, None).await.unwrap();
    assert_eq!(access.expose(), "access-0");
    world.clock.advance_ms(1);
    let error = world.grants.access(world.anna, None).await.unwrap_err();
    assert!(matches!(error, GrantError::NoRefreshToken), "{error}");
}
