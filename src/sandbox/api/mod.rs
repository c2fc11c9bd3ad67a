//! The registration API and the stream of consent events, over gRPC, described by reflection
//! (`grpc.reflection.v1` and `v1alpha`) and with a health service.

mod caller;
mod consents;
mod queue;
mod registrations;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::error;

use crate::connections;
use crate::mobile_core::pb;
use crate::mobile_core::pb::wgtwo::consents::v1::consent_event_service_server::ConsentEventServiceServer;
use crate::mobile_core::pb::wgtwo::sipbreakout::v0::sip_breakout_service_server as v0;
use crate::mobile_core::pb::wgtwo::sipbreakout::v1::sip_breakout_service_server as v1;
use crate::sandbox::StartError;
use crate::sandbox::api::consents::ConsentEvents;
use crate::sandbox::api::registrations::RegistrationApi;
use crate::sandbox::config::Config;
use crate::sandbox::world::World;

/// No request of this API is longer.
const LONGEST_REQUEST: usize = 64 * 1024;
/// Requests of one connection at the same time; more wait.
const REQUESTS: usize = 256;
/// Until an answer begins; the slow mode is faster than that.
const DEADLINE: Duration = Duration::from_secs(30);

/// Serves the API until `stop`. Returns the address it listens on.
pub(crate) async fn start(
    config: &Config,
    world: &Arc<World>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<SocketAddr, StartError> {
    let (listener, address) = connections::bind("sandbox.grpc", config.grpc).await?;
    let api = RegistrationApi::new(config, world);
    let events = ConsentEvents::new(config, world, stop);
    let v1 = v1::SipBreakoutServiceServer::new(api.clone());
    let v0 = v0::SipBreakoutServiceServer::new(api);
    let events = ConsentEventServiceServer::new(events);

    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<v1::SipBreakoutServiceServer<RegistrationApi>>()
        .await;
    reporter
        .set_serving::<v0::SipBreakoutServiceServer<RegistrationApi>>()
        .await;
    reporter
        .set_serving::<ConsentEventServiceServer<ConsentEvents>>()
        .await;
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let unreadable = |error| StartError::part("the descriptors of its API cannot be read", error);
    let reflection = describe().build_v1().map_err(unreadable)?;
    let reflection_alpha = describe().build_v1alpha().map_err(unreadable)?;

    let serving = Server::builder()
        .concurrency_limit_per_connection(REQUESTS)
        .timeout(DEADLINE)
        .add_service(v1.max_decoding_message_size(LONGEST_REQUEST))
        .add_service(v0.max_decoding_message_size(LONGEST_REQUEST))
        .add_service(events.max_decoding_message_size(LONGEST_REQUEST))
        .add_service(health)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            stop.clone().cancelled_owned(),
        );
    tasks.spawn(async move {
        if let Err(error) = serving.await {
            error!(%error, "the sandbox's registration API has ended");
        }
    });
    Ok(address)
}
