//! The ways in which the core misbehaves on purpose.

use std::time::Duration;

use crate::sandbox::sip_core::proxy::Output;
use crate::sandbox::sip_core::proxy::mischief::Filter;
use crate::sandbox::sip_core::proxy::mischief::Mischief;
use crate::sandbox::sip_core::proxy::tests::bench;
use crate::sandbox::sip_core::proxy::tests::bench::{
    ANNAS, BJARNE, Bench, ENDPOINT, Invite, answered, in_dialog, parse, short,
};
use crate::sandbox::world::RouteType;
use crate::sip::message::Request;
use crate::sip::message::Response;

use crate::sandbox::sip_core::proxy::tests::bench::flow;

/// The bench, and what stands between it and the sockets.
struct Line {
    bench: Bench,
    filter: Filter,
}

impl Line {
    fn new(mischief: Mischief) -> Self {
        let bench = Bench::new();
        *bench.table.mischief.lock().unwrap() = mischief;
        bench.table.add(BJARNE, RouteType::Fallback, ENDPOINT);
        let filter = Filter::new(bench.table.clone());
        Self { bench, filter }
    }

    /// What comes out of the filter when `port` sends this, in short: to whom, and what.
    fn send(&mut self, port: u16, text: String) -> Vec<String> {
        let now = self.bench.now;
        let bytes = text.into();
        self.bench.proxy.handle_datagram(now, flow(port), &bytes);
        let mut seen = Vec::new();
        while let Some(output) = self.bench.proxy.poll_output() {
            for output in self.filter.apply(now, output) {
                if let Output::Send { flow, bytes, .. } = output {
                    seen.push(format!("{} {}", flow.remote.port(), short(&parse(&bytes))));
                }
            }
        }
        seen
    }

    /// The call reaches the endpoint; gives the INVITE there, and what was seen of it.
    fn called(&mut self) -> (Request, Vec<String>) {
        let call = Invite::new("call");
        let challenged = self.bench.send(ANNAS, call.text(""));
        let challenged = bench::last_response(&challenged, ANNAS);
        let uri = format!("sip:{BJARNE}@127.0.0.1");
        let answer = bench::answer(&challenged, call.from, "INVITE", &uri);
        let bytes = call.text(&answer).into();
        let now = self.bench.now;
        self.bench.proxy.handle_datagram(now, flow(ANNAS), &bytes);
        let (mut seen, mut invite) = (Vec::new(), None);
        while let Some(output) = self.bench.proxy.poll_output() {
            for output in self.filter.apply(now, output) {
                if let Output::Send { flow, bytes, .. } = output {
                    let message = parse(&bytes);
                    seen.push(format!("{} {}", flow.remote.port(), short(&message)));
                    if let crate::sip::message::Message::Request(request) = message {
                        invite = Some(request);
                    }
                }
            }
        }
        (invite.unwrap(), seen)
    }
}

/// The 200 to an INVITE, as the caller gets it.
fn success(invite: &Request) -> Response {
    let bytes = answered(invite, "200 OK", "vm").into();
    match parse(&bytes) {
        crate::sip::message::Message::Response(response) => response,
        crate::sip::message::Message::Request(request) => panic!("{request:?}"),
    }
}

#[test]
fn a_good_core_sends_everything_once_and_at_once() {
    let mut line = Line::new(Mischief::default());
    let (invite, seen) = line.called();
    assert_eq!(seen, ["7001 100", "7100 INVITE"]);
    let seen = line.send(ENDPOINT, answered(&invite, "200 OK", "vm"));
    assert_eq!(seen, ["7001 200"]);
    let ack = in_dialog("ACK", 1, &success(&invite), ANNAS, true);
    assert_eq!(line.send(ANNAS, ack), ["7002 ACK"]);
}

#[test]
fn an_invite_is_sent_twice() {
    let mut line = Line::new(Mischief {
        duplicate_invite: true,
        ..Mischief::default()
    });
    let (_, seen) = line.called();
    assert_eq!(seen, ["7001 100", "7100 INVITE", "7100 INVITE"]);
}

#[test]
fn a_cancel_crosses_the_first_200_and_no_other() {
    let mut line = Line::new(Mischief {
        cancel_crossing: true,
        ..Mischief::default()
    });
    let (invite, _) = line.called();
    let seen = line.send(ENDPOINT, answered(&invite, "200 OK", "vm"));
    assert_eq!(seen, ["7100 CANCEL", "7001 200"]);
    let seen = line.send(ENDPOINT, answered(&invite, "200 OK", "vm"));
    assert_eq!(seen, ["7001 200"]);
}

#[test]
fn the_first_acks_are_lost() {
    let mut line = Line::new(Mischief {
        lost_ack: true,
        ..Mischief::default()
    });
    let (invite, _) = line.called();
    line.send(ENDPOINT, answered(&invite, "200 OK", "vm"));
    let ack = in_dialog("ACK", 1, &success(&invite), ANNAS, true);
    let counts: Vec<_> = (0..3)
        .map(|_| line.send(ANNAS, ack.clone()).len())
        .collect();
    assert_eq!(counts, [0, 0, 1]);
}

#[test]
fn an_ack_comes_late() {
    let mut line = Line::new(Mischief {
        late_ack: true,
        ..Mischief::default()
    });
    let (invite, _) = line.called();
    line.send(ENDPOINT, answered(&invite, "200 OK", "vm"));
    let ack = in_dialog("ACK", 1, &success(&invite), ANNAS, true);
    assert!(line.send(ANNAS, ack).is_empty());
    let due = line.filter.next_timeout().unwrap();
    assert_eq!(due, line.bench.now + Duration::from_secs(2));
    assert!(line.filter.due(due - Duration::from_millis(1)).is_none());
    let (_, bytes) = line.filter.due(due).unwrap();
    assert_eq!(short(&parse(&bytes)), "ACK");
    assert!(line.filter.due(due).is_none());
}
