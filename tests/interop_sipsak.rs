//! What sipsak, a tool that others wrote, gets to hear when it asks how we are.

mod support;

use std::process::{Command, Output};

use aftertone::sip::Transport;
use support::{SOON, Service};

/// OPTIONS over a transport; sipsak fails by itself when it does not get a 200.
async fn ask(service: &Service, transport: Transport) -> Option<Output> {
    let mut command = Command::new(support::peers::find("sipsak")?);
    let target = format!("sip:voicemail@{}", service.sip(transport));
    // Its own host name may have no domain, which it would refuse to use.
    command.args(["-vvv", "-H", "127.0.0.1", "-E", transport.uri_name()]);
    command.args(["-s", &target]);
    Some(support::peers::run(command, SOON).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn options_tell_what_we_can() {
    let service = Service::start().await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let Some(output) = ask(&service, transport).await else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        let (_, answer) = said.split_once("\nSIP/2.0 200 OK").expect("an answer");
        assert!(
            answer.contains("\nAllow: INVITE, ACK, BYE, CANCEL, OPTIONS"),
            "{answer}"
        );
        assert!(answer.contains("\nAccept: application/sdp"), "{answer}");
        assert!(answer.contains("\nSupported: 100rel, timer"), "{answer}");
    }
    service.stop().await;
}
