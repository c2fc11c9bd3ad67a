//! A sequence of datagrams, pauses and decisions into an endpoint: no panic, and once the peer has
//! fallen silent nothing is held.
//!
//! Datagrams are separated by bytes 0x1e (the call is answered), 0x1f (it is refused) or 0x1c (a
//! pause of four seconds).
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use aftertone::sip::endpoint::Config;
use aftertone::sip::endpoint::Endpoint;
use aftertone::sip::endpoint::Event;
use aftertone::sip::endpoint::Output;
use aftertone::sip::flow::Flow;
use aftertone::sip::flow::Transport;
use aftertone::sip::message::StatusCode;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const LOCAL: ([u8; 4], u16) = ([192, 0, 2, 1], 5060);
const PEER: ([u8; 4], u16) = ([192, 0, 2, 2], 5060);

fuzz_target!(|input: &[u8]| {
    #[expect(clippy::disallowed_methods, reason = "an Instant can only be had from the clock")]
    let mut now = Instant::now();
    let config = Config {
        listen: vec![(Transport::Udp, SocketAddr::from(LOCAL))],
        trusted: vec!["0.0.0.0/0".parse().expect("a net")],
        ..Config::default()
    };
    let mut endpoint = Endpoint::new(config, [1; 32]);
    let flow =
        Flow { transport: Transport::Udp, local: LOCAL.into(), remote: PEER.into(), connection: 0 };
    let mut calls = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| matches!(byte, 0x1c | 0x1e | 0x1f));
        let (datagram, after) = rest.split_at(end.unwrap_or(rest.len()));
        endpoint.handle_datagram(now, flow, &Bytes::copy_from_slice(datagram));
        drain(&mut endpoint, now, &mut calls);
        let call = calls.last().copied();
        match (after.first(), call) {
            (Some(0x1e), Some(call)) => drop(endpoint.answer(now, call, Bytes::from_static(b"v=0\r\n"))),
            (Some(0x1f), Some(call)) => drop(endpoint.reject(now, call, StatusCode::NOT_FOUND, Vec::new())),
            (Some(0x1c), _) => run(&mut endpoint, &mut now, Duration::from_secs(4), &mut calls),
            _ => {}
        }
        drain(&mut endpoint, now, &mut calls);
        rest = after.get(1..).unwrap_or_default();
    }
    // Longer than any timer and the longest session.
    run(&mut endpoint, &mut now, Duration::from_secs(3 * 3600), &mut calls);
    assert!(endpoint.is_idle(), "{:?}", endpoint.counts());
});

fn run(endpoint: &mut Endpoint, now: &mut Instant, time: Duration, calls: &mut Vec<aftertone::sip::endpoint::CallHandle>) {
    let until = *now + time;
    while let Some(at) = endpoint.next_timeout().filter(|at| *at <= until) {
        *now = at.max(*now);
        endpoint.handle_timeout(*now);
        drain(endpoint, *now, calls);
    }
    *now = until;
}

/// Does what a driver would: names have no address here, and connections cannot be opened.
fn drain(endpoint: &mut Endpoint, now: Instant, calls: &mut Vec<aftertone::sip::endpoint::CallHandle>) {
    while let Some(output) = endpoint.poll_output() {
        match output {
            Output::Resolve { id, .. } => endpoint.resolved(now, id, Vec::new()),
            Output::Connect { id, .. } => endpoint.connect_failed(now, id),
            Output::Event(Event::Incoming { call, .. }) => calls.push(call),
            _ => {}
        }
    }
}
