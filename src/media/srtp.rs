//! SRTP and SRTCP: what protects the packets of one call (RFC 3711, RFC 7714).
//!
//! Pure, in place, and without allocation per packet. `docs/decisions/0007-own-srtp.md` tells why
//! this is not a crate. The parts: `cipher` (one key's work on one packet), `derive` (session keys
//! of a master key), `replay` (order, rollover and replays of one source).

mod cipher;
mod derive;
mod replay;

use crate::media::sdp::SrtpKey;
use crate::media::srtp::cipher::Cipher;
use crate::media::srtp::derive::Use;
use crate::media::srtp::replay::Received;

/// The most that protection adds to a packet, in bytes: a tag of 16 and the SRTCP index of 4.
pub const MAX_OVERHEAD: usize = 20;

/// So many sources of one peer are told apart under one key. None is ever forgotten, or its
/// packets could be replayed.
const MAX_SOURCES: usize = 16;
/// After so many packets under new keys those under the former ones are late no more, but forged.
const OVERLAP: u8 = 100;
/// The longest datagram that is tried with two keys.
const MAX_TRIED_TWICE: usize = 2048;
/// RTCP: version, counts, type, length and the sender's SSRC stay readable (RFC 3711 section 3.4).
const RTCP_HEADER: usize = 8;
/// Set in the SRTCP index of an encrypted packet.
const ENCRYPTED: u32 = 1 << 31;

/// Why a packet is not protected or not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    /// It is no RTP or RTCP packet, or shorter than its protection.
    #[error("not a protected packet")]
    Malformed,
    /// Its tag is wrong: damaged, forged, or under other keys.
    #[error("the packet is not authentic")]
    Unauthentic,
    /// It was received before, or is too old to tell.
    #[error("the packet was received before")]
    Replayed,
    /// Its sender has used too many SSRCs under one key.
    #[error("too many SSRCs under one key")]
    TooManySources,
    /// The buffer has no room for the tag.
    #[error("no room for the tag")]
    NoRoom,
    /// A packet not after the last one, or of an SSRC that was left: its key stream was used already.
    #[error("the packet would use a key stream twice")]
    OutOfOrder,
    /// The key has protected as many packets as it may (RFC 3711 section 9.2).
    #[error("the key is used up")]
    KeyUsedUp,
}

/// Protection of one call's packets in both directions. What a packet needs that is received, as
/// most are, comes first.
#[derive(Debug)]
#[repr(C)]
pub struct Srtp {
    /// What was received with before the last change of keys, and for how many packets more.
    former: Option<(Box<Receiver>, u8)>,
    receiver: Receiver,
    sender: Sender,
}

impl Srtp {
    /// Sends under `send` and receives under `receive`.
    pub fn new(send: &SrtpKey, receive: &SrtpKey) -> Self {
        Self {
            sender: Sender::new(send),
            receiver: Receiver::new(receive),
            former: None,
        }
    }

    /// Changes the keys. A direction whose key stays goes on where it was: to count anew would use
    /// key streams twice, and believe replays. What the peer sent under the former key is still
    /// received for some packets after the first under the new one.
    pub fn change_keys(&mut self, new: Self) {
        if self.sender.key != new.sender.key {
            self.sender = new.sender;
        }
        if self.receiver.key != new.receiver.key {
            let next = match self.former.take() {
                Some((former, _)) if former.key == new.receiver.key => *former,
                _ => new.receiver,
            };
            let former = std::mem::replace(&mut self.receiver, next);
            self.former = Some((Box::new(former), OVERLAP));
        }
    }

    /// Protects the RTP packet in the first `len` bytes of `buffer` and tells its new length.
    /// [`MAX_OVERHEAD`] bytes of room behind it are enough. Each sequence number is after the one
    /// before; an SSRC that was changed for another is not to come back.
    pub fn protect_rtp(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, SrtpError> {
        self.sender.protect_rtp(buffer, len)
    }

    /// Protects the compound RTCP packet in the first `len` bytes of `buffer`, as
    /// [`Self::protect_rtp`] does.
    pub fn protect_rtcp(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, SrtpError> {
        self.sender.protect_rtcp(buffer, len)
    }

    /// Checks and decrypts an RTP packet in place and tells its plain length. A packet that is
    /// refused leaves no trace here, and its bytes have no meaning any more.
    pub fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        self.receive(packet, Receiver::unprotect_rtp)
    }

    /// Checks and decrypts a compound RTCP packet in place, as [`Self::unprotect_rtp`] does.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        self.receive(packet, Receiver::unprotect_rtcp)
    }

