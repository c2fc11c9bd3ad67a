//! The API as a client sees it, over a socket.

mod consents;

use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::*;
use crate::clock::ManualClock;
use crate::domain::{Msisdn, Timestamp};
use crate::mobile_core::pb::wgtwo::common::v1::E164;
use crate::mobile_core::pb::wgtwo::sipbreakout::v0::registration_request::RouteType as RouteTypeV0;
use crate::mobile_core::pb::wgtwo::sipbreakout::v0::sip_breakout_service_client::SipBreakoutServiceClient as ClientV0;
use crate::mobile_core::pb::wgtwo::sipbreakout::v1::sip_breakout_service_client::SipBreakoutServiceClient as ClientV1;
use crate::mobile_core::pb::wgtwo::sipbreakout::v1::{
    DeleteRegistrationRequest, Registration, RouteType, StatusCode, UpsertRegistrationRequest,
};
use crate::mobile_core::pb::wgtwo::sipbreakout::{v0 as pb_v0, v1 as pb_v1};
use crate::sandbox::world::{Authorization, Mode, Scopes};

const NUMBER: &str = "+4799990001";
const OTHER: &str = "+4799990002";
const ENDPOINT: &str = "sips:voicemail.example.com";
const CLIENT: &str = "aftertone";
const SOON: Duration = Duration::from_secs(10);

