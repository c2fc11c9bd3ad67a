//! The way messages take (RFC 3261 sections 12.2.1.1 and 18, RFC 3263, 3581 and 5923).

use aftertone::sip::endpoint::Config;
use aftertone::sip::endpoint::Event;
use aftertone::sip::endpoint::Hop;
use aftertone::sip::endpoint::OutgoingRequest;
use aftertone::sip::endpoint::Output;
use aftertone::sip::endpoint::ResolveId;
use aftertone::sip::endpoint::Target;
use aftertone::sip::flow::Flow;
use aftertone::sip::flow::Transport;
use aftertone::sip::message::Message;
use aftertone::sip::message::Uri;

use crate::bench::ANSWER;
use crate::bench::Bench;
use crate::bench::Msg;
use crate::bench::OFFER;
use crate::bench::config;
use crate::bench::header;
use crate::bench::reply;
use crate::bench::tcp;
use crate::bench::udp;

fn call(bench: &mut Bench, target: &str) -> aftertone::sip::endpoint::CallHandle {
    bench
        .endpoint
        .call(
            bench.now,
            OutgoingRequest::new(Uri::parse(target).unwrap(), Some(OFFER.into())),
        )
        .unwrap()
}

fn lookup(bench: &mut Bench) -> (ResolveId, Target) {
    bench.collect();
    match bench.asked.pop_front() {
        Some(Output::Resolve { id, target }) => (id, target),
        other => panic!("expected a lookup, got {other:?}"),
    }
}

fn connect(bench: &mut Bench) -> (ResolveId, Transport, String, Option<String>) {
    bench.collect();
    match bench.asked.pop_front() {
        Some(Output::Connect {
            id,
            transport,
            remote,
            server_name,
        }) => (id, transport, remote.to_string(), server_name),
        other => panic!("expected a connection, got {other:?}"),
    }
}

fn sent_to(bench: &mut Bench) -> (Flow, Message) {
    bench
        .take()
        .map(|(_, flow, message)| (flow, message))
        .expect("a message")
}

#[test]
fn responses_go_where_the_via_says() {
    let rules = [
        (
            "SIP/2.0/UDP 10.0.0.9:5070;branch=z9hG4bK1",
            "10.0.0.9:5070",
            "",
        ),
        ("SIP/2.0/UDP 10.0.0.9;branch=z9hG4bK2", "10.0.0.9:5060", ""),
        (
            "SIP/2.0/UDP 10.0.0.9:5070;rport;branch=z9hG4bK3",
            "10.0.0.9:1234",
            ";rport=1234;received=10.0.0.9",
        ),
        (
            "SIP/2.0/UDP alice.example:5070;branch=z9hG4bK4",
            "10.0.0.9:1234",
            ";received=10.0.0.9",
        ),
        (
            "SIP/2.0/UDP 192.168.1.7;branch=z9hG4bK5",
            "10.0.0.9:1234",
            ";received=10.0.0.9",
        ),
    ];
    for (via, address, marks) in rules {
        let mut bench = Bench::new();
        bench.receive_on(udp("10.0.0.9:1234"), Msg::new("OPTIONS").via(via).text());
        let (flow, message) = sent_to(&mut bench);
        assert_eq!(flow.remote.to_string(), address, "{via}");
        let via = header(message.headers(), "Via");
        assert!(marks.split(';').all(|mark| via.contains(mark)), "{via}");
    }
}

#[test]
fn a_response_finds_its_caller_when_the_connection_is_gone() {
    let mut bench = Bench::new();
    bench.flow = tcp("10.0.0.9:40000", 1);
    let call = bench.incoming(&Msg::invite().via("SIP/2.0/TCP 10.0.0.9:5062;branch=z9hG4bKgone"));
    bench.endpoint.flow_closed(bench.now, bench.flow);
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    let (id, transport, remote, _) = connect(&mut bench);
    assert_eq!((transport, &*remote), (Transport::Tcp, "10.0.0.9:5062"));
    bench.wait_secs(2);
    assert!(
        bench.asked.is_empty(),
        "one connection, whatever is repeated meanwhile"
    );
    let anew = tcp("10.0.0.9:5062", 2);
    bench.endpoint.connected(bench.now, id, anew);
    bench.collect();
    let (flow, message) = sent_to(&mut bench);
    assert_eq!(flow, anew);
    assert_eq!(message.body(), ANSWER);
    bench.silence();
}