    fn receive(
        &mut self,
        packet: &mut [u8],
        unprotect: fn(&mut Receiver, &mut [u8]) -> Result<usize, SrtpError>,
    ) -> Result<usize, SrtpError> {
        let Some((former, left)) = &mut self.former else {
            return unprotect(&mut self.receiver, packet);
        };
        match unspoilt(packet, |packet| unprotect(&mut self.receiver, packet)) {
            Err(SrtpError::Unauthentic) => unprotect(former, packet),
            Ok(len) => {
                *left -= 1;
                if *left == 0 {
                    self.former = None;
                }
                Ok(len)
            }
            error => error,
        }
    }
}

/// Our direction. What is for reports, one in seconds, is made for each from the master key: that
/// takes half a microsecond, and to keep it would double what a call holds.
#[derive(Debug)]
struct Sender {
    key: SrtpKey,
    rtp: Cipher,
    /// Our SSRC and the index of its last packet.
    last: Option<(u32, u64)>,
    /// The SSRCs before.
    left: Vec<u32>,
    /// The index of the next report.
    next_report: u32,
}

impl Sender {
    fn new(key: &SrtpKey) -> Self {
        Self {
            key: key.clone(),
            rtp: Cipher::new(key, Use::Rtp),
            last: None,
            left: Vec::new(),
            next_report: 0,
        }
    }

    fn protect_rtp(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, SrtpError> {
        let head = RtpHead::read(buffer.get(..len).ok_or(SrtpError::Malformed)?)?;
        let index = match self.last {
            Some((ssrc, last)) if ssrc == head.ssrc => replay::closest(last, head.sequence)
                .filter(|index| *index > last)
                .ok_or(SrtpError::OutOfOrder)?,
            // Its key stream is another's (RFC 3711 section 4.1.1), and its rollovers begin anew.
            _ => self.begin(head.ssrc, head.sequence)?,
        };
        if index >> 48 != 0 {
            return Err(SrtpError::KeyUsedUp);
        }
        let len = self.rtp.seal_rtp(buffer, head.len, len, head.ssrc, index)?;
        self.last = Some((head.ssrc, index));
        Ok(len)
    }

    /// The index of the first packet of another SSRC.
    fn begin(&mut self, ssrc: u32, sequence: u16) -> Result<u64, SrtpError> {
        if self.left.contains(&ssrc) {
            return Err(SrtpError::OutOfOrder);
        }
        if self.left.len() >= MAX_SOURCES {
            return Err(SrtpError::TooManySources);
        }
        self.left.extend(self.last.map(|(before, _)| before));
        Ok(sequence.into())
    }

    fn protect_rtcp(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, SrtpError> {
        let ssrc = rtcp_ssrc(buffer.get(..len).ok_or(SrtpError::Malformed)?)?;
        let index = self.next_report;
        if index & ENCRYPTED != 0 {
            return Err(SrtpError::KeyUsedUp);
        }
        let cipher = Cipher::new(&self.key, Use::Rtcp);
        let len = cipher.seal_rtcp(buffer, len, ssrc, index)?;
        self.next_report += 1;
        Ok(len)
    }
}

/// The peer's direction under one key. What each packet needs stands together.
#[derive(Debug)]
#[repr(C)]
struct Receiver {
    rtp: Cipher,
    media: Sources,
    reports: Sources,
    key: SrtpKey,
}

impl Receiver {
    fn new(key: &SrtpKey) -> Self {
        Self {
            key: key.clone(),
            rtp: Cipher::new(key, Use::Rtp),
            media: Sources::default(),
            reports: Sources::default(),
        }
    }

    fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let head = RtpHead::read(packet)?;
        if let Some(received) = self.media.find(head.ssrc) {
            let index = received.index(head.sequence).ok_or(SrtpError::Replayed)?;
            let len = self.rtp.open_rtp(packet, head.len, head.ssrc, index)?;
            received.note(index);
            return Ok(len);
        }
        self.media.check_room()?;
        let mut index = u64::from(head.sequence);
        let mut open = |packet: &mut [u8], index| {
            let len = self.rtp.open_rtp(packet, head.len, head.ssrc, index)?;
            self.media.add(head.ssrc, index);
            Ok(len)
        };
        // A source that began shortly before its first rollover may be heard first after it.
        if head.sequence < 1 << 15 {
            let opened = unspoilt(packet, |packet| open(packet, index));
            if opened != Err(SrtpError::Unauthentic) {
                return opened;
            }
            index |= 1 << 16;
        }
        open(packet, index)
    }

    fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let ssrc = rtcp_ssrc(packet)?;
        let cipher = Cipher::new(&self.key, Use::Rtcp);
        let index = cipher.report_index(packet)?;
        let number = u64::from(index & !ENCRYPTED);
        if let Some(received) = self.reports.find(ssrc) {
            if !received.is_new(number) {
                return Err(SrtpError::Replayed);
            }
            let len = cipher.open_rtcp(packet, ssrc, index)?;
            received.note(number);
            return Ok(len);
        }
        self.reports.check_room()?;
        let len = cipher.open_rtcp(packet, ssrc, index)?;
        self.reports.add(ssrc, number);
        Ok(len)
    }
}

