//! Lookups against a DNS server on loopback that answers from a table.

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, Record, rdata};
use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// A DNS server that knows these records and nothing else.
async fn dns(records: Vec<Record>) -> (Resolver, AbortOnDropHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    let server = async move {
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let asked = query.queries[0].clone();
            let mut response = query.into_response();
            let known = |record: &&Record| {
                record.name == *asked.name() && record.record_type() == asked.query_type()
            };
            response.answers = records.iter().filter(known).cloned().collect();
            if !records.iter().any(|record| record.name == *asked.name()) {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            socket
                .send_to(&response.to_vec().unwrap(), from)
                .await
                .unwrap();
        }
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the handle ends the task with its test"
    )]
    let server = AbortOnDropHandle::new(tokio::spawn(server));

    let resolver = Resolver::asking(&[addr], [1; 32]);
    (resolver, server)
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn naptr(owner: &str, preference: u16, service: &str, replacement: &str) -> Record {
    let data = NAPTR::new(
        10,
        preference,
        Box::from(&b"s"[..]),
        service.as_bytes().into(),
        Box::default(),
        name(replacement),
    );
    Record::from_rdata(name(owner), 60, RData::NAPTR(data))
}

fn srv(owner: &str, priority: u16, port: u16, target: &str) -> Record {
    let data = SRV::new(priority, 1, port, name(target));
    Record::from_rdata(name(owner), 60, RData::SRV(data))
}

fn a(owner: &str, ip: [u8; 4]) -> Record {
    let data = rdata::A::new(ip[0], ip[1], ip[2], ip[3]);
    Record::from_rdata(name(owner), 60, RData::A(data))
}

fn target(host: &str) -> Target {
    Target {
        host: host.to_owned(),
        port: None,
        transport: None,
        secure: false,
    }
}

fn hop(transport: Transport, remote: &str) -> Hop {
    Hop {
        transport,
        remote: remote.parse().unwrap(),
    }
}

#[tokio::test]
async fn naptr_chooses_the_transport_and_srv_the_order_of_the_hosts() {
    let (resolver, _server) = dns(vec![
        naptr("example.com.", 50, "SIP+D2T", "_sip._tcp.example.com."),
        naptr("example.com.", 90, "SIP+D2U", "_sip._udp.example.com."),
        srv("_sip._tcp.example.com.", 2, 5070, "second.example.com."),
        srv("_sip._tcp.example.com.", 1, 5060, "first.example.com."),
        a("first.example.com.", [192, 0, 2, 1]),
        a("second.example.com.", [192, 0, 2, 2]),
    ])
    .await;
    let hops = resolver.resolve(&target("example.com")).await;
    let expected = [
        hop(Transport::Tcp, "192.0.2.1:5060"),
        hop(Transport::Tcp, "192.0.2.2:5070"),
    ];
    assert_eq!(hops, expected);
}

#[tokio::test]
async fn a_secure_target_goes_over_tls_only() {
    let (resolver, _server) = dns(vec![
        naptr("example.com.", 10, "SIP+D2U", "_sip._udp.example.com."),
        srv("_sip._udp.example.com.", 1, 5060, "sip.example.com."),
        srv("_sips._tcp.example.com.", 1, 5063, "sip.example.com."),
        a("sip.example.com.", [192, 0, 2, 1]),
    ])
    .await;
    let secure = Target {
        secure: true,
        ..target("example.com")
    };
    assert_eq!(
        resolver.resolve(&secure).await,
        [hop(Transport::Tls, "192.0.2.1:5063")]
    );
    // Without records of its own the host itself serves, on the usual port.
    let bare = Target {
        secure: true,
        ..target("sip.example.com")
    };
    assert_eq!(
        resolver.resolve(&bare).await,
        [hop(Transport::Tls, "192.0.2.1:5061")]
    );
}

#[tokio::test]
async fn a_port_skips_srv_and_a_transport_skips_naptr() {
    let (resolver, _server) = dns(vec![
        naptr("example.com.", 10, "SIPS+D2T", "_sips._tcp.example.com."),
        srv("_sip._tcp.example.com.", 1, 5070, "sip.example.com."),
        a("sip.example.com.", [192, 0, 2, 1]),
        a("example.com.", [192, 0, 2, 9]),
    ])
    .await;
    let with_port = Target {
        port: Some(5080),
        ..target("example.com")
    };
    assert_eq!(
        resolver.resolve(&with_port).await,
        [hop(Transport::Udp, "192.0.2.9:5080")]
    );
    let with_transport = Target {
        transport: Some(Transport::Tcp),
        ..target("example.com")
    };
    assert_eq!(
        resolver.resolve(&with_transport).await,
        [hop(Transport::Tcp, "192.0.2.1:5070")]
    );
}

#[tokio::test]
async fn a_name_without_records_has_no_hops() {
    let (resolver, _server) = dns(Vec::new()).await;
    assert_eq!(resolver.resolve(&target("example.com")).await, []);
}

#[test]
fn an_address_needs_no_server() {
    assert_eq!(ip_literal("[2001:db8::1]"), "2001:db8::1".parse().ok());
    assert_eq!(ip_literal("192.0.2.1"), "192.0.2.1".parse().ok());
    assert_eq!(ip_literal("example.com"), None);
}

#[test]
fn servers_are_chosen_by_priority_and_then_in_proportion_to_their_weight() {
    let records = || {
        let record = |priority, weight, port| SRV::new(priority, weight, port, Name::root());
        vec![record(2, 0, 9), record(1, 30, 3), record(1, 10, 1)]
    };
    let mut rng = StdRng::from_seed([3; 32]);
    let mut heavy_first = 0;
    for _ in 0..1000 {
        let ports: Vec<u16> = in_order_of_choice(records(), &mut rng)
            .iter()
            .map(|srv| srv.port)
            .collect();
        assert_eq!(ports[2], 9);
        heavy_first += usize::from(ports[0] == 3);
    }
    assert!((700..800).contains(&heavy_first), "{heavy_first}");
}
