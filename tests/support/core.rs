//! The sandbox in the test's own process, with numbers for real phones only, and an application that registers its
//! endpoints there as any would: with a token of its own, over gRPC.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use aftertone::clock::SystemClock;
use aftertone::domain::{Msisdn, Secret};
use aftertone::mobile_core::pb::wgtwo::common::v1::E164;
use aftertone::mobile_core::pb::wgtwo::sipbreakout::v1::{self, RouteType};
use aftertone::sandbox::{Behaviour, Config, NumberConfig, Sandbox};
use aftertone::sip::Transport;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Numbers whose phones are those of the test.
pub const ANNA: &str = "+4799990010";
pub const BJARNE: &str = "+4799990011";
/// Their password.
pub const PASSWORD: &str = "sandbox";
/// What the endpoints of the tests are registered with.
pub const ORIGINATING: &str = "11";
pub const TERMINATING: &str = "22";

/// A running sandbox.
pub struct Core {
    pub sandbox: Sandbox,
    pub dir: tempfile::TempDir,
    _stop: DropGuard,
}

impl Core {
    pub async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    /// With other settings than the usual ones of a test; the folder is the test's own.
    pub async fn with(change: impl FnOnce(&mut Config, &Path)) -> Self {
        drop(aftertone::telemetry::init_log(
            &aftertone::telemetry::Config {
                filter: "off".into(),
                ..Default::default()
            },
        ));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let number = |number: &str| NumberConfig {
            number: Msisdn::parse(number).unwrap(),
            name: String::new(),
            password: Secret::new(PASSWORD),
            behaviour: Behaviour::Phone,
        };
        let listen = ["udp", "tcp", "tls"].map(|transport| format!("{transport}://127.0.0.1:0"));
        let mut config = Config {
            http: any,
            grpc: any,
            sip: listen.iter().map(|text| text.parse().unwrap()).collect(),
            numbers: vec![number(ANNA), number(BJARNE)],
            ..Config::default()
        };
        let dir = tempfile::tempdir().unwrap();
        change(&mut config, dir.path());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let sandbox = Sandbox::start(&config, Arc::new(SystemClock), &tasks, &stop, [9; 32]).await;
        Self {
            sandbox: sandbox.unwrap(),
            dir,
            _stop: stop.drop_guard(),
        }
    }

    pub fn sip(&self, transport: Transport) -> SocketAddr {
        self.sandbox.sip_addr(transport).unwrap()
    }

    /// `sip:<user>@<address of the core>`, with the transport named.
    pub fn uri(&self, user: &str, transport: Transport) -> String {
        let name = transport.uri_name();
        format!("sip:{user}@{};transport={name}", self.sip(transport))
    }

    /// Registers an endpoint beside a number.
    pub async fn add(&self, number: &str, sip_uri: &str, route_type: RouteType) {
        let channel =
            tonic::transport::Endpoint::new(format!("http://{}", self.sandbox.grpc_addr()));
        let channel = channel.unwrap().connect().await.unwrap();
        let mut client = v1::sip_breakout_service_client::SipBreakoutServiceClient::new(channel);
        let registration = v1::Registration {
            mobile_originating_prefix: ORIGINATING.into(),
            mobile_terminating_prefix: TERMINATING.into(),
            sip_uri: sip_uri.into(),
            route_type: route_type.into(),
            phone_number: Some(E164 {
                e164: number.into(),
            }),
        };
        let mut request = tonic::Request::new(v1::UpsertRegistrationRequest {
            registration: Some(registration),
        });
        let bearer = format!("Bearer {}", self.token().await);
        request
            .metadata_mut()
            .insert("authorization", bearer.parse().unwrap());
        let response = client
            .upsert_registration(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(response.status_code(), v1::StatusCode::Ok, "{response:?}");
    }

    async fn token(&self) -> String {
        let client = reqwest::Client::new();
        let url = format!("{}/oauth2/token", self.sandbox.issuer());
        let form = [
            ("grant_type", "client_credentials"),
            ("scope", "call.routing:write"),
        ];
        let request = client.post(url).form(&form);
        let response = request
            .basic_auth("aftertone", Some("sandbox-secret"))
            .send();
        let body: serde_json::Value = response.await.unwrap().json().await.unwrap();
        body["access_token"].as_str().unwrap().to_owned()
    }
}
