//! Writes our descriptions. What we write is strict, whatever we read.

use std::fmt;
use std::fmt::Write;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::media::audio::Codec;
#[cfg(feature = "amr")]
use crate::media::audio::amr::Packing;
use crate::media::sdp::Direction;
use crate::media::sdp::Fingerprint;
use crate::media::sdp::IceCredentials;
use crate::media::sdp::IceParams;
use crate::media::sdp::SessionVersion;
use crate::media::sdp::crypto::Crypto;
use crate::media::sdp::description::Description;

/// The priority of our only candidate: of a host, for the first component (RFC 8445 section
/// 5.1.2.1).
const PRIORITY: u32 = (126 << 24) | (65_535 << 8) | 255;

/// The streams of a call's descriptions. Their number and order stay the same over all offers
/// and answers (RFC 3264 sections 6 and 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// The value of the `t=` line.
    timing: String,
    streams: Vec<Place>,
    /// Which of them is taken; all others are refused.
    taken: usize,
    /// Whether it is in a bundle, which then has no other.
    is_bundled: bool,
}

/// What identifies a stream, as its `m=` line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    kind: String,
    transport: String,
    formats: String,
    /// Its name, where streams have names.
    mid: Option<String>,
}

/// What we say of the stream that is taken.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    pub(super) codecs: Vec<(Codec, u8)>,
    /// Of AMR, in an answer.
    pub(super) mode_set: Option<&'a str>,
    /// With their clocks.
    pub(super) telephone_events: Vec<(u8, u32)>,
    pub(super) comfort_noise: Option<u8>,
    pub(super) rtcp: Rtcp,
    pub(super) direction: Direction,
    pub(super) ptime_ms: u8,
    pub(super) cryptos: Vec<Crypto>,
    pub(super) dtls: Option<(&'a Fingerprint, &'static str)>,
    pub(super) ice: Ice<'a>,
}

/// Where we take RTCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rtcp {
    /// On the port of RTP, as agreed (RFC 5761).
    Mux,
    /// There too, whether the peer knows of RFC 5761 or not: the port above belongs to other
    /// calls, and `a=rtcp` (RFC 3605) tells so.
    SamePort,
    /// Nowhere.
    None,
}

/// What we say of ICE.
#[derive(Debug)]
pub(super) enum Ice<'a> {
    None,
    /// Something on the way has changed the peer's address: ICE is left (RFC 8839 section 4.2.5).
    Mismatch,
    Ours {
        credentials: &'a IceCredentials,
        is_lite: bool,
    },
}

impl Layout {
    /// Of a call that begins with an offer of ours.
    pub(super) fn of_offer(transport: &str, mid: Option<&str>) -> Self {
        Self {
            timing: "0 0".to_owned(),
            streams: vec![Place {
                kind: "audio".to_owned(),
                transport: transport.to_owned(),
                formats: String::new(),
                mid: mid.map(str::to_owned),
            }],
            taken: 0,
            is_bundled: mid.is_some(),
        }
    }

    /// As the peer has it, if the stream `taken` is agreed on.
    pub(super) fn of(description: &Description, taken: usize) -> Self {
        let mid = description.media.get(taken).and_then(|it| it.mid.as_ref());
        let places = description.media.iter().map(|media| Place {
            kind: media.kind.clone(),
            transport: media.transport.clone(),
            formats: media.format_list.join(" "),
            mid: media.mid.clone(),
        });
        Self {
            timing: description.timing.clone(),
            streams: places.collect(),
            taken,
            is_bundled: mid.is_some_and(|mid| description.bundle.contains(mid)),
        }
    }

    /// The description that says `stream` at `local`, and refuses all others with port 0.
    pub(super) fn describe(
        &self,
        local: SocketAddr,
        session: SessionVersion,
        stream: &Stream<'_>,
    ) -> Bytes {
        let mut out = Lines(String::with_capacity(600));
        self.head(local, session, stream, &mut out);
        for (number, place) in self.streams.iter().enumerate() {
            let Place {
                kind, transport, ..
            } = place;
            if number == self.taken {
                let port = local.port();
                let formats = stream.formats();
                out.line(format_args!("m={kind} {port} {transport}{formats}"));
                stream.write(local, &mut out);
            } else {
                let formats = &place.formats;
                out.line(format_args!("m={kind} 0 {transport} {formats}"));
            }
            // RFC 5888 section 6: where there are groups every stream has its name.
            if let Some(mid) = &place.mid {
                out.line(format_args!("a=mid:{mid}"));
            }
        }
        // The call keeps it.
        Bytes::from(out.0.into_boxed_str().into_boxed_bytes())
    }