#[test]
fn requests_follow_the_route_set() {
    let mut bench = Bench::new();
    let invite = Msg::invite()
        .line("Record-Route: <sip:10.0.0.20;lr>, <sip:p2.example;lr>")
        .line("Record-Route: <sip:p1.example;lr>");
    let (call, _) = bench.established(&invite);
    bench.endpoint.bye(bench.now, call, None).unwrap();
    let (flow, message) = sent_to(&mut bench);
    assert_eq!(flow.remote.to_string(), "10.0.0.20:5060");
    assert_eq!(
        header(message.headers(), "Route"),
        "<sip:10.0.0.20;lr>, <sip:p2.example;lr>, <sip:p1.example;lr>"
    );
    let Message::Request(bye) = message else {
        panic!("a response")
    };
    assert_eq!(bye.uri.to_string(), "sip:alice@10.0.0.9:5070");
}

#[test]
fn the_200_mirrors_the_record_route() {
    let mut bench = Bench::new();
    let call = bench
        .incoming(&Msg::invite().line("Record-Route: <sip:10.0.0.20;lr>, <sip:p2.example;lr>"));
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    assert_eq!(
        header(&bench.response(200).headers, "Record-Route"),
        "<sip:10.0.0.20;lr>, <sip:p2.example;lr>"
    );
}

#[test]
fn a_strict_router_gets_its_uri_and_the_target_goes_last() {
    let mut bench = Bench::new();
    let (call, _) = bench
        .established(&Msg::invite().line("Record-Route: <sip:10.0.0.20>, <sip:p2.example;lr>"));
    bench.endpoint.bye(bench.now, call, None).unwrap();
    let (flow, message) = sent_to(&mut bench);
    assert_eq!(flow.remote.to_string(), "10.0.0.20:5060");
    assert_eq!(
        header(message.headers(), "Route"),
        "<sip:p2.example;lr>, <sip:alice@10.0.0.9:5070>"
    );
    let Message::Request(bye) = message else {
        panic!("a response")
    };
    assert_eq!(bye.uri.to_string(), "sip:10.0.0.20");
}

#[test]
fn the_callers_route_set_is_reversed() {
    let mut bench = Bench::new();
    call(&mut bench, "sip:bob@10.0.0.9");
    let invite = bench.request("INVITE");
    let lines = [
        "Contact: <sip:bob@10.0.0.30>",
        "Record-Route: <sip:p2.example;lr>, <sip:10.0.0.20;lr>",
    ];
    bench.receive(reply(&invite, 200, "b", &lines, ANSWER));
    let (flow, ack) = sent_to(&mut bench);
    assert_eq!(flow.remote.to_string(), "10.0.0.20:5060");
    assert_eq!(
        header(ack.headers(), "Route"),
        "<sip:10.0.0.20;lr>, <sip:p2.example;lr>"
    );
}

#[test]
fn an_open_connection_of_the_peer_is_reused() {
    let mut bench = Bench::new();
    bench.flow = tcp("10.0.0.9:40000", 1);
    let mut invite = Msg::invite();
    invite.contact = Some("<sip:alice@10.0.0.9:5062;transport=tcp>".into());
    let (handle, _) = bench.established(&invite);
    bench
        .endpoint
        .offer(bench.now, handle, "v=0 more".into())
        .unwrap();
    let (flow, message) = sent_to(&mut bench);
    assert_eq!(flow, bench.flow);
    assert_eq!(
        header(message.headers(), "Contact"),
        "<sip:voicemail@10.0.0.1:5060;transport=tcp>"
    );
    assert!(header(message.headers(), "Via").starts_with("SIP/2.0/TCP 10.0.0.1:5060;"));
}

