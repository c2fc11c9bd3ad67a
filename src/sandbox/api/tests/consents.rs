//! The stream of consent events.

use std::collections::BTreeMap;

use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::mobile_core::pb::wgtwo::common::v1::E164;
use crate::mobile_core::pb::wgtwo::consents::v1 as consents_pb;
use crate::mobile_core::pb::wgtwo::consents::v1::consent_change_event::{Target, Type};
use crate::mobile_core::pb::wgtwo::consents::v1::consent_event_service_client::ConsentEventServiceClient;
use crate::mobile_core::pb::wgtwo::events::v1 as events_pb;
use crate::mobile_core::pb::wgtwo::events::v1::ack_status::StatusCode as AckCode;
use crate::mobile_core::pb::wgtwo::events::v1::stream_configuration::{
    AcknowledgeOption, StartPosition, StreamType,
};
use crate::sandbox::api::tests::{Bench, CLIENT, NUMBER, OTHER, SOON, bench, msisdn, with};
use crate::sandbox::world::Scopes;

/// An open stream, and the client that acknowledges.
struct Listener {
    client: ConsentEventServiceClient<Channel>,
    token: String,
    stream: Streaming<consents_pb::StreamConsentChangeEventsResponse>,
}

impl Listener {
    async fn open(
        bench: &Bench,
        token: &str,
        configuration: Option<events_pb::StreamConfiguration>,
    ) -> Result<Self, Status> {
        let mut client = ConsentEventServiceClient::new(bench.channel.clone());
        let request = consents_pb::StreamConsentChangeEventsRequest {
            stream_configuration: configuration,
        };
        let answer = client
            .stream_consent_change_events(with(token, request))
            .await?;
        Ok(Self {
            client,
            token: token.to_owned(),
            stream: answer.into_inner(),
        })
    }

    async fn next(&mut self) -> Option<consents_pb::StreamConsentChangeEventsResponse> {
        timeout(SOON, self.stream.message())
            .await
            .expect("in time")
            .unwrap()
    }

    async fn metadata(&mut self) -> events_pb::Metadata {
        self.next().await.unwrap().metadata.unwrap()
    }

    async fn ack(&mut self, of: &events_pb::Metadata) -> AckCode {
        let request = consents_pb::AckConsentChangeEventRequest {
            ack_info: of.ack_info.clone(),
        };
        let answer = self
            .client
            .ack_consent_change_event(with(&self.token, request))
            .await;
        answer
            .unwrap()
            .into_inner()
            .ack_status
            .unwrap()
            .status_code()
    }
}

impl Bench {
    fn consent(&self, number: &str, scopes: &str) {
        let scopes = Scopes::parse(scopes);
        let consents = &self.world.consents;
        consents.give(CLIENT, &msisdn(number), &scopes, self.world.now());
    }
}

fn oldest() -> Option<StartPosition> {
    Some(StartPosition::StartAtOldestPossible(()))
}

fn id(metadata: &events_pb::Metadata) -> u64 {
    metadata.identifier.unwrap().sequence_id
}

#[tokio::test]
async fn consents_are_told_as_they_change_with_number_scopes_and_time() {
    let bench = bench(|_| {}).await;
    let token = bench.client_token(CLIENT);
    let mut listener = Listener::open(&bench, &token, None).await.unwrap();
    bench.consent(NUMBER, "phone");
    bench.consent(NUMBER, "phone openid");
    bench.world.revoke_consent(Some(CLIENT), &msisdn(NUMBER));
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let message = listener.next().await.unwrap();
        let metadata = message.metadata.unwrap();
        assert!(!metadata.is_redelivered);
        assert_eq!(metadata.timestamp.unwrap().seconds, 1_800_000_000);
        let event = message.consent_change_event.unwrap();
        assert_eq!(
            event.target,
            Some(Target::Number(E164 {
                e164: NUMBER.into()
            }))
        );
        kinds.push(match event.r#type.unwrap() {
            Type::Added(added) => added.scopes.join(" "),
            Type::Updated(updated) => updated.scopes.join(" "),
            Type::Revoked(_) => "revoked".into(),
        });
    }
    assert_eq!(kinds, ["phone", "openid phone", "revoked"]);
}

#[tokio::test]
async fn what_nobody_acknowledges_is_delivered_again_and_what_a_connection_leaves_to_another() {
    let bench = bench(|config| config.consent_ack_secs = 1).await;
    let token = bench.client_token(CLIENT);
    let mut first = Listener::open(&bench, &token, None).await.unwrap();
    bench.consent(NUMBER, "phone");
    let once = first.metadata().await;
    let again = first.metadata().await;
    assert!(again.is_redelivered && id(&once) == id(&again));
    assert_eq!(first.ack(&once).await, AckCode::Failure, "too late");

    drop(first);
    let mut second = Listener::open(&bench, &token, None).await.unwrap();
    let handed_over = second.metadata().await;
    assert!(handed_over.is_redelivered && id(&once) == id(&handed_over));
    let mut stranger = Listener::open(&bench, &bench.client_token("stranger"), None)
        .await
        .unwrap();
    assert_eq!(stranger.ack(&handed_over).await, AckCode::Failure);
    assert_eq!(second.ack(&handed_over).await, AckCode::Success);
    assert_eq!(second.ack(&handed_over).await, AckCode::Failure, "twice");
    bench.consent(OTHER, "phone");
    assert_eq!(
        id(&second.metadata().await),
        id(&once) + 1,
        "nothing in between"
    );
}

