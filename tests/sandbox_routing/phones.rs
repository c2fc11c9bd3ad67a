//! Phones among themselves, over every transport.

use aftertone::sip::digest::Algorithm;
use aftertone::sip::{DialogEvent, OutgoingEvent, Transport};

use crate::agents::{Agent, Manner, Outcome, call, place};
use crate::authorities;
use crate::support::SOON;
use crate::support::core::{ANNA, BJARNE, Core};

async fn core() -> Core {
    Core::with(|config, dir| {
        authorities::write(dir, &[("phone", &["localhost"])]);
        config.digest = vec![Algorithm::Sha256, Algorithm::Md5];
    })
    .await
}

#[tokio::test]
async fn phones_call_each_other_over_every_pair_of_transports() {
    let core = core().await;
    let all = [Transport::Udp, Transport::Tcp, Transport::Tls];
    for (from, to) in all.into_iter().flat_map(|from| all.map(|to| (from, to))) {
        let bjarne = Agent::phone(&core, BJARNE, Manner::Answers, to).await;
        let anna = Agent::phone(&core, ANNA, Manner::Rings, from).await;
        let outcome = call(&anna, &core, from, ANNA, BJARNE).await;
        assert_eq!(
            outcome,
            Outcome::AnsweredBy("phone".into()),
            "{from} to {to}"
        );
        let invite = bjarne.invites().pop().unwrap();
        let routes = invite
            .headers
            .list(&aftertone::sip::message::HeaderName::RecordRoute);
        let expected = if (from, to) == (Transport::Udp, Transport::Udp) {
            1
        } else {
            2
        };
        assert_eq!(routes.count(), expected, "{from} to {to}");
    }
}

#[tokio::test]
async fn a_caller_gives_up_and_the_phone_stops_ringing() {
    let core = core().await;
    let bjarne = Agent::phone(&core, BJARNE, Manner::Rings, Transport::Tcp).await;
    let anna = Agent::phone(&core, ANNA, Manner::Rings, Transport::Udp).await;
    let mut call = place(&anna, &core, Transport::Udp, ANNA, BJARNE).await;
    crate::support::wait_for(async || (!bjarne.invites().is_empty()).then_some(())).await;
    call.cancel();
    let ended = async {
        loop {
            if let OutgoingEvent::Ended(end) = call.next_event().await {
                return end;
            }
        }
    };
    let end = tokio::time::timeout(SOON, ended).await.unwrap();
    assert_eq!(end, aftertone::sip::DialogEnd::Cancelled);
}

#[tokio::test]
async fn an_offer_in_the_middle_of_a_call_and_the_end_reach_the_other_phone() {
    let core = core().await;
    let _bjarne = Agent::phone(&core, BJARNE, Manner::Answers, Transport::Tls).await;
    let anna = Agent::phone(&core, ANNA, Manner::Rings, Transport::Tcp).await;
    let mut call = place(&anna, &core, Transport::Tcp, ANNA, BJARNE).await;
    let mut dialog = loop {
        match call.next_event().await {
            OutgoingEvent::Answered { dialog, .. } => break dialog,
            OutgoingEvent::Trying | OutgoingEvent::Ringing { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    // Bjarne's phone decides on no offer: dropping it refuses it, with its own status.
    let refused = dialog.offer("v=0 again\r\n".into()).await;
    let refusal = aftertone::sip::OfferError::Refused(
        aftertone::sip::message::StatusCode::SERVER_INTERNAL_ERROR,
    );
    assert_eq!(refused, Err(refusal));
    dialog.send_bye(None);
    let end = async { while !matches!(dialog.next_event().await, DialogEvent::Ended(_)) {} };
    tokio::time::timeout(SOON, end).await.unwrap();
}
