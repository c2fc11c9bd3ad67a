//! `wgtwo.consents.v1`: the stream of consents that changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::stream;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::mobile_core::pb::wgtwo::common::v1::E164;
use crate::mobile_core::pb::wgtwo::consents::v1 as pb;
use crate::mobile_core::pb::wgtwo::consents::v1::consent_change_event::{Target, Type};
use crate::mobile_core::pb::wgtwo::consents::v1::consent_event_service_server::ConsentEventService;
use crate::mobile_core::pb::wgtwo::events::v1 as events;
use crate::mobile_core::pb::wgtwo::events::v1::ack_status::StatusCode;
use crate::mobile_core::pb::wgtwo::events::v1::stream_configuration::{
    AcknowledgeOption, StartPosition, StreamType,
};
use crate::sandbox::api::caller;
use crate::sandbox::api::queue::{Due, Queue, Terms};
use crate::sandbox::config::Config;
use crate::sandbox::world::lock;
use crate::sandbox::world::{ConsentChange, ConsentKind, World};

/// How long events can be delivered, and an unused queue is remembered.
const KEPT: Duration = Duration::from_secs(3600);
const DEFAULT_IN_FLIGHT: u32 = 50;
const MOST_IN_FLIGHT: u32 = 200;
const LONGEST_ACK_TIMEOUT: i64 = 600;
/// Queues at once; who opens more is refused.
const MOST_QUEUES: usize = 1000;
const LONGEST_QUEUE_NAME: usize = 200;

/// Serves the events. Clones share the queues.
#[derive(Clone)]
pub(super) struct ConsentEvents(Arc<Shared>);

struct Shared {
    world: Arc<World>,
    ack_timeout: Duration,
    longest_stream: Duration,
    stop: CancellationToken,
    queues: Mutex<Queues>,
    /// Changes with every acknowledgement and every connection that closes.
    moved: watch::Sender<()>,
}

#[derive(Default)]
struct Queues {
    latest_id: u64,
    by_id: HashMap<u64, Entry>,
}

struct Entry {
    client: String,
    /// `None` is the queue of one connection.
    name: Option<String>,
    queue: Queue,
    connections: usize,
    unused_since: Instant,
}

impl ConsentEvents {
    pub(super) fn new(config: &Config, world: &Arc<World>, stop: &CancellationToken) -> Self {
        Self(Arc::new(Shared {
            world: Arc::clone(world),
            ack_timeout: Duration::from_secs(config.consent_ack_secs),
            longest_stream: Duration::from_secs(config.consent_stream_secs),
            stop: stop.clone(),
            queues: Mutex::default(),
            moved: watch::Sender::new(()),
        }))
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        lock(&self.queues)
    }

    /// The id after which a new queue begins.
    fn start(&self, client: &str, position: Option<StartPosition>) -> u64 {
        let at_or_after = |at: i64| {
            let all = self.world.consents.changes_after(0, client, usize::MAX);
            let before = all.iter().filter(|change| change.at.as_millis() < at);
            before.map(|change| change.id).max().unwrap_or(0)
        };
        match position {
            None | Some(StartPosition::StartAtNew(())) => self.world.consents.latest_change(),
            Some(StartPosition::StartAtId(id)) => id.saturating_sub(1),
            Some(StartPosition::StartAtTimestamp(at)) => {
                let ms = at.seconds.saturating_mul(1000);
                at_or_after(ms.saturating_add(i64::from(at.nanos / 1_000_000)))
            }
            Some(StartPosition::StartAtOldestPossible(())) => at_or_after(self.oldest()),
        }
    }

    /// What is older is not delivered any more.
    fn oldest(&self) -> i64 {
        let kept = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        self.world.now().as_millis().saturating_sub(kept)
    }

    /// The queue of this name, or a new one.
    fn open(
        &self,
        client: &str,
        name: Option<String>,
        position: Option<StartPosition>,
    ) -> Result<u64, Status> {
        let start = self.start(client, position);
        let now = Instant::now();
        let mut queues = self.queues();
        queues
            .by_id
            .retain(|_, one| one.connections > 0 || one.unused_since + KEPT > now);
        let mut all = queues.by_id.iter_mut();
        let same = all.find(|(_, one)| name.is_some() && one.name == name && one.client == client);
        if let Some((id, entry)) = same {
            entry.connections += 1;
            return Ok(*id);
        }
        if queues.by_id.len() >= MOST_QUEUES {
            return Err(Status::resource_exhausted("there are too many queues"));
        }
        queues.latest_id += 1;
        let id = queues.latest_id;
        let entry = Entry {
            client: client.to_owned(),
            name,
            queue: Queue::after(start),
            connections: 1,
            unused_since: now,
        };
        queues.by_id.insert(id, entry);
        Ok(id)
    }