#[tokio::test]
async fn a_durable_queue_is_shared_and_a_regular_stream_is_not() {
    let bench = bench(|_| {}).await;
    let token = bench.client_token(CLIENT);
    let durable = || events_pb::StreamConfiguration {
        max_in_flight: 1,
        ..Default::default()
    };
    let regular = || events_pb::StreamConfiguration {
        stream_type: Some(StreamType::Regular(events_pb::RegularStream {})),
        acknowledge_option: Some(AcknowledgeOption::DisableExplicitAck(())),
        start_position: oldest(),
        ..Default::default()
    };
    let mut one = Listener::open(&bench, &token, Some(durable()))
        .await
        .unwrap();
    let mut two = Listener::open(&bench, &token, Some(durable()))
        .await
        .unwrap();
    bench.consent(NUMBER, "phone");
    bench.consent(OTHER, "phone");
    let ids = BTreeMap::from([
        (id(&one.metadata().await), 1),
        (id(&two.metadata().await), 2),
    ]);
    assert_eq!(ids.len(), 2, "each event went to one of the two");
    for _ in 0..2 {
        let mut alone = Listener::open(&bench, &token, Some(regular()))
            .await
            .unwrap();
        let (first, second) = (alone.metadata().await, alone.metadata().await);
        assert_eq!((id(&first), id(&second)), (1, 2));
        assert_eq!(first.ack_info, None);
    }
}

#[tokio::test]
async fn a_stream_starts_where_it_is_asked_to_and_forgets_after_an_hour() {
    let bench = bench(|_| {}).await;
    bench.consent(NUMBER, "phone");
    bench.clock.advance_ms(2_000_000);
    bench.consent(NUMBER, "phone openid");
    bench.consent(OTHER, "phone");
    let token = bench.client_token(CLIENT);
    let first = async |start_position| {
        let configuration = events_pb::StreamConfiguration {
            stream_type: Some(StreamType::Regular(events_pb::RegularStream {})),
            start_position,
            ..Default::default()
        };
        let mut listener = Listener::open(&bench, &token, Some(configuration))
            .await
            .unwrap();
        id(&listener.metadata().await)
    };
    assert_eq!(first(oldest()).await, 1);
    assert_eq!(first(Some(StartPosition::StartAtId(3))).await, 3);
    let at = |seconds| {
        Some(StartPosition::StartAtTimestamp(prost_types::Timestamp {
            seconds,
            nanos: 0,
        }))
    };
    assert_eq!(first(at(1_800_002_000)).await, 2);
    bench.clock.advance_ms(2_000_000);
    let token = bench.client_token(CLIENT);
    let mut listener = Listener::open(
        &bench,
        &token,
        Some(events_pb::StreamConfiguration {
            start_position: oldest(),
            ..Default::default()
        }),
    )
    .await
    .unwrap();
    assert_eq!(
        id(&listener.metadata().await),
        2,
        "the first is over an hour old"
    );
}

#[tokio::test]
async fn streams_end_when_their_time_is_over_and_when_the_sandbox_stops() {
    let bench = bench(|config| config.consent_stream_secs = 1).await;
    let token = bench.client_token(CLIENT);
    let mut listener = Listener::open(&bench, &token, None).await.unwrap();
    assert_eq!(listener.next().await, None, "hourly, made short");
    let mut listener = Listener::open(&bench, &token, None).await.unwrap();
    bench.stop.cancel();
    assert_eq!(listener.next().await, None);
}

#[tokio::test]
async fn events_are_for_clients_and_senseless_terms_are_refused() {
    let bench = bench(|_| {}).await;
    let code = async |token: &str, configuration| {
        let refused = Listener::open(&bench, token, Some(configuration)).await;
        refused.err().unwrap().code()
    };
    let user = bench.user_token(NUMBER, "call.routing:write");
    assert_eq!(
        code(&user, Default::default()).await,
        Code::PermissionDenied
    );
    assert_eq!(
        code("guess", Default::default()).await,
        Code::Unauthenticated
    );
    let client = bench.client_token(CLIENT);
    let too_many = events_pb::StreamConfiguration {
        max_in_flight: 201,
        ..Default::default()
    };
    assert_eq!(code(&client, too_many).await, Code::InvalidArgument);
    for seconds in [0, -1, 601, i64::MIN] {
        let timeout = prost_types::Duration { seconds, nanos: 0 };
        let terms = events_pb::StreamConfiguration {
            acknowledge_option: Some(AcknowledgeOption::CustomAckTimeout(timeout)),
            ..Default::default()
        };
        assert_eq!(
            code(&client, terms).await,
            Code::InvalidArgument,
            "{seconds}"
        );
    }
    let mut listener = Listener::open(&bench, &client, None).await.unwrap();
    for nonsense in ["", "1", "1.2", "a.b.c", "1.2.99999999999", "99.1.1"] {
        let metadata = events_pb::Metadata {
            ack_info: Some(events_pb::AckInfo {
                value: nonsense.into(),
            }),
            ..Default::default()
        };
        assert_eq!(
            listener.ack(&metadata).await,
            AckCode::Failure,
            "{nonsense}"
        );
    }
}
