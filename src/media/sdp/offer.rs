//! Our own offers: the first of a call, and those that come later in it.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::media::audio::Codec;
use crate::media::sdp::Direction;
use crate::media::sdp::IceMode;
use crate::media::sdp::IceParams;
use crate::media::sdp::Keying;
use crate::media::sdp::LocalIdentity;
use crate::media::sdp::MediaParams;
use crate::media::sdp::OfferKeying;
use crate::media::sdp::Preferences;
use crate::media::sdp::SessionVersion;
use crate::media::sdp::SrtpSuite;
use crate::media::sdp::USUAL_PTIME_MS;
use crate::media::sdp::crypto::Crypto;
use crate::media::sdp::layout::Ice;
use crate::media::sdp::layout::Layout;
use crate::media::sdp::layout::Rtcp;
use crate::media::sdp::layout::Stream;

/// The payload type of telephone-event of 8 kHz in our own offers; what nearly everybody uses.
const TELEPHONE_EVENT: u8 = 101;
/// Those of other clocks.
const WIDE_TELEPHONE_EVENT: u8 = 110;
/// The payload type of Opus in our own offers, as browsers have it.
const OPUS: u8 = 111;

/// An offer of ours: audio at `local`, both ways, with the codecs of `preferences`, digits as
/// telephone-event, and RTCP on the same port.
pub fn offer(
    local: SocketAddr,
    session: SessionVersion,
    preferences: &Preferences,
    identity: &LocalIdentity,
) -> Bytes {
    let layout = Layout::of_first_offer(preferences.offer);
    offer_in(&layout, local, session, preferences, identity, None)
}

impl Layout {
    /// Of a call that begins with an offer of ours.
    pub(super) fn of_first_offer(keying: OfferKeying) -> Self {
        match keying {
            OfferKeying::Plain => Self::of_offer("RTP/AVP", None),
            OfferKeying::Sdes => Self::of_offer("RTP/SAVP", None),
            OfferKeying::Dtls => Self::of_offer("UDP/TLS/RTP/SAVPF", Some("0")),
        }
    }
}

/// An offer with the streams of `layout`. Where something was `agreed` on before, it offers the
/// same keys and ICE credentials again, so that nothing begins anew.
pub(super) fn offer_in(
    layout: &Layout,
    local: SocketAddr,
    session: SessionVersion,
    preferences: &Preferences,
    identity: &LocalIdentity,
    agreed: Option<&MediaParams>,
) -> Bytes {
    let before = match agreed {
        Some(agreed) => agreed.clone(),
        None => MediaParams::of_offer(preferences, identity),
    };
    let is_dtls = match before.keying {
        Keying::Dtls { .. } => true,
        Keying::Awaited => preferences.offer == OfferKeying::Dtls,
        Keying::Plain | Keying::Sdes { .. } => false,
    };
    let is_sdes = !is_dtls && before.keying != Keying::Plain;
    let payload_types = PayloadTypes::of(preferences, agreed);
    let stream = Stream {
        codecs: payload_types.codecs,
        mode_set: None,
        telephone_events: payload_types.events,
        comfort_noise: None,
        rtcp: Rtcp::Mux,
        direction: Direction::SendRecv,
        ptime_ms: USUAL_PTIME_MS,
        cryptos: if is_sdes {
            keys(identity, &before.keying)
        } else {
            Vec::new()
        },
        dtls: is_dtls.then(|| (identity.fingerprint(), "actpass")),
        ice: before.ice.as_ref().map_or(Ice::None, Ice::of),
    };
    layout.describe(local, session, &stream)
}

/// A key of each suite, the best first; the one in use stays.
fn keys(identity: &LocalIdentity, before: &Keying) -> Vec<Crypto> {
    let suites = (1..).zip(SrtpSuite::ALL);
    let keys = suites.map(|(tag, suite)| Crypto {
        tag,
        key: before
            .key_in_use(suite)
            .unwrap_or_else(|| identity.srtp_key(suite)),
    });
    keys.collect()
}

