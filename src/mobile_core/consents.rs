//! Consents that subscribers give and withdraw elsewhere, as the core tells them.
//!
//! The core queues events for us and keeps our place in the queue for an hour. An event leaves the
//! queue when it is acknowledged, which is done after it has been handled: what a crash interrupts
//! is delivered again, and handling an event twice must be harmless.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::domain::{Msisdn, Secret, Timestamp};
use crate::mobile_core::grpc::{LONGEST_ANSWER, Line, count};
use crate::mobile_core::pb::wgtwo::consents::v1 as pb;
use crate::mobile_core::pb::wgtwo::consents::v1::consent_change_event::{Target, Type};
use crate::mobile_core::pb::wgtwo::consents::v1::consent_event_service_client::ConsentEventServiceClient;
use crate::mobile_core::pb::wgtwo::events::v1 as events;
use crate::mobile_core::pb::wgtwo::events::v1::ack_status::StatusCode;
use crate::mobile_core::pb::wgtwo::events::v1::stream_configuration::{StartPosition, StreamType};
use crate::mobile_core::{CoreError, GrpcCore, answer};
use crate::telemetry;

/// The core ends a stream every hour. One that is silent for longer is dead.
const LONGEST_SILENCE: Duration = Duration::from_secs(90 * 60);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Where somebody has to do something first.
const WAIT_FOR_PEOPLE: Duration = Duration::from_secs(600);

/// A consent that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentEvent {
    /// What changed.
    pub change: ConsentChange,
    /// Whose consent.
    pub target: ConsentTarget,
    /// When, as the core says; what is delivered again may be an hour old.
    pub at: Option<Timestamp>,
    /// Whether it was delivered before.
    pub is_redelivered: bool,
}

/// What became of a consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsentChange {
    /// It was given.
    Added,
    /// It covers other scopes than before.
    Updated,
    /// It was withdrawn.
    Revoked,
}

impl ConsentChange {
    /// The name used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Updated => "updated",
            Self::Revoked => "revoked",
        }
    }
}

/// Whose consent changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsentTarget {
    /// One subscriber's.
    Number(Msisdn),
    /// That of a whole operator, by its name.
    Tenant(String),
}

/// An event, and what acknowledges it.
#[derive(Debug)]
pub struct Delivery {
    /// The event.
    pub event: ConsentEvent,
    ack: Option<events::AckInfo>,
}

/// Where the access token of the client comes from.
#[async_trait]
pub trait ClientTokens: Send + Sync + 'static {
    /// A token that holds, as far as anybody knows here.
    async fn token(&self) -> Result<Secret, CoreError>;

    /// The core did not accept this one: the next is another.
    async fn rejected(&self, token: &Secret);
}

/// The events, for as long as anybody asks for them: connects, and connects again.
pub struct ConsentFeed {
    line: Arc<Line>,
    tokens: Arc<dyn ClientTokens>,
    chance: SmallRng,
    stream: Option<Streaming<pb::StreamConsentChangeEventsResponse>>,
    connected_at: Instant,
    /// Connections in a row that did not last or did not come about.
    failures: u32,
    /// Whether the log says that there is none.
    is_told: bool,
    connect_at: Instant,
}

impl GrpcCore {
    /// The consents that change from now on, and those of about the last hour that were not
    /// acknowledged. `seed` spreads the reconnects of several instances.
    pub fn consent_events(&self, tokens: Arc<dyn ClientTokens>, seed: u64) -> ConsentFeed {
        ConsentFeed {
            line: Arc::clone(&self.line),
            tokens,
            chance: SmallRng::seed_from_u64(seed),
            stream: None,
            connected_at: Instant::now(),
            failures: 0,
            is_told: false,
            connect_at: Instant::now(),
        }
    }
}

impl ConsentFeed {
    /// The next event. It waits for as long as it takes; dropping the future loses nothing. The
    /// next event comes after this one was acknowledged, or again when the core is tired of waiting.
    pub async fn next(&mut self) -> Delivery {
        loop {
            let Some(stream) = &mut self.stream else {
                self.connect().await;
                continue;
            };
            match timeout(LONGEST_SILENCE, stream.message()).await {
                Ok(Ok(Some(message))) => {
                    self.failures = 0;
                    if let Some(delivery) = self.read(message).await {
                        return delivery;
                    }
                }
                // The core ends every stream once an hour.
                Ok(Ok(None)) | Err(_) => self.lost(None),
                Ok(Err(status)) => self.lost(Some(&answer::of_status(&status))),
            }
        }
    }

