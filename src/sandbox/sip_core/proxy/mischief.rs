//! What the core does to endpoints when it is told to misbehave: a filter over the proxy's outputs. The proxy itself
//! knows nothing of it and stays a good one.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;

use crate::domain::Msisdn;
use crate::sandbox::sip_core::directory::Directory;
use crate::sandbox::sip_core::proxy::EndpointLeg;
use crate::sandbox::sip_core::proxy::Output;
use crate::sip::dialog;
use crate::sip::flow::Flow;
use crate::sip::message;
use crate::sip::message::HeaderName;
use crate::sip::message::Headers;
use crate::sip::message::Limits;
use crate::sip::message::Message;
use crate::sip::message::Method;
use crate::sip::message::Parsed;
use crate::sip::transaction::hop_by_hop;

/// How late an ACK is: the endpoint has repeated its 200 twice by then.
const LATE_ACK: Duration = Duration::from_secs(2);

/// How many ACKs of a dialog are lost.
const LOST_ACKS: u32 = 2;

/// How long a leg is remembered: as long as its 200 may be repeated.
const REMEMBERED: Duration = Duration::from_secs(64);

/// Legs and dialogs remembered at the same time; above it the oldest are left in peace.
const MOST: usize = 1000;

/// How the core misbehaves towards the endpoints of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mischief {
    /// ACKs come late.
    pub(crate) late_ack: bool,
    /// The first ACKs are lost.
    pub(crate) lost_ack: bool,
    /// Every INVITE is sent twice.
    pub(crate) duplicate_invite: bool,
    /// A CANCEL crosses the 200.
    pub(crate) cancel_crossing: bool,
}

/// A dialog with an endpoint: Call-ID, and the tag of the endpoint.
type DialogKey = (Vec<u8>, Box<str>);

/// What happens between the proxy and the sockets.
pub(crate) struct Filter {
    directory: Arc<dyn Directory>,
    /// INVITEs to endpoints, by leg, to make the CANCEL of.
    invites: BTreeMap<u64, (Instant, Flow, Bytes)>,
    /// Who was called in a dialog with an endpoint, and how many ACKs went to it.
    dialogs: BTreeMap<DialogKey, (Instant, Msisdn, u32)>,
    /// Messages that are kept back, in the order of their time.
    late: VecDeque<(Instant, Flow, Bytes)>,
}

impl Filter {
    /// Nothing to do yet.
    pub(crate) const fn new(directory: Arc<dyn Directory>) -> Self {
        Self {
            directory,
            invites: BTreeMap::new(),
            dialogs: BTreeMap::new(),
            late: VecDeque::new(),
        }
    }

    /// Gives what is to be done instead of an output, in order.
    pub(crate) fn apply(&mut self, now: Instant, output: Output) -> Vec<Output> {
        let Output::Send { flow, bytes, leg } = output else {
            return vec![output];
        };
        let send = |bytes| Output::Send {
            flow,
            bytes,
            leg: None,
        };
        match leg {
            Some(leg) if bytes.starts_with(b"INVITE ") => {
                let mischief = self.directory.mischief(&leg.called);
                self.remember_invite(now, &leg, flow, &bytes);
                let copies = if mischief.duplicate_invite { 2 } else { 1 };
                (0..copies).map(|_| send(bytes.clone())).collect()
            }
            Some(leg) => {
                let mischief = self.directory.mischief(&leg.called);
                self.remember_dialog(now, &leg, &bytes);
                let crossing = mischief
                    .cancel_crossing
                    .then(|| self.cancel(&leg))
                    .flatten();
                crossing.into_iter().chain([send(bytes)]).collect()
            }
            None if bytes.starts_with(b"ACK ") => {
                if self.lets_ack_pass(now, flow, &bytes) {
                    vec![send(bytes)]
                } else {
                    Vec::new()
                }
            }
            None => vec![send(bytes)],
        }
    }

    /// When [`Self::due`] has something.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.late.front().map(|(at, ..)| *at)
    }

    /// What was kept back and is due.
    pub(crate) fn due(&mut self, now: Instant) -> Option<(Flow, Bytes)> {
        let (at, flow, bytes) = self.late.front()?.clone();
        if at > now {
            return None;
        }
        self.late.pop_front();
        Some((flow, bytes))
    }

    fn remember_invite(&mut self, now: Instant, leg: &EndpointLeg, flow: Flow, bytes: &Bytes) {
        self.invites.retain(|_, (at, ..)| now < *at + REMEMBERED);
        if self.invites.len() < MOST {
            self.invites.insert(leg.id, (now, flow, bytes.clone()));
        }
    }

    fn remember_dialog(&mut self, now: Instant, leg: &EndpointLeg, bytes: &Bytes) {
        self.dialogs.retain(|_, (at, ..)| now < *at + REMEMBERED);
        let Some(key) = parse(bytes)
            .as_ref()
            .and_then(|it| dialog_key(it.headers()))
        else {
            return;
        };
        if self.dialogs.len() < MOST {
            let dialog = (now, leg.called.clone(), 0);
            self.dialogs.entry(key).or_insert(dialog);
        }
    }

    /// The CANCEL of a leg's INVITE, once: its 200 is here, and the endpoint cannot know that.
    fn cancel(&mut self, leg: &EndpointLeg) -> Option<Output> {
        let (_, flow, invite) = self.invites.remove(&leg.id)?;
        let Some(Message::Request(mut invite)) = parse(&invite) else {
            return None;
        };
        let via = invite.headers.top_via()?;
        invite.headers.remove(&HeaderName::Via);
        let cancel = hop_by_hop::request(&invite, Method::Cancel);
        Some(Output::Send {
            flow,
            bytes: hop_by_hop::on_the_wire(&cancel, &via),
            leg: None,
        })
    }

    /// Whether an ACK goes out now. One that does not is lost, or comes late.
    fn lets_ack_pass(&mut self, now: Instant, flow: Flow, bytes: &Bytes) -> bool {
        if self.dialogs.is_empty() {
            return true;
        }
        let key = parse(bytes)
            .as_ref()
            .and_then(|it| dialog_key(it.headers()));
        let Some((_, called, acks)) = key.and_then(|key| self.dialogs.get_mut(&key)) else {
            return true;
        };
        let mischief = self.directory.mischief(called);
        *acks += 1;
        if mischief.lost_ack && *acks <= LOST_ACKS {
            return false;
        }
        if mischief.late_ack && self.late.len() < MOST {
            self.late.push_back((now + LATE_ACK, flow, bytes.clone()));
            return false;
        }
        true
    }
}

fn parse(bytes: &Bytes) -> Option<Message> {
    match message::parse_datagram(bytes, &Limits::default()) {
        Parsed::Message(message) => Some(message),
        _ => None,
    }
}

/// The dialog of a response to an INVITE, and of its ACK: both have the endpoint's tag in To.
fn dialog_key(headers: &Headers) -> Option<DialogKey> {
    let call_id = headers.call_id()?.as_bytes().to_vec();
    let tag = headers.get(&HeaderName::To).and_then(dialog::tag)?;
    Some((call_id, tag))
}
