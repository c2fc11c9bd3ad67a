//! RTCP of one call: a report every five seconds, more or less, and the goodbye.

use std::time::Duration;
use std::time::Instant;

use crate::media::rtp::rtcp;
use crate::media::rtp::rtcp::Report;
use crate::media::rtp::rtcp::ReportBlock;
use crate::media::rtp::rtcp::RtcpPacket;
use crate::media::rtp::rtcp::SenderInfo;
use crate::media::session::hear::Reception;
use crate::media::session::outbox::Outbox;
use crate::media::session::play::Player;

/// The mean interval of reports (RFC 3550 section 6.2).
const INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Reporter {
    /// Some moment before the call that our clock counts from (RFC 3550 section 6.4.1 lets a
    /// sender without wall clock do so).
    epoch: Instant,
    cname: String,
    random: u32,
    due: Instant,
    packets_reported: u32,
    /// Middle of the clock in the peer's last sender report, and when that came.
    last_sender_report: Option<(u32, Instant)>,
}

impl Reporter {
    pub(super) fn new(now: Instant, epoch: Instant, cname: String, seed: u32) -> Self {
        let mut reporter = Self {
            epoch,
            cname,
            random: seed | 1,
            due: now,
            packets_reported: 0,
            last_sender_report: None,
        };
        reporter.schedule(now);
        reporter
    }

    /// RFC 3550 section 6.2: spread between half and one and a half of the interval, so that the
    /// reports of many calls do not fall together.
    fn schedule(&mut self, now: Instant) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.due = now + INTERVAL / 2 + INTERVAL * (self.random >> 16) / 65_536;
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Takes a compound packet. Tells whether it was well formed.
    pub(super) fn handle(&mut self, now: Instant, compound: &[u8], ours: u32) -> bool {
        for packet in rtcp::read(compound, ours) {
            match packet {
                Ok(RtcpPacket::SenderReport { ntp, .. }) => {
                    self.last_sender_report = Some(((ntp >> 16) as u32, now));
                }
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        true
    }

    pub(super) fn send(
        &mut self,
        now: Instant,
        player: &Player,
        reception: &mut Reception,
        goodbye: bool,
        out: &mut Outbox,
    ) {
        let (packets, octets) = player.sent();
        let sends = packets != self.packets_reported;
        self.packets_reported = packets;
        let mut buffer = [0; rtcp::MAX_LEN];
        let report = Report {
            ssrc: player.ssrc(),
            sent: sends.then(|| SenderInfo {
                ntp: fixed_point(now.saturating_duration_since(self.epoch)),
                timestamp: player.timestamp(),
                packets,
                octets,
            }),
            heard: self.heard(now, reception),
            cname: &self.cname,
            goodbye,
        };
        let len = report.write(&mut buffer);
        out.rtcp(buffer.get(..len).unwrap_or_default());
        self.schedule(now);
    }

    fn heard(&self, now: Instant, reception: &mut Reception) -> Option<ReportBlock> {
        let (last_sender_report, delay_since) = match self.last_sender_report {
            Some((report, at)) => {
                let delay = fixed_point(now.saturating_duration_since(at)) >> 16;
                (report, delay as u32)
            }
            None => (0, 0),
        };
        let source = reception.source()?;
        Some(ReportBlock {
            ssrc: source.ssrc(),
            fraction_lost: source.fraction_lost(),
            cumulative_lost: i32::try_from(source.counts().lost).unwrap_or(i32::MAX),
            highest_sequence: source.highest_sequence(),
            jitter: source.jitter(),
            last_sender_report,
            delay_since,
        })
    }
}

/// A time as NTP counts it: seconds, and 1/2^32 of them.
fn fixed_point(time: Duration) -> u64 {
    (time.as_secs() << 32) | ((u64::from(time.subsec_nanos()) << 32) / 1_000_000_000)
}