#[test]
fn a_lost_connection_is_opened_anew() {
    let mut bench = Bench::new();
    bench.flow = tcp("10.0.0.9:40000", 1);
    let mut invite = Msg::invite();
    invite.contact = Some("<sip:alice@10.0.0.9:5062;transport=tcp>".into());
    let (handle, _) = bench.established(&invite);
    bench.endpoint.flow_closed(bench.now, bench.flow);
    bench.endpoint.bye(bench.now, handle, None).unwrap();
    let (id, _, remote, _) = connect(&mut bench);
    assert_eq!(remote, "10.0.0.9:5062");
    bench
        .endpoint
        .connected(bench.now, id, tcp("10.0.0.9:5062", 2));
    assert_eq!(
        bench.request("BYE").uri.to_string(),
        "sip:alice@10.0.0.9:5062;transport=tcp"
    );
    // The next request finds the connection.
    call(&mut bench, "sip:bob@10.0.0.9:5062;transport=tcp");
    bench.request("INVITE");
}

#[test]
fn who_wants_the_same_connection_waits_for_it() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        call(&mut bench, "sip:bob@10.0.0.9:5062;transport=tcp");
    }
    let (id, ..) = connect(&mut bench);
    assert!(bench.asked.is_empty());
    bench
        .endpoint
        .connected(bench.now, id, tcp("10.0.0.9:5062", 2));
    for _ in 0..3 {
        bench.request("INVITE");
    }
    bench.silence();
}

#[test]
fn names_are_looked_up_and_their_addresses_tried_in_order() {
    let mut bench = Bench::new();
    call(&mut bench, "sips:bob@b.example");
    let (id, target) = lookup(&mut bench);
    assert_eq!(
        target,
        Target {
            host: "b.example".into(),
            port: None,
            transport: Some(Transport::Tls),
            secure: true
        }
    );
    let hop = |remote: &str| Hop {
        transport: Transport::Tls,
        remote: remote.parse().unwrap(),
    };
    bench.endpoint.resolved(
        bench.now,
        id,
        vec![hop("10.0.0.31:5061"), hop("10.0.0.32:5061")],
    );
    let (id, transport, remote, name) = connect(&mut bench);
    assert_eq!(
        (transport, &*remote, name.as_deref()),
        (Transport::Tls, "10.0.0.31:5061", Some("b.example"))
    );
    bench.endpoint.connect_failed(bench.now, id);
    let (id, _, remote, _) = connect(&mut bench);
    assert_eq!(remote, "10.0.0.32:5061");
    let flow = Flow {
        transport: Transport::Tls,
        ..tcp("10.0.0.32:5061", 4)
    };
    bench.endpoint.connected(bench.now, id, flow);
    let invite = bench.request("INVITE");
    assert!(header(&invite.headers, "Contact").starts_with("<sips:voicemail@"));
    assert!(header(&invite.headers, "Via").starts_with("SIP/2.0/TLS "));
}

#[test]
fn an_address_that_says_503_or_nothing_is_followed_by_the_next() {
    let mut bench = Bench::new();
    call(&mut bench, "sip:bob@b.example;transport=udp");
    let (id, _) = lookup(&mut bench);
    let hops = ["10.0.0.31:5060", "10.0.0.32:5060", "10.0.0.33:5060"];
    let hops = hops.map(|remote| Hop {
        transport: Transport::Udp,
        remote: remote.parse().unwrap(),
    });
    bench.endpoint.resolved(bench.now, id, hops.to_vec());
    let first = bench.request("INVITE");
    bench.receive(reply(&first, 503, "x", &[], ""));
    bench.request("ACK");
    let (flow, second) = sent_to(&mut bench);
    assert_eq!(flow.remote.to_string(), "10.0.0.32:5060");
    assert_ne!(
        header(second.headers(), "Via"),
        header(&first.headers, "Via"),
        "a branch of its own"
    );
    bench.wait_secs(32);
    let last = std::iter::from_fn(|| bench.take()).last().unwrap();
    assert_eq!(last.1.remote.to_string(), "10.0.0.33:5060");
    assert!(bench.events.is_empty());
    bench.wait_secs(32);
    assert_eq!(bench.ended(), "Timeout");
}

