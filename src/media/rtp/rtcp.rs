//! RTCP (RFC 3550 section 6): the reports of a call with two parties, and the goodbye.

/// Room for the longest packet that [`Report::write`] makes.
pub const MAX_LEN: usize = 128;

/// The longest canonical name that is sent.
pub const MAX_CNAME_LEN: usize = 48;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const CNAME: u8 = 1;

/// One packet of a compound, as far as it concerns us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtcpPacket {
    /// The peer sends, and tells how its timestamps relate to its clock.
    SenderReport {
        /// Who reports.
        ssrc: u32,
        /// The peer's clock, in 1/2^32 seconds.
        ntp: u64,
        /// What it says about the stream that we send.
        about_us: Option<ReportBlock>,
    },
    /// The peer only listens.
    ReceiverReport {
        /// Who reports.
        ssrc: u32,
        /// What it says about the stream that we send.
        about_us: Option<ReportBlock>,
    },
    /// The peer leaves.
    Goodbye {
        /// Who leaves.
        ssrc: u32,
    },
    /// Something that is skipped: source descriptions, feedback, extensions.
    Other(u8),
}

/// What one side tells about the stream it hears (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportBlock {
    /// The stream that the block is about.
    pub ssrc: u32,
    /// Share of packets lost since the report before, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since the beginning, negative when there were more duplicates.
    pub cumulative_lost: i32,
    /// Highest sequence number seen, extended by the number of its wrap-arounds.
    pub highest_sequence: u32,
    /// Jitter in samples.
    pub jitter: u32,
    /// Middle of the clock in the last sender report, or zero.
    pub last_sender_report: u32,
    /// Time since then in 1/65536 s.
    pub delay_since: u32,
}

/// The compound was cut short or has a wrong version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the RTCP packet is malformed")]
pub struct MalformedRtcp;

/// Reads a compound packet by packet; `ssrc` is the stream that we send. After a malformed packet
/// there comes nothing more.
pub fn read(compound: &[u8], ssrc: u32) -> impl Iterator<Item = Result<RtcpPacket, MalformedRtcp>> {
    let mut rest = compound;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let packet = split_packet(&mut rest).and_then(|packet| read_packet(packet, ssrc));
        if packet.is_none() {
            rest = &[];
        }
        Some(packet.ok_or(MalformedRtcp))
    })
}

fn split_packet<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [first, _, length @ ..] = rest.first_chunk::<4>()?;
    if first >> 6 != 2 {
        return None;
    }
    let len = 4 * (usize::from(u16::from_be_bytes(*length)) + 1);
    let (packet, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(packet)
}

fn read_packet(packet: &[u8], ours: u32) -> Option<RtcpPacket> {
    let (head, body) = packet.split_first_chunk::<4>()?;
    let count = usize::from(head[0] & 0x1F);
    match head[1] {
        SENDER_REPORT => {
            let (sender, blocks) = body.split_first_chunk::<24>()?;
            Some(RtcpPacket::SenderReport {
                ssrc: number(sender, 0)?,
                ntp: (u64::from(number(sender, 4)?) << 32) | u64::from(number(sender, 8)?),
                about_us: find_block(blocks, count, ours)?,
            })
        }
        RECEIVER_REPORT => Some(RtcpPacket::ReceiverReport {
            ssrc: number(body, 0)?,
            about_us: find_block(body.get(4..)?, count, ours)?,
        }),
        GOODBYE if count > 0 => Some(RtcpPacket::Goodbye {
            ssrc: number(body, 0)?,
        }),
        other => Some(RtcpPacket::Other(other)),
    }
}