    fn head(
        &self,
        local: SocketAddr,
        session: SessionVersion,
        stream: &Stream<'_>,
        out: &mut Lines,
    ) {
        let address = local.ip();
        let family = if address.is_ipv4() { "IP4" } else { "IP6" };
        let SessionVersion { id, version } = session;
        out.line(format_args!("v=0"));
        out.line(format_args!("o=- {id} {version} IN {family} {address}"));
        out.line(format_args!("s=-"));
        out.line(format_args!("c=IN {family} {address}"));
        out.line(format_args!("t={}", self.timing));
        let mid = self.streams.get(self.taken).and_then(|it| it.mid.as_ref());
        if let Some(mid) = mid.filter(|_| self.is_bundled) {
            out.line(format_args!("a=group:BUNDLE {mid}"));
        }
        if matches!(stream.ice, Ice::Ours { is_lite: true, .. }) {
            out.line(format_args!("a=ice-lite"));
        }
        if matches!(stream.ice, Ice::Ours { .. }) {
            // RFC 8445 section 10: we nominate one pair, and not each that works.
            out.line(format_args!("a=ice-options:ice2"));
        }
    }
}

impl Stream<'_> {
    fn formats(&self) -> String {
        let codecs = self.codecs.iter().map(|(_, payload_type)| payload_type);
        let events = self.telephone_events.iter().map(|(number, _)| number);
        let numbers = codecs.chain(&self.comfort_noise).chain(events);
        numbers.fold(String::new(), |mut out, number| {
            append(&mut out, format_args!(" {number}"));
            out
        })
    }

    fn write(&self, local: SocketAddr, out: &mut Lines) {
        for (codec, payload_type) in &self.codecs {
            let (name, clock) = (codec.encoding_name(), codec.clock_rate());
            let channels = codec.channels_in_sdp();
            let channels = channels.map_or(String::new(), |channels| format!("/{channels}"));
            out.line(format_args!(
                "a=rtpmap:{payload_type} {name}/{clock}{channels}"
            ));
            let modes = self.mode_set.map(|modes| format!("mode-set={modes}"));
            let own = parameters(*codec).map(str::to_owned);
            let parameters: Vec<_> = own.into_iter().chain(modes).collect();
            if !parameters.is_empty() {
                let parameters = parameters.join(";");
                out.line(format_args!("a=fmtp:{payload_type} {parameters}"));
            }
        }
        if let Some(payload_type) = self.comfort_noise {
            out.line(format_args!("a=rtpmap:{payload_type} CN/8000"));
        }
        for (payload_type, clock) in &self.telephone_events {
            out.line(format_args!(
                "a=rtpmap:{payload_type} telephone-event/{clock}"
            ));
            out.line(format_args!("a=fmtp:{payload_type} 0-15"));
        }
        out.line(format_args!("a=ptime:{}", self.ptime_ms));
        out.line(format_args!("a={}", self.direction.attribute()));
        match self.rtcp {
            Rtcp::Mux => out.line(format_args!("a=rtcp-mux")),
            Rtcp::SamePort => out.line(format_args!("a=rtcp:{}", local.port())),
            Rtcp::None => {}
        }
        for crypto in &self.cryptos {
            out.line(format_args!("a=crypto:{}", crypto.to_line()));
        }
        if let Some((fingerprint, setup)) = self.dtls {
            out.line(format_args!("a=fingerprint:{fingerprint}"));
            out.line(format_args!("a=setup:{setup}"));
        }
        self.ice.write(local, out);
    }
}

impl<'a> Ice<'a> {
    pub(super) const fn of(ice: &'a IceParams) -> Self {
        Self::Ours {
            credentials: &ice.local,
            is_lite: ice.we_are_lite,
        }
    }

    fn write(&self, local: SocketAddr, out: &mut Lines) {
        match self {
            Self::None => {}
            Self::Mismatch => out.line(format_args!("a=ice-mismatch")),
            Self::Ours { credentials, .. } => {
                let (address, port) = (local.ip(), local.port());
                out.line(format_args!("a=ice-ufrag:{}", credentials.ufrag));
                out.line(format_args!("a=ice-pwd:{}", credentials.password));
                out.line(format_args!(
                    "a=candidate:1 1 UDP {PRIORITY} {address} {port} typ host"
                ));
            }
        }
    }
}

/// What we like to be sent, or how it is to be packed.
const fn parameters(codec: Codec) -> Option<&'static str> {
    match codec {
        // RFC 7587 section 6.1: what is lost can be had from the packet that follows.
        Codec::Opus => Some("minptime=10;useinbandfec=1"),
        #[cfg(feature = "amr")]
        Codec::Amr(Packing::OctetAligned) | Codec::AmrWb(Packing::OctetAligned) => {
            Some("octet-align=1")
        }
        _ => None,
    }
}

/// A text of lines that end as RFC 8866 has it.
struct Lines(String);

impl Lines {
    fn line(&mut self, text: fmt::Arguments<'_>) {
        append(&mut self.0, text);
        self.0.push_str("\r\n");
    }
}

fn append(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes any text");
}