/// The peer's sources, each known by a packet that was authentic. Nearly every peer has one; it lies
/// here, for memory of its own would have to be fetched for each packet.
#[derive(Debug, Default)]
struct Sources {
    first: Option<(u32, Received)>,
    others: Vec<(u32, Received)>,
}

impl Sources {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    fn find(&mut self, ssrc: u32) -> Option<&mut Received> {
        let mut sources = self.first.iter_mut().chain(&mut self.others);
        sources.find_map(|(known, received)| (*known == ssrc).then_some(received))
    }

    fn check_room(&self) -> Result<(), SrtpError> {
        if self.len() < MAX_SOURCES {
            Ok(())
        } else {
            Err(SrtpError::TooManySources)
        }
    }

    fn add(&mut self, ssrc: u32, index: u64) {
        let source = (ssrc, Received::beginning_with(index));
        match self.first {
            None => self.first = Some(source),
            Some(_) => self.others.push(source),
        }
    }
}

/// What protection needs of an RTP header.
struct RtpHead {
    /// With CSRCs and extension: so much stays readable.
    len: usize,
    sequence: u16,
    ssrc: u32,
}

impl RtpHead {
    fn read(packet: &[u8]) -> Result<Self, SrtpError> {
        let [first, _, s0, s1, _, _, _, _, a, b, c, d, ..] = *packet else {
            return Err(SrtpError::Malformed);
        };
        let mut len = 12 + usize::from(first & 0x0f) * 4;
        if first & 0x10 != 0 {
            let Some([_, _, high, low]) = packet.get(len..len + 4) else {
                return Err(SrtpError::Malformed);
            };
            len += 4 + usize::from(u16::from_be_bytes([*high, *low])) * 4;
        }
        if first >> 6 != 2 || len > packet.len() {
            return Err(SrtpError::Malformed);
        }
        Ok(Self {
            len,
            sequence: u16::from_be_bytes([s0, s1]),
            ssrc: u32::from_be_bytes([a, b, c, d]),
        })
    }
}

/// Tries what spoils the packet when it fails, and restores it then.
fn unspoilt<T>(
    packet: &mut [u8],
    attempt: impl FnOnce(&mut [u8]) -> Result<T, SrtpError>,
) -> Result<T, SrtpError> {
    let mut copy = [0; MAX_TRIED_TWICE];
    let copy = copy.get_mut(..packet.len()).ok_or(SrtpError::Malformed)?;
    copy.copy_from_slice(packet);
    attempt(packet).inspect_err(|_| packet.copy_from_slice(copy))
}

fn rtcp_ssrc(packet: &[u8]) -> Result<u32, SrtpError> {
    match *packet {
        [first, _, _, _, a, b, c, d, ..] if first >> 6 == 2 => Ok(u32::from_be_bytes([a, b, c, d])),
        _ => Err(SrtpError::Malformed),
    }
}

#[cfg(test)]
mod tests;