#[test]
fn no_address_and_no_connection_end_the_call() {
    let mut bench = Bench::new();
    call(&mut bench, "sip:bob@b.example");
    let (id, _) = lookup(&mut bench);
    bench.endpoint.resolved(bench.now, id, Vec::new());
    bench.wait_secs(0);
    assert_eq!(bench.ended(), "TransportFailed");
    // The driver never answers.
    call(&mut bench, "sip:bob@10.0.0.9;transport=tcp");
    bench.wait_secs(32);
    assert_eq!(bench.ended(), "TransportFailed");
    assert_eq!(bench.endpoint.counts().calls, 0);
}

#[test]
fn a_call_given_up_before_it_was_sent_leaves_nothing() {
    let mut bench = Bench::new();
    let handle = call(&mut bench, "sip:bob@b.example");
    let (id, _) = lookup(&mut bench);
    bench.endpoint.bye(bench.now, handle, None).unwrap();
    assert_eq!(bench.ended(), "Cancelled");
    let hop = Hop {
        transport: Transport::Udp,
        remote: "10.0.0.9:5060".parse().unwrap(),
    };
    bench.endpoint.resolved(bench.now, id, vec![hop]);
    bench.silence();
    assert!(bench.endpoint.is_idle());
}

#[test]
fn an_invite_on_a_connection_that_breaks_before_any_response_fails_at_once() {
    let mut bench = Bench::new();
    call(&mut bench, "sip:bob@10.0.0.9:5062;transport=tcp");
    let (id, ..) = connect(&mut bench);
    let flow = tcp("10.0.0.9:5062", 2);
    bench.endpoint.connected(bench.now, id, flow);
    bench.request("INVITE");
    bench.endpoint.flow_closed(bench.now, flow);
    bench.wait_secs(0);
    assert!(matches!(bench.event(), Event::Ended { .. }));
}

#[test]
fn a_double_line_end_on_a_connection_is_answered() {
    let mut bench = Bench::new();
    let flow = tcp("10.0.0.9:40000", 1);
    let ping = aftertone::sip::message::Parsed::KeepAlive { ping: true };
    bench.endpoint.handle_message(bench.now, flow, ping.clone());
    let Some(Output::Send { bytes, .. }) = bench.endpoint.poll_output() else {
        panic!("no pong")
    };
    assert_eq!(&bytes[..], b"\r\n");
    bench
        .endpoint
        .handle_message(bench.now, udp("10.0.0.9:5060"), ping);
    bench.silence();
}

#[test]
fn a_datagram_leaves_by_the_socket_that_the_peer_knows() {
    let mut bench = Bench::new();
    bench.flow = Flow {
        local: "10.0.0.2:5070".parse().unwrap(),
        ..udp("10.0.0.9:5060")
    };
    let (handle, _) = bench.established(&Msg::invite());
    bench
        .endpoint
        .offer(bench.now, handle, "v=0 more".into())
        .unwrap();
    let (flow, message) = sent_to(&mut bench);
    assert_eq!(flow.local, bench.flow.local);
    assert!(header(message.headers(), "Via").starts_with("SIP/2.0/UDP 10.0.0.2:5070;"));
    assert_eq!(
        header(message.headers(), "Contact"),
        "<sip:voicemail@10.0.0.2:5070>"
    );
}

#[test]
fn behind_nat_the_advertised_host_is_told() {
    let mut bench = Bench::with(Config {
        advertised: aftertone::sip::message::Host::parse("203.0.113.5"),
        ..config()
    });
    let call = bench.incoming(&Msg::invite());
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    let contact = header(&bench.response(200).headers, "Contact");
    assert_eq!(contact, "<sip:voicemail@203.0.113.5:5060>");
}

