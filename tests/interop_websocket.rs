//! SIP over WebSocket, judged by JsSIP, which is what softphones in browsers are made of.

mod support;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use aftertone::sip::Transport;
use support::core::{ANNA, BJARNE, Core, PASSWORD};
use support::{NUMBER, Service};

/// Where `npm ci --prefix tests/peers/jssip` puts it.
const JSSIP: &str = "node_modules/jssip/package.json";

/// Runs a script of JsSIP's to its end; `None` where it is not installed.
async fn jssip(script: &str, arguments: &[&str]) -> Option<Output> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/jssip");
    let node = support::peers::find("node")?;
    support::peers::find_file(&folder.join(JSSIP))?;
    let mut command = std::process::Command::new(node);
    command.arg(folder.join(script)).args(arguments);
    Some(support::peers::run(command, Duration::from_secs(30)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn jssip_asks_calls_is_answered_and_hangs_up() {
    let service = Service::start().await;
    service.subscriber(NUMBER).await;
    let url = format!("ws://{}", service.sip(Transport::Ws));
    let target = format!("sip:{NUMBER}@127.0.0.1");
    let Some(output) = jssip("call.mjs", &[&url, &target]).await else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = said.lines().collect();
    let [connected, options, confirmed, ended, stopped] = &lines[..] else {
        panic!("{said}{}", String::from_utf8_lossy(&output.stderr));
    };
    assert_eq!(*connected, "connected");
    assert!(options.starts_with("options 200 INVITE"), "{options}");
    assert_eq!(*confirmed, "confirmed");
    assert_eq!(*ended, "ended local Terminated");
    assert_eq!(*stopped, "stopped");
    assert!(output.status.success());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jssip_signs_on_as_a_number_of_the_sandbox() {
    let core = Core::with(|config, _| config.sip.push("ws://127.0.0.1:0".parse().unwrap())).await;
    let url = format!("ws://{}", core.sip(Transport::Ws));
    // Nobody has signed on as the other number, and nothing is registered for it.
    let Some(output) = jssip("sign_on.mjs", &[&url, ANNA, PASSWORD, BJARNE]).await else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "registered\ncall 480\nunregistered\n", "{error}");
    assert!(output.status.success(), "{error}");
    let refused = jssip("sign_on.mjs", &[&url, ANNA, "guessed", BJARNE]).await;
    let refused = refused.expect("it was there before");
    assert_eq!(String::from_utf8_lossy(&refused.stdout), "refused 401\n");
    assert_eq!(refused.status.code(), Some(2));
}