impl MediaParams {
    /// What an offer of ours comes to before its answer: nothing is known of the peer.
    pub fn of_offer(preferences: &Preferences, identity: &LocalIdentity) -> Self {
        let PayloadTypes { codecs, events } = PayloadTypes::of(preferences, None);
        let (codec, payload_type) = codecs.first().copied().unwrap_or((Codec::Pcma, 8));
        let has_its_clock = |(_, clock): &&(u8, u32)| *clock == codec.clock_rate();
        let event = events.iter().find(has_its_clock);
        Self {
            remote: None,
            remote_rtcp: None,
            rtcp_mux: false,
            codec,
            payload_type,
            telephone_event: event.map(|(payload_type, _)| *payload_type),
            telephone_event_clock: event.map_or(8_000, |(_, clock)| *clock),
            comfort_noise: None,
            direction: Direction::SendRecv,
            ptime_ms: USUAL_PTIME_MS,
            keying: match preferences.offer {
                OfferKeying::Plain => Keying::Plain,
                OfferKeying::Sdes | OfferKeying::Dtls => Keying::Awaited,
            },
            ice: (preferences.offer == OfferKeying::Dtls).then(|| IceParams {
                local: identity.ice(),
                remote: None,
                we_are_lite: preferences.ice == IceMode::Lite,
                remote_is_lite: false,
                controlling: preferences.ice == IceMode::Full,
                remote_candidates: Vec::new(),
            }),
        }
    }
}

/// The numbers of an offer. Those that were agreed on keep their meaning (RFC 3264 section
/// 8.3.2).
struct PayloadTypes {
    codecs: Vec<(Codec, u8)>,
    /// With their clocks: one for each clock of the codecs.
    events: Vec<(u8, u32)>,
}

impl PayloadTypes {
    fn of(preferences: &Preferences, agreed: Option<&MediaParams>) -> Self {
        let event_in_use = agreed.and_then(|agreed| {
            let payload_type = agreed.telephone_event?;
            Some((payload_type, agreed.telephone_event_clock))
        });
        let in_use = agreed.map(|agreed| (agreed.codec, agreed.payload_type));
        let mut numbers = Numbers(Vec::new());
        numbers.0.extend(in_use.map(|(_, number)| number));
        numbers.0.extend(event_in_use.map(|(number, _)| number));

        let others = preferences.codecs.iter().copied();
        let others = others.filter(|codec| in_use.is_none_or(|(used, _)| used != *codec));
        let mut codecs: Vec<_> = in_use.into_iter().collect();
        for codec in others {
            codecs.push((codec, numbers.of_codec(codec)));
        }
        let mut events: Vec<(u8, u32)> = event_in_use.into_iter().collect();
        for (codec, _) in &codecs {
            let clock = codec.clock_rate();
            if !events.iter().any(|(_, other)| *other == clock) {
                events.push((numbers.of_event(clock), clock));
            }
        }
        Self { codecs, events }
    }
}

/// The payload types that have a meaning.
struct Numbers(Vec<u8>);

impl Numbers {
    fn of_codec(&mut self, codec: Codec) -> u8 {
        match codec.static_payload_type() {
            Some(number) if !self.0.contains(&number) => {
                self.0.push(number);
                number
            }
            _ => self.free(OPUS),
        }
    }

    fn of_event(&mut self, clock: u32) -> u8 {
        self.free(match clock {
            8_000 => TELEPHONE_EVENT,
            _ => WIDE_TELEPHONE_EVENT,
        })
    }

    /// `wanted`, or the next dynamic number that nobody has.
    fn free(&mut self, wanted: u8) -> u8 {
        let mut others = 96..=127;
        let number = if self.0.contains(&wanted) {
            others.find(|number| !self.0.contains(number))
        } else {
            Some(wanted)
        };
        // There are fewer codecs than numbers.
        let number = number.unwrap_or(wanted);
        self.0.push(number);
        number
    }
}