struct Bench {
    world: Arc<World>,
    clock: ManualClock,
    channel: Channel,
    stop: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn bench(adjust: impl FnOnce(&mut Config)) -> Bench {
    let mut config = Config {
        grpc: "127.0.0.1:0".parse().unwrap(),
        ..Config::default()
    };
    adjust(&mut config);
    let clock = ManualClock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    let world = World::new(&config, Arc::new(clock.clone()), [7; 32]);
    let stop = CancellationToken::new();
    let address = start(&config, &world, &TaskTracker::new(), &stop)
        .await
        .unwrap();
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    Bench {
        world,
        clock,
        channel: endpoint.connect().await.unwrap(),
        stop,
    }
}

fn msisdn(text: &str) -> Msisdn {
    Msisdn::parse(text).unwrap()
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

impl Bench {
    /// The token of a subscriber who consented to these scopes.
    fn user_token(&self, number: &str, scopes: &str) -> String {
        let authorization = Authorization {
            client: CLIENT.into(),
            number: msisdn(number),
            scopes: Scopes::parse(scopes),
            redirect_uri: "http://127.0.0.1/".into(),
            nonce: None,
            challenge: None,
            authenticated_at: self.world.now(),
        };
        let now = self.world.now();
        let code = self.world.tokens.authorize(authorization, now);
        let issued = self
            .world
            .tokens
            .redeem(&code, CLIENT, "http://127.0.0.1/", None, now);
        issued.unwrap().access
    }

    fn client_token(&self, client: &str) -> String {
        let scopes = Scopes::parse("call.routing:write");
        self.world
            .tokens
            .for_client(client, scopes, self.world.now())
            .access
    }

    async fn upsert(
        &self,
        token: &str,
        registration: Registration,
    ) -> Result<pb_v1::UpsertRegistrationResponse, Status> {
        let request = UpsertRegistrationRequest {
            registration: Some(registration),
        };
        let mut client = ClientV1::new(self.channel.clone());
        let answer = client.upsert_registration(with(token, request)).await?;
        Ok(answer.into_inner())
    }

    async fn delete(&self, token: &str, sip_uri: &str) -> Result<StatusCode, Status> {
        let request = DeleteRegistrationRequest {
            registration: Some(Registration {
                sip_uri: sip_uri.into(),
                ..fallback()
            }),
        };
        let mut client = ClientV1::new(self.channel.clone());
        let answer = client.delete_registration(with(token, request)).await?;
        Ok(answer.into_inner().status_code())
    }

    fn endpoints(&self, number: &str) -> Vec<String> {
        let all = self
            .world
            .registrations
            .of(&msisdn(number), self.world.now());
        all.into_iter().map(|one| one.sip_uri).collect()
    }
}

fn fallback() -> Registration {
    Registration {
        mobile_originating_prefix: "00".into(),
        mobile_terminating_prefix: "99".into(),
        sip_uri: ENDPOINT.into(),
        route_type: RouteType::Fallback.into(),
        phone_number: None,
    }
}

#[tokio::test]
async fn a_subscribers_registration_lives_as_long_as_told_and_ends_by_its_own_uri_only() {
    let bench = bench(|config| config.registration_secs = 10).await;
    let token = bench.user_token(NUMBER, "openid call.routing:write");
    let answer = bench.upsert(&token, fallback()).await.unwrap();
    assert_eq!(answer.status_code(), StatusCode::Ok);
    assert_eq!(answer.time_to_live.unwrap().seconds, 10);
    let kept = bench
        .world
        .registrations
        .of(&msisdn(NUMBER), bench.world.now());
    assert_eq!(kept[0].mobile_originating_prefix, "00");
    assert_eq!(kept[0].mobile_terminating_prefix, "99");

    bench.clock.advance_ms(9_000);
    bench.upsert(&token, fallback()).await.unwrap();
    bench.clock.advance_ms(9_000);
    assert_eq!(bench.endpoints(NUMBER), [ENDPOINT], "the upsert renewed it");
    let wrong = bench.delete(&token, "sips:other.example.com").await;
    assert_eq!(wrong.unwrap(), StatusCode::NotAcceptable);
    assert_eq!(bench.endpoints(NUMBER), [ENDPOINT]);
    assert_eq!(
        bench.delete(&token, ENDPOINT).await.unwrap(),
        StatusCode::Ok
    );
    assert_eq!(bench.endpoints(NUMBER), [""; 0]);

    bench.upsert(&token, fallback()).await.unwrap();
    bench.clock.advance_ms(10_000);
    assert_eq!(bench.endpoints(NUMBER), [""; 0], "it ended by itself");
}

#[tokio::test]
async fn a_clients_token_registers_the_number_it_names() {
    let bench = bench(|_| {}).await;
    let token = bench.client_token(CLIENT);
    let named = |number: &str| Registration {
        phone_number: Some(E164 {
            e164: number.into(),
        }),
        ..fallback()
    };
    let answer = bench.upsert(&token, named(OTHER)).await.unwrap();
    assert_eq!(answer.status_code(), StatusCode::Ok);
    assert_eq!(bench.endpoints(OTHER), [ENDPOINT]);
    for refused in [
        fallback(),
        named("99990001"),
        named("+4799990099"),
        named(""),
    ] {
        let answer = bench.upsert(&token, refused.clone()).await.unwrap();
        assert_eq!(
            answer.status_code(),
            StatusCode::NotAcceptable,
            "{refused:?}"
        );
        assert!(!answer.error_message.is_empty() && answer.time_to_live.is_none());
    }
    let mut client = ClientV1::new(bench.channel.clone());
    let mut delete = async |token: &str| {
        let registration = Some(named(OTHER));
        let request = with(token, DeleteRegistrationRequest { registration });
        client
            .delete_registration(request)
            .await
            .unwrap()
            .into_inner()
            .status_code()
    };
    let stranger = bench.client_token("stranger");
    assert_eq!(delete(&stranger).await, StatusCode::NotAcceptable);
    assert_eq!(delete(&token).await, StatusCode::Ok);
}

#[tokio::test]
async fn a_bad_endpoint_prefix_or_route_is_not_acceptable() {
    let bench = bench(|_| {}).await;
    let token = bench.user_token(NUMBER, "call.routing:write");
    for bad in [
        Registration {
            sip_uri: "sip:voicemail.example.com".into(),
            ..fallback()
        },
        Registration {
            mobile_originating_prefix: "+47".into(),
            ..fallback()
        },
        Registration {
            mobile_terminating_prefix: "123456789".into(),
            ..fallback()
        },
        Registration {
            route_type: 0,
            ..fallback()
        },
        Registration {
            route_type: 17,
            ..fallback()
        },
        Registration::default(),
    ] {
        let answer = bench.upsert(&token, bad.clone()).await.unwrap();
        assert_eq!(answer.status_code(), StatusCode::NotAcceptable, "{bad:?}");
    }
    assert_eq!(bench.endpoints(NUMBER), [""; 0]);
}

#[tokio::test]
async fn only_a_valid_token_with_the_scope_and_of_the_number_is_let_in() {
    let bench = bench(|_| {}).await;
    let code = async |token: &str, registration| {
        bench.upsert(token, registration).await.unwrap_err().code()
    };
    assert_eq!(code("", fallback()).await, Code::Unauthenticated);
    assert_eq!(code("guess", fallback()).await, Code::Unauthenticated);
    let unscoped = bench.user_token(NUMBER, "openid phone");
    assert_eq!(code(&unscoped, fallback()).await, Code::PermissionDenied);
    let token = bench.user_token(NUMBER, "call.routing:write");
    let of_other = Registration {
        phone_number: Some(E164 { e164: OTHER.into() }),
        ..fallback()
    };
    assert_eq!(code(&token, of_other).await, Code::PermissionDenied);
    let mut client = ClientV1::new(bench.channel.clone());
    let bare = client
        .upsert_registration(UpsertRegistrationRequest::default())
        .await;
    assert_eq!(bare.unwrap_err().code(), Code::Unauthenticated);

    bench.upsert(&token, fallback()).await.unwrap();
    bench.world.revoke_consent(None, &msisdn(NUMBER));
    assert_eq!(
        code(&token, fallback()).await,
        Code::Unauthenticated,
        "revoked"
    );
    let token = bench.user_token(NUMBER, "call.routing:write");
    bench.clock.advance_ms(3_600_000);
    assert_eq!(
        code(&token, fallback()).await,
        Code::Unauthenticated,
        "expired"
    );
}

#[tokio::test]
async fn v0_knows_subscribers_only_and_both_spellings_of_its_scope() {
    let bench = bench(|_| {}).await;
    let request = || pb_v0::RegistrationRequest {
        mo_prefix: "00".into(),
        mt_prefix: String::new(),
        suri: ENDPOINT.into(),
        route_type: RouteTypeV0::Fallback.into(),
    };
    let mut client = ClientV0::new(bench.channel.clone());
    for scope in SCOPES {
        let token = bench.user_token(NUMBER, scope);
        let answer = client
            .upsert_registration(with(&token, request()))
            .await
            .unwrap();
        assert_eq!(answer.into_inner().status.unwrap().code, 0);
        assert_eq!(bench.endpoints(NUMBER), [ENDPOINT]);
        let mut other = request();
        other.suri = "sips:other.example.com".into();
        let answer = client
            .delete_registration(with(&token, other))
            .await
            .unwrap();
        assert_eq!(answer.into_inner().status.unwrap().code, 1);
        client
            .delete_registration(with(&token, request()))
            .await
            .unwrap();
        assert_eq!(bench.endpoints(NUMBER), [""; 0]);
    }
    let scopes = Scopes::parse(SCOPES[0]);
    let own = bench
        .world
        .tokens
        .for_client(CLIENT, scopes, bench.world.now())
        .access;
    let v1 = bench.user_token(NUMBER, "call.routing:write");
    for token in [own, v1] {
        let refused = client.upsert_registration(with(&token, request())).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
}
const SCOPES: [&str; 2] = [
    "call.control.answer_and_initiate",
    "call.control:answer_and_initiate",
];

#[tokio::test]
async fn modes_make_the_core_misbehave_for_one_number_or_for_all() {
    let bench = bench(|_| {}).await;
    let token = bench.user_token(NUMBER, "call.routing:write");
    let other = bench.user_token(OTHER, "call.routing:write");
    let number = msisdn(NUMBER);
    let modes = &bench.world.modes;

    modes.set(Some(&number), Mode::CoreUnavailable, Timestamp::MAX);
    let refused = bench.upsert(&token, fallback()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    bench.upsert(&other, fallback()).await.unwrap();
    modes.clear(Some(&number), Mode::CoreUnavailable);

    modes.set(Some(&number), Mode::RegistrationRefused, Timestamp::MAX);
    let answer = bench.upsert(&token, fallback()).await.unwrap();
    assert_eq!(answer.status_code(), StatusCode::NotAcceptable);
    modes.clear(Some(&number), Mode::RegistrationRefused);

    modes.set(
        None,
        Mode::ExpiredToken,
        bench.world.now().plus_millis(1000),
    );
    let refused = bench.upsert(&other, fallback()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    bench.clock.advance_ms(1000);
    bench.upsert(&other, fallback()).await.unwrap();

    modes.set(None, Mode::CoreSlow, Timestamp::MAX);
    let late = timeout(Duration::from_millis(300), bench.upsert(&token, fallback()));
    assert!(late.await.is_err(), "slow");
}