    /// Tells the core that the event has been handled. Where this fails the core delivers it again.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), CoreError> {
        match &delivery.ack {
            Some(ack) => self.send_ack(ack.clone()).await,
            None => Ok(()),
        }
    }

    async fn connect(&mut self) {
        sleep_until(self.connect_at).await;
        match self.open().await {
            Ok(stream) => {
                if self.is_told {
                    info!("consent events arrive again");
                    self.is_told = false;
                }
                self.connected_at = Instant::now();
                metrics::gauge!(telemetry::CONSENT_STREAM).set(1.0);
                self.stream = Some(stream);
            }
            Err(error) => self.lost(Some(&error)),
        }
    }

    async fn open(&self) -> Result<Streaming<pb::StreamConsentChangeEventsResponse>, CoreError> {
        let token = self.tokens.token().await?;
        let message = pb::StreamConsentChangeEventsRequest {
            stream_configuration: Some(events::StreamConfiguration {
                stream_type: Some(StreamType::DurableQueue(events::DurableQueue::default())),
                acknowledge_option: None,
                // One after the other arrives in order.
                max_in_flight: 1,
                start_position: Some(StartPosition::StartAtOldestPossible(())),
            }),
        };
        let request = self.line.request(message, &token)?;
        let started = Instant::now();
        let answer = self.line.ask(async |channel| {
            consents(channel)
                .stream_consent_change_events(request)
                .await
        });
        let result = answer.await;
        count("consent-stream", started, result.as_ref().err());
        self.judge(&token, result).await
    }

    async fn judge<T>(&self, token: &Secret, result: Result<T, CoreError>) -> Result<T, CoreError> {
        if matches!(result, Err(CoreError::Unauthenticated)) {
            self.tokens.rejected(token).await;
        }
        result
    }

    /// The stream ended, or there is none: waits longer each time, with chance, so that instances
    /// that lost the core together do not come back together.
    fn lost(&mut self, error: Option<&CoreError>) {
        metrics::gauge!(telemetry::CONSENT_STREAM).set(0.0);
        let stream = self.stream.take();
        let has_lasted = stream.is_some() && self.connected_at.elapsed() >= LONGEST_WAIT;
        self.failures = if has_lasted {
            0
        } else {
            self.failures.saturating_add(1)
        };
        let mut longest = LONGEST_WAIT;
        if let Some(error) = error {
            if !self.is_told {
                warn!(%error, "consent events do not arrive now; trying again");
                self.is_told = true;
            }
            if !error.is_transient() {
                longest = WAIT_FOR_PEOPLE;
            }
        }
        let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(16));
        let wait = wait
            .min(longest)
            .mul_f64(self.chance.random_range(0.5..1.0));
        self.connect_at = Instant::now() + wait;
    }

    /// What makes no sense will make none when it is delivered again: it is acknowledged at once.
    async fn read(&self, message: pb::StreamConsentChangeEventsResponse) -> Option<Delivery> {
        let metadata = message.metadata.unwrap_or_default();
        let Some((change, target)) = message.consent_change_event.and_then(read_event) else {
            warn!("a consent event makes no sense and is left out");
            metrics::counter!(telemetry::CONSENT_EVENTS, "change" => "nonsense").increment(1);
            if let Some(ack) = metadata.ack_info {
                // Where it fails the event comes again, and is acknowledged then.
                drop(self.send_ack(ack).await);
            }
            return None;
        };
        metrics::counter!(telemetry::CONSENT_EVENTS, "change" => change.as_str()).increment(1);
        let at = metadata.timestamp.map(|at| {
            let ms = at.seconds.saturating_mul(1000);
            Timestamp::from_millis(ms.saturating_add(i64::from(at.nanos / 1_000_000)))
        });
        Some(Delivery {
            event: ConsentEvent {
                change,
                target,
                at,
                is_redelivered: metadata.is_redelivered,
            },
            ack: metadata.ack_info,
        })
    }

    async fn send_ack(&self, ack: events::AckInfo) -> Result<(), CoreError> {
        let token = self.tokens.token().await?;
        let message = pb::AckConsentChangeEventRequest {
            ack_info: Some(ack),
        };
        let request = self.line.request(message, &token)?;
        let started = Instant::now();
        let answer = self
            .line
            .ask(async |channel| consents(channel).ack_consent_change_event(request).await);
        let result = answer.await.and_then(|answer| {
            match answer.ack_status.map(|status| status.status_code()) {
                Some(StatusCode::Success) => Ok(()),
                _ => Err(CoreError::Nonsense("the acknowledgement failed".into())),
            }
        });
        count("consent-ack", started, result.as_ref().err());
        self.judge(&token, result).await
    }
}

fn consents(channel: Channel) -> ConsentEventServiceClient<Channel> {
    ConsentEventServiceClient::new(channel).max_decoding_message_size(LONGEST_ANSWER)
}

fn read_event(event: pb::ConsentChangeEvent) -> Option<(ConsentChange, ConsentTarget)> {
    let change = match event.r#type? {
        Type::Added(_) => ConsentChange::Added,
        Type::Updated(_) => ConsentChange::Updated,
        Type::Revoked(_) => ConsentChange::Revoked,
    };
    let target = match event.target? {
        Target::Number(number) => ConsentTarget::Number(Msisdn::parse(&number.e164).ok()?),
        Target::Tenant(tenant) => ConsentTarget::Tenant(tenant),
    };
    Some((change, target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mobile_core::pb::wgtwo::common::v1::E164;

    #[test]
    fn an_event_without_a_kind_or_a_target_or_with_a_bad_number_makes_no_sense() {
        let number = |e164: &str| Some(Target::Number(E164 { e164: e164.into() }));
        let revoked = Some(Type::Revoked(pb::ConsentRevoked {}));
        let read = |r#type, target| read_event(pb::ConsentChangeEvent { r#type, target });
        assert_eq!(
            read(revoked.clone(), number("+4799990001")),
            Some((
                ConsentChange::Revoked,
                ConsentTarget::Number(Msisdn::parse("+4799990001").unwrap())
            ))
        );
        assert_eq!(
            read(revoked.clone(), Some(Target::Tenant("x".into()))),
            Some((ConsentChange::Revoked, ConsentTarget::Tenant("x".into())))
        );
        assert_eq!(read(None, number("+4799990001")), None);
        assert_eq!(read(revoked.clone(), None), None);
        assert_eq!(read(revoked, number("99990001")), None);
    }
}