    fn ack(&self, client: &str, value: &str) -> bool {
        let mut parts = value.splitn(3, '.').map(str::parse::<u64>);
        let (Some(Ok(queue)), Some(Ok(id)), Some(Ok(times))) =
            (parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let mut queues = self.queues();
        let queue = queues.by_id.get_mut(&queue);
        let acked = queue
            .filter(|entry| entry.client == client)
            .is_some_and(|entry| {
                u32::try_from(times)
                    .is_ok_and(|times| entry.queue.ack(id, times, Instant::now().into_std()))
            });
        drop(queues);
        self.moved.send_replace(());
        acked
    }
}

/// One open stream.
struct Connection {
    shared: Arc<Shared>,
    client: String,
    /// The queue; also the first part of what is acknowledged with.
    queue: u64,
    /// Tells the connections of one queue apart.
    id: u64,
    terms: Terms,
    ends_at: Instant,
    changes: watch::Receiver<u64>,
    moved: watch::Receiver<()>,
}

impl Connection {
    /// The next event, or `None` where the stream ends.
    async fn next(&mut self) -> Option<pb::StreamConsentChangeEventsResponse> {
        loop {
            self.changes.mark_unchanged();
            self.moved.mark_unchanged();
            let (due, again_at) = self.take();
            if let Some((due, change)) = due {
                return Some(self.response(due, &change));
            }
            let again_at = again_at.unwrap_or(self.ends_at).min(self.ends_at);
            tokio::select! {
                () = self.shared.stop.cancelled() => return None,
                () = sleep_until(again_at) => {
                    if Instant::now() >= self.ends_at {
                        return None;
                    }
                }
                changed = self.changes.changed() => changed.ok()?,
                moved = self.moved.changed() => moved.ok()?,
            }
        }
    }

    /// What is due now, or else when to look again.
    fn take(&self) -> (Option<(Due, ConsentChange)>, Option<Instant>) {
        let consents = &self.shared.world.consents;
        let now = Instant::now().into_std();
        let oldest = self.shared.oldest();
        let mut queues = self.shared.queues();
        let Some(entry) = queues.by_id.get_mut(&self.queue) else {
            return (None, None);
        };
        let queue = &mut entry.queue;
        loop {
            let next = |after| {
                consents
                    .changes_after(after, &self.client, 1)
                    .into_iter()
                    .next()
            };
            let new = next(queue.position()).map(|change| change.id);
            let Some(due) = queue.take(self.id, self.terms, new, now) else {
                return (None, queue.next_deadline().map(Instant::from_std));
            };
            match next(due.id - 1) {
                Some(change) if change.id == due.id && change.at.as_millis() >= oldest => {
                    return (Some((due, change)), None);
                }
                _ => queue.forget(due.id),
            }
        }
    }

    fn response(&self, due: Due, change: &ConsentChange) -> pb::StreamConsentChangeEventsResponse {
        let scopes = |scopes: &crate::sandbox::world::Scopes| {
            scopes.iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let r#type = match &change.kind {
            ConsentKind::Added(given) => Type::Added(pb::ConsentAdded {
                scopes: scopes(given),
            }),
            ConsentKind::Updated(given) => Type::Updated(pb::ConsentUpdated {
                scopes: scopes(given),
            }),
            ConsentKind::Revoked => Type::Revoked(pb::ConsentRevoked {}),
        };
        let ms = change.at.as_millis();
        let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap_or(0);
        pb::StreamConsentChangeEventsResponse {
            metadata: Some(events::Metadata {
                timestamp: Some(prost_types::Timestamp {
                    seconds: ms.div_euclid(1000),
                    nanos,
                }),
                identifier: Some(events::Identifier {
                    sequence_id: change.id,
                }),
                ack_info: self.terms.ack_timeout.map(|_| events::AckInfo {
                    value: format!("{}.{}.{}", self.queue, due.id, due.times),
                }),
                is_redelivered: due.times > 1,
            }),
            consent_change_event: Some(pb::ConsentChangeEvent {
                r#type: Some(r#type),
                target: Some(Target::Number(E164 {
                    e164: change.number.e164().to_owned(),
                })),
            }),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut queues = self.shared.queues();
        if let Some(entry) = queues.by_id.get_mut(&self.queue) {
            entry.connections -= 1;
            entry.unused_since = now;
            entry.queue.closed(self.id, now.into_std());
            if entry.name.is_none() {
                queues.by_id.remove(&self.queue);
            }
        }
        drop(queues);
        self.shared.moved.send_replace(());
    }
}

#[tonic::async_trait]
impl ConsentEventService for ConsentEvents {
    type StreamConsentChangeEventsStream =
        BoxStream<'static, Result<pb::StreamConsentChangeEventsResponse, Status>>;