#[test]
fn a_sips_call_that_comes_without_tls_is_told_where_we_take_it() {
    let contact = |listen: &[(Transport, &str)]| {
        let listen = listen.iter().map(|(of, at)| (*of, at.parse().unwrap()));
        let mut bench = Bench::with(Config {
            listen: listen.collect(),
            ..config()
        });
        bench.flow = tcp("10.0.0.9:40000", 1);
        let call = bench.incoming(&Msg::invite().uri("sips:+4712345678@vm.example"));
        bench
            .endpoint
            .answer(bench.now, call, ANSWER.into())
            .unwrap();
        header(&bench.response(200).headers, "Contact")
    };
    let clear = (Transport::Tcp, "10.0.0.1:5060");
    let tls = (Transport::Tls, "10.0.0.1:5061");
    assert_eq!(contact(&[clear, tls]), "<sips:voicemail@10.0.0.1:5061>");
    assert_eq!(
        contact(&[clear]),
        "<sip:voicemail@10.0.0.1:5060;transport=tcp>"
    );
}

#[test]
fn a_connection_to_another_name_at_the_same_address_is_another() {
    let mut bench = Bench::new();
    for (name, number) in [("one.example", 1), ("two.example", 2)] {
        call(&mut bench, &format!("sips:bob@{name}"));
        let (id, _) = lookup(&mut bench);
        let remote = "10.0.0.31:5061".parse().unwrap();
        let hop = Hop {
            transport: Transport::Tls,
            remote,
        };
        bench.endpoint.resolved(bench.now, id, vec![hop]);
        let (id, _, _, server_name) = connect(&mut bench);
        assert_eq!(server_name.as_deref(), Some(name));
        let flow = Flow {
            transport: Transport::Tls,
            ..tcp("10.0.0.31:5061", number)
        };
        bench.endpoint.connected(bench.now, id, flow);
        let (sent, _) = sent_to(&mut bench);
        assert_eq!(sent, flow);
    }
}

/// A browser as RFC 7118 section 5 has it: its Via and Contact name no host at all.
fn from_browser(transport: &str) -> Msg {
    let via = format!("SIP/2.0/{transport} df7jal23ls0d.invalid;branch=z9hG4bK-browser;rport");
    let mut invite = Msg::invite().via(&via);
    invite.contact = Some("<sip:0vqsg3@df7jal23ls0d.invalid;transport=ws>".into());
    invite
}

#[test]
fn a_browser_is_spoken_to_on_its_own_connection_and_nowhere_else() {
    for transport in [Transport::Ws, Transport::Wss] {
        let mut bench = Bench::new();
        bench.flow = Flow {
            transport,
            ..tcp("10.0.0.9:40000", 1)
        };
        let (call, _) = bench.established(&from_browser(transport.via_name()));
        // Our own requests go the same way.
        bench
            .endpoint
            .offer(bench.now, call, "v=0 more".into())
            .unwrap();
        let (flow, message) = sent_to(&mut bench);
        assert_eq!(flow, bench.flow);
        let via = format!("SIP/2.0/{} 10.0.0.1", transport.via_name());
        assert!(header(message.headers(), "Via").starts_with(&via));
        assert!(header(message.headers(), "Contact").contains(";transport=ws"));

        // Once it is gone, no name is looked up and no connection opened.
        bench.endpoint.flow_closed(bench.now, bench.flow);
        bench.endpoint.bye(bench.now, call, None).unwrap();
        bench.wait_secs(40);
        assert!(bench.asked.is_empty(), "{:?}", bench.asked);
        assert!(bench.endpoint.is_idle());
    }
}

#[test]
fn a_websocket_is_opened_by_the_name_of_the_uri_and_without_srv() {
    let mut bench = Bench::new();
    call(&mut bench, "sips:bob@b.example;transport=ws");
    let (id, target) = lookup(&mut bench);
    assert_eq!(target.transport, Some(Transport::Wss));
    let hop = Hop {
        transport: Transport::Wss,
        remote: "10.0.0.31:443".parse().unwrap(),
    };
    bench.endpoint.resolved(bench.now, id, vec![hop]);
    let (_, transport, remote, name) = connect(&mut bench);
    assert_eq!(
        (transport, &*remote, name.as_deref()),
        (Transport::Wss, "10.0.0.31:443", Some("b.example"))
    );
}