/// The block about `ours`; the outer `None` says that the packet is shorter than it claims.
fn find_block(blocks: &[u8], count: usize, ours: u32) -> Option<Option<ReportBlock>> {
    let (blocks, _) = blocks.get(..count * 24)?.as_chunks::<24>();
    let Some(block) = blocks.iter().find(|block| number(*block, 0) == Some(ours)) else {
        return Some(None);
    };
    let lost = number(block, 4)?;
    Some(Some(ReportBlock {
        ssrc: ours,
        fraction_lost: (lost >> 24) as u8,
        // The low 24 bits, with their sign.
        cumulative_lost: ((lost << 8) as i32) >> 8,
        highest_sequence: number(block, 8)?,
        jitter: number(block, 12)?,
        last_sender_report: number(block, 16)?,
        delay_since: number(block, 20)?,
    }))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_be_bytes)
}

/// What we report: one compound of a report, our name, and the goodbye at the end.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// Our stream.
    pub ssrc: u32,
    /// Where our stream stands, if something was sent since the report before.
    pub sent: Option<SenderInfo>,
    /// What we hear, if we hear something.
    pub heard: Option<ReportBlock>,
    /// A name that stays the same during the call; it says nothing about the host (RFC 7022).
    pub cname: &'a str,
    /// Whether this is the end.
    pub goodbye: bool,
}

/// How our stream stands (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderInfo {
    /// Our clock, in 1/2^32 seconds since some moment.
    pub ntp: u64,
    /// The timestamp of the same moment.
    pub timestamp: u32,
    /// Packets sent.
    pub packets: u32,
    /// Bytes of payload sent.
    pub octets: u32,
}

impl Report<'_> {
    /// Writes the compound and tells its length.
    pub fn write(&self, buffer: &mut [u8; MAX_LEN]) -> usize {
        let mut out = Writer { buffer, len: 0 };
        let blocks = u8::from(self.heard.is_some());
        match &self.sent {
            Some(sent) => {
                out.head(blocks, SENDER_REPORT, 6 + 6 * u16::from(blocks));
                out.number(self.ssrc);
                out.number((sent.ntp >> 32) as u32);
                out.number(sent.ntp as u32);
                out.number(sent.timestamp);
                out.number(sent.packets);
                out.number(sent.octets);
            }
            None => {
                out.head(blocks, RECEIVER_REPORT, 1 + 6 * u16::from(blocks));
                out.number(self.ssrc);
            }
        }
        if let Some(heard) = &self.heard {
            out.block(heard);
        }
        self.write_name(&mut out);
        if self.goodbye {
            out.head(1, GOODBYE, 1);
            out.number(self.ssrc);
        }
        out.len
    }

    fn write_name(&self, out: &mut Writer<'_>) {
        let name = self.cname.as_bytes();
        let name = name.get(..MAX_CNAME_LEN).unwrap_or(name);
        // Type, length, text, and at least one zero up to the next multiple of four.
        let padded = (2 + name.len() + 1).next_multiple_of(4);
        out.head(1, SOURCE_DESCRIPTION, 1 + (padded / 4) as u16);
        out.number(self.ssrc);
        out.bytes(&[CNAME, name.len() as u8]);
        out.bytes(name);
        out.bytes(&[0; 4][..padded - 2 - name.len()]);
    }
}

/// Writes into a buffer that [`MAX_LEN`] makes large enough.
struct Writer<'a> {
    buffer: &'a mut [u8; MAX_LEN],
    len: usize,
}

