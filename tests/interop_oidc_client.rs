//! `openid-client`, an OpenID Connect client that others wrote and certified, signs in at the
//! sandbox with every check it has. `npm ci --prefix tests/peers/oidc_client` installs it.
#![cfg(feature = "sandbox")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/peers.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
mod peers;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aftertone::clock::SystemClock;
use aftertone::sandbox::{ClientConfig, Config, Sandbox};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PEER: &str = "tests/peers/oidc_client";

#[tokio::test]
async fn a_certified_client_finds_nothing_wrong_with_the_identity_server() {
    let library = Path::new(PEER).join("node_modules/openid-client/package.json");
    let (Some(node), Some(_)) = (peers::find("node"), peers::find_file(&library)) else {
        return;
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        http: any,
        grpc: any,
        sip: vec!["udp://127.0.0.1:0".parse().unwrap()],
        ..Config::default()
    };
    let stop = CancellationToken::new();
    let clock = Arc::new(SystemClock);
    let tasks = TaskTracker::new();
    let sandbox = Sandbox::start(&config, clock, &tasks, &stop, [5; 32]).await;
    let sandbox = sandbox.unwrap();

    let ours = ClientConfig::default();
    let mut command = Command::new(node);
    command
        .arg(Path::new(PEER).join("client.mjs"))
        .args([sandbox.issuer(), &ours.id, ours.secret.expose()])
        .args([&ours.redirect_uris[0], "+4799990003"]);
    let output = peers::run(command, Duration::from_secs(60)).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    assert_eq!(said.lines().count(), 13, "{said}");
    stop.cancel();
}
