//! RTP (RFC 3550, RFC 3551): what a datagram on a media port is, and the header of what we send.
//!
//! Packets are read by `rtp-rs`, which checks every length before it gives out a field. Headers
//! are written here: twelve bytes into a buffer that is there already.

pub mod rtcp;
pub mod telephone_event;

use rtp_rs::RtpReader;
use rtp_rs::RtpReaderError;

/// Length of the header we send: no contributing sources, no extension.
pub const HEADER_LEN: usize = 12;

/// One RTP packet, borrowed from the datagram it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpPacket<'a> {
    /// What the payload is, as the session description numbers it: 0 to 127.
    pub payload_type: u8,
    /// The first packet after a pause, for audio (RFC 3551 section 4.1).
    pub marker: bool,
    /// Counts packets and wraps around.
    pub sequence: u16,
    /// Counts samples and wraps around.
    pub timestamp: u32,
    /// Who sends.
    pub ssrc: u32,
    /// Without contributing sources, extension and padding.
    pub payload: &'a [u8],
}

/// What came in on a media port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// Media.
    Rtp(RtpPacket<'a>),
    /// A compound RTCP packet, for [`rtcp::read`].
    Rtcp(&'a [u8]),
}

/// Why a datagram is neither RTP nor RTCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Less than a header.
    #[error("the datagram is too short")]
    Short,
    /// Something else, or RTP of another version (RFC 3550 section 5.1: version 2).
    #[error("the datagram is no RTP of version 2")]
    Version,
    /// A length field points behind the end.
    #[error("the packet's lengths contradict each other")]
    Malformed,
}

/// Tells RTP from RTCP on a shared port (RFC 5761 section 4).
pub fn read(datagram: &[u8]) -> Result<Datagram<'_>, PacketError> {
    let [first, second, ..] = datagram else {
        return Err(PacketError::Short);
    };
    if first >> 6 != 2 {
        return Err(PacketError::Version);
    }
    if (192..=223).contains(second) {
        return Ok(Datagram::Rtcp(datagram));
    }
    let packet = RtpReader::new(datagram).map_err(|error| match error {
        RtpReaderError::BufferTooShort(_) => PacketError::Short,
        RtpReaderError::UnsupportedVersion(_) => PacketError::Version,
        RtpReaderError::HeadersTruncated { .. } | RtpReaderError::PaddingLengthInvalid(_) => {
            PacketError::Malformed
        }
    })?;
    Ok(Datagram::Rtp(RtpPacket {
        payload_type: packet.payload_type(),
        marker: packet.mark(),
        sequence: packet.sequence_number().into(),
        timestamp: packet.timestamp(),
        ssrc: packet.ssrc(),
        payload: packet.payload(),
    }))
}

/// The header of a packet that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the payload is: 0 to 127.
    pub payload_type: u8,
    /// The first packet after a pause.
    pub marker: bool,
    /// Counts packets.
    pub sequence: u16,
    /// Counts samples.
    pub timestamp: u32,
    /// Who sends.
    pub ssrc: u32,
}

impl Header {
    /// The header as it goes on the wire.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [sequence_0, sequence_1] = self.sequence.to_be_bytes();
        let [time_0, time_1, time_2, time_3] = self.timestamp.to_be_bytes();
        let [ssrc_0, ssrc_1, ssrc_2, ssrc_3] = self.ssrc.to_be_bytes();
        let second = (u8::from(self.marker) << 7) | (self.payload_type & 0x7F);
        [
            0x80, second, sequence_0, sequence_1, time_0, time_1, time_2, time_3, ssrc_0, ssrc_1,
            ssrc_2, ssrc_3,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        payload_type: 8,
        marker: true,
        sequence: 0xFFFE,
        timestamp: 0x0102_0304,
        ssrc: 0xA0B0_C0D0,
    };

    fn rtp(datagram: &[u8]) -> RtpPacket<'_> {
        match read(datagram).unwrap() {
            Datagram::Rtp(packet) => packet,
            Datagram::Rtcp(_) => panic!("not RTCP"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut datagram = HEADER.to_bytes().to_vec();
        datagram.extend([1, 2, 3]);
        assert_eq!(
            rtp(&datagram),
            RtpPacket {
                payload_type: 8,
                marker: true,
                sequence: 0xFFFE,
                timestamp: 0x0102_0304,
                ssrc: 0xA0B0_C0D0,
                payload: &[1, 2, 3],
            }
        );
    }

    #[test]
    fn sources_extension_and_padding_are_no_payload() {
        let mut datagram = HEADER.to_bytes().to_vec();
        datagram[0] = 0x80 | 0x20 | 0x10 | 2; // padding, extension, two contributing sources
        datagram.extend([0; 8]);
        datagram.extend([0xBE, 0xDE, 0, 1, 9, 9, 9, 9]);
        datagram.extend([7, 7]);
        datagram.extend([0, 0, 3]);
        assert_eq!(rtp(&datagram).payload, &[7, 7]);
    }

    #[test]
    fn lengths_that_point_outside_are_refused() {
        let mut padded = HEADER.to_bytes().to_vec();
        padded[0] |= 0x20;
        assert_eq!(read(&padded), Err(PacketError::Malformed));
        padded.push(200);
        assert_eq!(read(&padded), Err(PacketError::Malformed));

        let mut sources = HEADER.to_bytes().to_vec();
        sources[0] |= 15;
        assert_eq!(read(&sources), Err(PacketError::Malformed));

        let mut extension = HEADER.to_bytes().to_vec();
        extension[0] |= 0x10;
        extension.extend([0, 0, 0xFF, 0xFF]);
        assert_eq!(read(&extension), Err(PacketError::Malformed));
    }

    #[test]
    fn other_versions_and_short_datagrams_are_refused() {
        let mut old = HEADER.to_bytes();
        old[0] = 0x40;
        assert_eq!(read(&old), Err(PacketError::Version));
        assert_eq!(read(&[]), Err(PacketError::Short));
        assert_eq!(read(&[0x80]), Err(PacketError::Short));
        assert_eq!(read(&HEADER.to_bytes()[..11]), Err(PacketError::Short));
    }

    #[test]
    fn rtcp_is_told_by_its_packet_type() {
        assert!(matches!(
            read(&[0x80, 200, 0, 6]),
            Ok(Datagram::Rtcp([0x80, 200, 0, 6]))
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_panics(datagram in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            if let Ok(Datagram::Rtp(packet)) = read(&datagram) {
                proptest::prop_assert!(packet.payload.len() + HEADER_LEN <= datagram.len());
            }
        }
    }
}
