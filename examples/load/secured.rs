//! What callers have whose media are secured: ICE and DTLS-SRTP. It is the server's own code for one link, with time
//! and sockets of this program; that it agrees with others' is for tests to show.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aftertone::media::Stage;
use aftertone::media::audio::Codec;
use aftertone::media::dtls::Certificate;
use aftertone::media::ice::stun::Message;
use aftertone::media::link::{Control, Link, LinkEvent, Protocol, Taken, Turn};
use aftertone::media::sdp::{Exchange, IceMode, LocalIdentity, OfferKeying, Opening, Preferences};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::clock::{Nanos, now};
use crate::message::address;
use crate::wire::Packets;

/// What protection adds to a packet at most.
pub const PROTECTION: usize = 24;

/// What all callers share.
pub struct Security {
    certificate: Arc<Certificate>,
    random: StdRng,
    control: Control,
    began: (Instant, Nanos),
    /// When links want to be woken. One that wants it sooner has another entry.
    alarms: BinaryHeap<Reverse<(Nanos, u32)>>,
    /// Checks and handshakes to be sent.
    pub packets: Packets,
    /// 200 to keys.
    pub keyed: Vec<Nanos>,
}

/// What one caller has.
pub struct Secured {
    exchange: Exchange,
    link: Link,
    /// The description in our INVITE.
    pub offer: Bytes,
    alarm: Option<Nanos>,
    /// Where media go, as soon as there are keys.
    pub to: Option<SocketAddrV4>,
    /// Why there will be none.
    pub failed: Option<&'static str>,
    answered: Nanos,
}

impl Security {
    #[expect(
        clippy::disallowed_methods,
        reason = "links count time from some moment"
    )]
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            certificate: Arc::new(Certificate::generate()?),
            random: StdRng::seed_from_u64(2),
            control: Control::default(),
            began: (Instant::now(), now()),
            alarms: BinaryHeap::new(),
            packets: Packets::default(),
            keyed: Vec::new(),
        })
    }

    /// A caller who is about to offer media at his address and this port.
    pub fn begin(&mut self, number: u32, port: u16) -> Secured {
        let preferences = Preferences {
            codecs: vec![Codec::Pcmu],
            ice: IceMode::Full,
            offer: OfferKeying::Dtls,
            ..Preferences::default()
        };
        let fingerprint = self.certificate.fingerprint().clone();
        let identity = LocalIdentity::new(self.random.random(), fingerprint);
        let opening = Opening::offering(preferences, identity);
        let params = opening.media().clone();
        let local = SocketAddr::new(address(number).into(), port);
        let (exchange, offer) = opening.at(local, number.into());
        let mut turn = Turn {
            now: self.began.0,
            random: &mut self.random,
            mark: number,
            out: &mut self.control,
        };
        Secured {
            exchange,
            link: Link::new(&params, Some(self.certificate.clone()), true, &mut turn),
            offer,
            alarm: None,
            to: None,
            failed: None,
            answered: 0,
        }
    }

    /// The answer has come.
    pub fn answered(&mut self, number: u32, caller: &mut Secured, answer: &[u8], at: Nanos) {
        let Ok(Some(params)) = caller.exchange.on_answer(answer) else {
            caller.failed = Some("an answer that cannot be taken");
            return;
        };
        caller.answered = at;
        let certificate = self.certificate.clone();
        self.turn(number, caller, |link, turn| {
            link.update(&params, Some(certificate), turn);
        });
    }

    /// Takes a datagram of the server's `from`; tells whether it is media, and authentic.
    pub fn handle(
        &mut self,
        number: u32,
        caller: &mut Secured,
        from: SocketAddr,
        datagram: &mut [u8],
    ) -> bool {
        match Protocol::of(datagram) {
            Some(Protocol::Stun) => {
                if let Ok(message) = Message::read(datagram) {
                    self.turn(number, caller, |link, turn| {
                        link.handle_stun(turn, from, &message);
                    });
                }
                false
            }
            Some(Protocol::Dtls) => {
                self.turn(number, caller, |link, turn| {
                    link.handle(turn, from, datagram);
                });
                false
            }
            Some(Protocol::Rtp) => {
                let mut turn = Turn {
                    now: self.began.0,
                    random: &mut self.random,
                    mark: number,
                    out: &mut self.control,
                };
                let is_media = !datagram
                    .get(1)
                    .is_some_and(|kind| (192..=223).contains(kind));
                let taken = caller.link.handle(&mut turn, from, datagram);
                is_media && matches!(taken, Taken::Media(_))
            }
            None => false,
        }
    }

    /// The next caller whose link wants to be woken by now.
    pub fn due(&mut self) -> Option<(Nanos, u32)> {
        let Reverse((at, number)) = *self.alarms.peek()?;
        if at > now() {
            return None;
        }
        self.alarms.pop();
        Some((at, number))
    }

    pub fn wake(&mut self, at: Nanos, number: u32, caller: &mut Secured) {
        if caller.alarm == Some(at) {
            caller.alarm = None;
            self.turn(number, caller, Link::handle_timeout);
        }
    }

    /// Does something with a link, and what follows from it.
    fn turn(
        &mut self,
        number: u32,
        caller: &mut Secured,
        act: impl FnOnce(&mut Link, &mut Turn<'_>),
    ) {
        let (began, at) = self.began;
        let mut turn = Turn {
            now: began + Duration::from_nanos((now() - at).max(0) as u64),
            random: &mut self.random,
            mark: number,
            out: &mut self.control,
        };
        act(&mut caller.link, &mut turn);
        while let Some(event) = caller.link.poll_event() {
            match event {
                LinkEvent::Reached(Stage::DtlsDone) => self.keyed.push(now() - caller.answered),
                LinkEvent::Reached(_) => {}
                LinkEvent::Failed(_, reason) => caller.failed = Some(reason),
                LinkEvent::ConsentLost => caller.failed = Some("the server's consent is gone"),
            }
        }
        let ipv4 = |address| match address {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        };
        caller.to = caller.link.route().rtp.and_then(ipv4);
        for packet in self.control.packets() {
            if let Some(to) = ipv4(packet.to) {
                self.packets
                    .push(address(number), to, [packet.bytes(), &[]]);
            }
        }
        self.control.clear();
        let next = caller.link.next_timeout();
        let next = next.map(|next| at + next.saturating_duration_since(began).as_nanos() as Nanos);
        if let Some(next) = next
            && caller.alarm.is_none_or(|alarm| next < alarm)
        {
            caller.alarm = Some(next);
            self.alarms.push(Reverse((next, number)));
        }
    }
}

impl Secured {
    /// Protects the last packet.
    pub fn protect(&mut self, packets: &mut Packets) {
        packets.protect_last(PROTECTION, |room, len| self.link.protect(room, len));
    }
}