impl Writer<'_> {
    fn head(&mut self, count: u8, packet_type: u8, words: u16) {
        let [high, low] = words.to_be_bytes();
        self.bytes(&[0x80 | count, packet_type, high, low]);
    }

    fn block(&mut self, block: &ReportBlock) {
        self.number(block.ssrc);
        let lost = block.cumulative_lost.clamp(-0x80_0000, 0x7F_FFFF) as u32 & 0xFF_FFFF;
        self.number((u32::from(block.fraction_lost) << 24) | lost);
        self.number(block.highest_sequence);
        self.number(block.jitter);
        self.number(block.last_sender_report);
        self.number(block.delay_since);
    }

    fn number(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if let Some(room) = self.buffer.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
            self.len = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use rtcp_types::Compound;
    use rtcp_types::Packet;

    use super::*;

    const HEARD: ReportBlock = ReportBlock {
        ssrc: 77,
        fraction_lost: 51,
        cumulative_lost: -3,
        highest_sequence: 0x0001_0005,
        jitter: 12,
        last_sender_report: 0xAABB_CCDD,
        delay_since: 65_536,
    };

    const SENT: SenderInfo = SenderInfo {
        ntp: 0x1122_3344_5566_7788,
        timestamp: 4_000,
        packets: 25,
        octets: 4_000,
    };

    fn report(sent: Option<SenderInfo>, heard: Option<ReportBlock>, goodbye: bool) -> Vec<u8> {
        let mut buffer = [0xEE; MAX_LEN];
        let report = Report {
            ssrc: 5,
            sent,
            heard,
            cname: "0123456789abcdef",
            goodbye,
        };
        let len = report.write(&mut buffer);
        buffer[..len].to_vec()
    }

    #[test]
    fn another_reader_understands_our_sender_report() {
        let bytes = report(Some(SENT), Some(HEARD), true);
        let packets: Vec<_> = Compound::parse(&bytes)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let [Packet::Sr(sr), Packet::Sdes(sdes), Packet::Bye(bye)] = packets.as_slice() else {
            panic!("{packets:?}");
        };
        assert_eq!((sr.ssrc(), sr.ntp_timestamp()), (5, SENT.ntp));
        assert_eq!(
            (sr.rtp_timestamp(), sr.packet_count(), sr.octet_count()),
            (4_000, 25, 4_000)
        );
        let block = sr.report_blocks().next().unwrap();
        assert_eq!((block.ssrc(), block.fraction_lost()), (77, 51));
        assert_eq!(block.cumulative_lost(), 0xFF_FFFD);
        assert_eq!(block.extended_sequence_number(), 0x0001_0005);
        assert_eq!(
            (
                block.interarrival_jitter(),
                block.last_sender_report_timestamp()
            ),
            (12, 0xAABB_CCDD)
        );
        let chunk = sdes.chunks().next().unwrap();
        let item = chunk.items().next().unwrap();
        assert_eq!(
            (chunk.ssrc(), item.type_(), item.value()),
            (5, 1, &b"0123456789abcdef"[..])
        );
        assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn we_read_what_we_write() {
        let bytes = report(Some(SENT), Some(HEARD), true);
        let packets: Vec<_> = read(&bytes, 77).collect();
        assert_eq!(
            packets,
            [
                Ok(RtcpPacket::SenderReport {
                    ssrc: 5,
                    ntp: SENT.ntp,
                    about_us: Some(HEARD)
                }),
                Ok(RtcpPacket::Other(SOURCE_DESCRIPTION)),
                Ok(RtcpPacket::Goodbye { ssrc: 5 }),
            ]
        );
        let bytes = report(None, None, false);
        assert_eq!(
            read(&bytes, 77).next(),
            Some(Ok(RtcpPacket::ReceiverReport {
                ssrc: 5,
                about_us: None
            }))
        );
    }

    #[test]
    fn the_longest_report_fits() {
        let mut buffer = [0; MAX_LEN];
        let cname = "x".repeat(200);
        let report = Report {
            ssrc: 5,
            sent: Some(SENT),
            heard: Some(HEARD),
            cname: &cname,
            goodbye: true,
        };
        let len = report.write(&mut buffer);
        assert_eq!(read(&buffer[..len], 77).filter(Result::is_ok).count(), 3);
    }

    #[test]
    fn a_packet_longer_than_the_datagram_ends_the_reading() {
        let mut bytes = report(Some(SENT), Some(HEARD), false);
        bytes.truncate(40);
        assert_eq!(read(&bytes, 77).collect::<Vec<_>>(), [Err(MalformedRtcp)]);
        // A block count that promises more than there is.
        let mut bytes = report(None, None, false);
        bytes[0] |= 31;
        assert_eq!(read(&bytes, 77).next(), Some(Err(MalformedRtcp)));
    }

    proptest::proptest! {
        #[test]
        fn no_compound_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..96)) {
            let _ = read(&bytes, 1).count();
        }
    }
}