    async fn stream_consent_change_events(
        &self,
        request: Request<pb::StreamConsentChangeEventsRequest>,
    ) -> Result<Response<Self::StreamConsentChangeEventsStream>, Status> {
        let shared = &self.0;
        let client = client_of(&shared.world, request.metadata()).await?;
        let wanted = request
            .into_inner()
            .stream_configuration
            .unwrap_or_default();
        let terms = terms(&wanted, shared.ack_timeout)?;
        let name = match wanted.stream_type {
            Some(StreamType::Regular(_)) => None,
            Some(StreamType::DurableQueue(queue)) => Some(queue.custom_name),
            None => Some(String::new()),
        };
        if name
            .as_ref()
            .is_some_and(|name| name.len() > LONGEST_QUEUE_NAME)
        {
            return Err(Status::invalid_argument("the queue's name is too long"));
        }
        let queue = shared.open(&client, name, wanted.start_position)?;
        let connection = Connection {
            shared: Arc::clone(shared),
            client,
            queue,
            id: u64::from_be_bytes(shared.world.chance.bytes()),
            terms,
            ends_at: Instant::now() + shared.longest_stream,
            changes: shared.world.changes.subscribe(),
            moved: shared.moved.subscribe(),
        };
        let events = stream::unfold(connection, |mut connection| async {
            let event = connection.next().await?;
            Some((Ok(event), connection))
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn ack_consent_change_event(
        &self,
        request: Request<pb::AckConsentChangeEventRequest>,
    ) -> Result<Response<pb::AckConsentChangeEventResponse>, Status> {
        let client = client_of(&self.0.world, request.metadata()).await?;
        let ack = request.into_inner().ack_info.unwrap_or_default();
        let status_code = if self.0.ack(&client, &ack.value) {
            StatusCode::Success
        } else {
            StatusCode::Failure
        };
        Ok(Response::new(pb::AckConsentChangeEventResponse {
            ack_status: Some(events::AckStatus {
                status_code: status_code.into(),
            }),
        }))
    }
}

async fn client_of(
    world: &World,
    metadata: &tonic::metadata::MetadataMap,
) -> Result<String, Status> {
    let caller = caller::identify(world, metadata).await?;
    match caller.number {
        None => Ok(caller.client),
        Some(_) => Err(Status::permission_denied(
            "consent events need a token of the client (client_credentials)",
        )),
    }
}

fn terms(wanted: &events::StreamConfiguration, default: Duration) -> Result<Terms, Status> {
    let ack_timeout = match &wanted.acknowledge_option {
        None => Some(default),
        Some(AcknowledgeOption::DisableExplicitAck(())) => None,
        Some(AcknowledgeOption::CustomAckTimeout(timeout)) => {
            if !(1..=LONGEST_ACK_TIMEOUT).contains(&timeout.seconds) {
                return Err(Status::invalid_argument(
                    "custom_ack_timeout is from 1 to 600 seconds",
                ));
            }
            Some(Duration::from_secs(timeout.seconds.unsigned_abs()))
        }
    };
    let max_in_flight = match wanted.max_in_flight {
        0 => DEFAULT_IN_FLIGHT,
        most if most <= MOST_IN_FLIGHT => most,
        _ => return Err(Status::invalid_argument("max_in_flight is from 1 to 200")),
    };
    Ok(Terms {
        ack_timeout,
        max_in_flight: max_in_flight as usize,
    })
}
