//! The way to endpoints and from them: names, certificates, prefixes, reasons, and calls of their own.

use aftertone::mobile_core::pb::wgtwo::sipbreakout::v1::RouteType;
use aftertone::sip::message::HeaderName;
use aftertone::sip::{OutgoingEvent, OutgoingRequest, Transport};

use crate::agents::{Agent, Manner, Outcome, call};
use crate::authorities;
use crate::dns::Dns;
use crate::support::core::{ANNA, BJARNE, Core};

/// A sandbox that believes the test's authority, and asks the test's name server.
async fn core_with(dns: &Dns, hosts: &[&str]) -> Core {
    Core::with(|config, dir| {
        authorities::write(dir, &[("endpoint", hosts), ("phone", &["localhost"])]);
        config.tls_ca = Some(dir.join("ca.pem"));
        config.resolver = Some(dns.addr);
        config.ring_timeout_ms = 300;
    })
    .await
}

/// The endpoint takes Bjarne's calls, whose phone is off; Anna calls him.
async fn called(core: &Core, dns: &Dns) -> (Outcome, Agent) {
    let dir = core.dir.path();
    let endpoint = Agent::start("endpoint", Manner::Answers, Transport::Tls, dir, core).await;
    dns.add("voicemail.test", "node-1.elsewhere.test", endpoint.port());
    core.add(BJARNE, "sips:voicemail.test", RouteType::Fallback)
        .await;
    let anna = Agent::phone(core, ANNA, Manner::Answers, Transport::Tcp).await;
    (
        call(&anna, core, Transport::Tcp, ANNA, BJARNE).await,
        endpoint,
    )
}

#[tokio::test]
async fn an_endpoint_without_port_is_found_by_srv_and_its_certificate_bears_the_host_of_the_uri() {
    let dns = Dns::start().await;
    let core = core_with(&dns, &["voicemail.test"]).await;
    let (outcome, endpoint) = called(&core, &dns).await;
    assert_eq!(outcome, Outcome::AnsweredBy("endpoint".into()));
    let invite = endpoint.invites().remove(0);
    assert_eq!(
        invite.uri.to_string(),
        "sip:+224799990011@voicemail.test;user=phone"
    );
    let history = invite.headers.history();
    assert_eq!(history[0].uri().dialled().unwrap(), BJARNE);
    assert_eq!(history[1].cause(), Some(404));
    let mut identities = invite.headers.addresses(&HeaderName::PAssertedIdentity);
    assert_eq!(identities.next().unwrap().uri.dialled().unwrap(), ANNA);
    assert_eq!(
        invite.headers.addresses(&HeaderName::RecordRoute).count(),
        2
    );
}

#[tokio::test]
async fn a_certificate_that_bears_the_srv_target_only_is_not_believed() {
    let dns = Dns::start().await;
    let core = core_with(&dns, &["node-1.elsewhere.test"]).await;
    let (outcome, endpoint) = called(&core, &dns).await;
    assert_eq!(outcome, Outcome::Refused(500));
    assert_eq!(endpoint.invites().len(), 0);
}

#[tokio::test]
async fn an_endpoint_whose_name_is_unknown_is_unreachable() {
    let dns = Dns::start().await;
    let core = core_with(&dns, &["voicemail.test"]).await;
    core.add(BJARNE, "sips:nowhere.test", RouteType::Fallback)
        .await;
    let busy = Agent::phone(&core, BJARNE, Manner::Refuses(486), Transport::Udp).await;
    let anna = Agent::phone(&core, ANNA, Manner::Answers, Transport::Udp).await;
    let outcome = call(&anna, &core, Transport::Udp, ANNA, BJARNE).await;
    assert_eq!(outcome, Outcome::Refused(486));
    drop(busy);
}

/// The endpoint calls Bjarne; gives the status that it gets.
async fn ingress(core: &Core, endpoint: &Agent) -> u16 {
    let target = core.uri(BJARNE, Transport::Tls).parse().unwrap();
    let mut request = OutgoingRequest::new(target, Some("v=0 offer\r\n".into()));
    request.from = Some("sip:+15551234@voicemail.test".parse().unwrap());
    let mut call = endpoint.sip.call(request).await.unwrap();
    loop {
        match call.next_event().await {
            OutgoingEvent::Trying | OutgoingEvent::Ringing { .. } => {}
            OutgoingEvent::Answered { response, .. } | OutgoingEvent::Rejected(response) => {
                return response.status.code();
            }
            OutgoingEvent::Ended(end) => panic!("{end:?}"),
        }
    }
}

#[tokio::test]
async fn an_ingress_endpoint_may_call_the_number_and_others_are_asked_who_they_are() {
    let dns = Dns::start().await;
    let core = core_with(&dns, &["voicemail.test"]).await;
    let bjarne = Agent::phone(&core, BJARNE, Manner::Answers, Transport::Udp).await;
    let dir = core.dir.path();
    let endpoint = Agent::start("endpoint", Manner::Answers, Transport::Tls, dir, &core).await;
    let other = Agent::start("endpoint", Manner::Answers, Transport::Tls, dir, &core).await;
    assert_eq!(
        ingress(&core, &endpoint).await,
        407,
        "nothing is registered yet"
    );
    dns.add("voicemail.test", "node-1.elsewhere.test", endpoint.port());
    core.add(BJARNE, "sips:voicemail.test", RouteType::Ingress)
        .await;
    assert_eq!(ingress(&core, &endpoint).await, 200);
    assert_eq!(bjarne.invites().len(), 1);
    assert_eq!(ingress(&core, &other).await, 407);
    assert_eq!(bjarne.invites().len(), 1);
}

#[tokio::test]
async fn a_fallback_endpoint_may_not_call_the_number() {
    let dns = Dns::start().await;
    let core = core_with(&dns, &["voicemail.test"]).await;
    let dir = core.dir.path();
    let endpoint = Agent::start("endpoint", Manner::Answers, Transport::Tls, dir, &core).await;
    dns.add("voicemail.test", "node-1.elsewhere.test", endpoint.port());
    core.add(BJARNE, "sips:voicemail.test", RouteType::Fallback)
        .await;
    assert_eq!(ingress(&core, &endpoint).await, 403);
}

#[tokio::test]
async fn the_callers_prefix_is_used_where_he_has_a_registration_too() {
    let dns = Dns::start().await;
    let core = core_with(&dns, &["voicemail.test"]).await;
    core.add(ANNA, "sips:voicemail.test", RouteType::Fallback)
        .await;
    let (outcome, endpoint) = called(&core, &dns).await;
    assert_eq!(outcome, Outcome::AnsweredBy("endpoint".into()));
    let invite = endpoint.invites().remove(0);
    assert_eq!(invite.uri.dialled().unwrap(), "+114799990011");
}
