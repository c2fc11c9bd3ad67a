//! Digits as RTP payload (RFC 4733).

/// One packet of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TelephoneEvent {
    /// 0 to 15 are the digits, 16 is a hook flash, others are tones.
    pub event: u8,
    /// Whether the event is over.
    pub end: bool,
    /// Length so far, by the clock of its payload type.
    pub duration: u16,
}

impl TelephoneEvent {
    /// Length of the payload in bytes.
    pub const LEN: usize = 4;

    /// Reads a payload; `None` if it is too short.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [event, flags, high, low] = *payload.first_chunk::<{ Self::LEN }>()?;
        Some(Self {
            event,
            end: flags & 0x80 != 0,
            duration: u16::from_be_bytes([high, low]),
        })
    }

    /// The payload, with the usual volume of -10 dBm0.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [high, low] = self.duration.to_be_bytes();
        [self.event, (u8::from(self.end) << 7) | 10, high, low]
    }
}

const DIGITS: [char; 16] = [
    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '*', '#', 'A', 'B', 'C', 'D',
];

/// The event code of a digit (RFC 4733 section 3.2).
pub fn event_of(digit: char) -> Option<u8> {
    let digit = digit.to_ascii_uppercase();
    let code = DIGITS.iter().position(|known| *known == digit)?;
    u8::try_from(code).ok()
}

/// By how much the duration may grow between two packets: 200 ms at 8 kHz, 100 ms at 48 kHz.
const LONGEST_STEP: u16 = 4_800;

/// Hears digits out of a stream of event packets: each digit once, with its first packet that
/// arrives, whichever packets are lost, repeated or late.
#[derive(Debug, Clone, Copy, Default)]
pub struct DigitReceiver {
    last: Option<Heard>,
}

/// The event heard last.
#[derive(Debug, Clone, Copy)]
struct Heard {
    event: u8,
    /// Timestamp of the event's first segment.
    timestamp: u32,
    /// The most it was said to last.
    duration: u16,
}

impl DigitReceiver {
    /// Takes one packet of the event payload type. All packets of an event bear the timestamp of
    /// its beginning (RFC 4733 section 2.5.1.2), so a digit is new when its timestamp is.
    pub fn handle(&mut self, timestamp: u32, payload: &[u8]) -> Option<char> {
        let event = TelephoneEvent::parse(payload)?;
        if let Some(last) = &mut self.last {
            let age = timestamp.wrapping_sub(last.timestamp) as i32;
            if age == 0 {
                last.duration = last.duration.max(event.duration);
                return None;
            }
            if age < 0 {
                return None;
            }
            // Section 2.5.1.3: an event longer than its duration field goes on in a new segment.
            let full = last.duration > u16::MAX - LONGEST_STEP;
            let continued = full
                && event.event == last.event
                && age <= i32::from(u16::MAX) + i32::from(LONGEST_STEP);
            if continued {
                last.timestamp = timestamp;
                last.duration = event.duration;
                return None;
            }
        }
        self.last = Some(Heard {
            event: event.event,
            timestamp,
            duration: event.duration,
        });
        DIGITS.get(usize::from(event.event)).copied()
    }
}

/// What to send in one 20 ms slot of a digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigitPacket {
    /// Whether it begins the digit, which is when the timestamp is taken.
    pub first: bool,
    /// The payload.
    pub event: TelephoneEvent,
}

/// Sends one digit: 100 ms long, its end said three times (RFC 4733 section 2.5.1.4), then a pause
/// of 60 ms, all in slots of 20 ms.
#[derive(Debug, Clone, Copy)]
pub struct DigitSender {
    event: u8,
    slot: u16,
    slot_ticks: u16,
}

impl DigitSender {
    const TONE_SLOTS: u16 = 5;
    const END_SLOTS: u16 = 3;
    const PAUSE_SLOTS: u16 = 3;

    /// A sender of the event with this code (see [`event_of`]), whose durations are counted at
    /// `clock_rate`: 8,000, or 48,000 beside Opus (RFC 4733 section 2.1).
    pub fn new(event: u8, clock_rate: u32) -> Self {
        let slot_ticks = u16::try_from(clock_rate / 50).unwrap_or(u16::MAX / Self::TONE_SLOTS);
        Self {
            event,
            slot: 0,
            slot_ticks,
        }
    }

    /// The packet of the next slot, if there is one in it.
    pub fn next_slot(&mut self) -> Option<DigitPacket> {
        let slot = self.slot;
        self.slot += 1;
        if slot >= Self::TONE_SLOTS + Self::END_SLOTS {
            return None;
        }
        Some(DigitPacket {
            first: slot == 0,
            event: TelephoneEvent {
                event: self.event,
                end: slot >= Self::TONE_SLOTS,
                duration: (slot + 1).min(Self::TONE_SLOTS) * self.slot_ticks,
            },
        })
    }

    /// Whether the pause after the digit is over too.
    pub fn is_done(&self) -> bool {
        self.slot >= Self::TONE_SLOTS + Self::END_SLOTS + Self::PAUSE_SLOTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The packets of one digit with their timestamp.
    fn digit(digit: char, timestamp: u32) -> Vec<(u32, [u8; 4])> {
        let mut sender = DigitSender::new(event_of(digit).unwrap(), 8_000);
        let mut packets = Vec::new();
        while !sender.is_done() {
            if let Some(packet) = sender.next_slot() {
                packets.push((timestamp, packet.event.to_bytes()));
            }
        }
        packets
    }

    fn heard(packets: &[(u32, [u8; 4])]) -> String {
        let mut receiver = DigitReceiver::default();
        packets
            .iter()
            .filter_map(|(timestamp, payload)| receiver.handle(*timestamp, payload))
            .collect()
    }

    #[test]
    fn a_digit_of_eight_packets_is_heard_once() {
        let packets = digit('5', 1_000);
        assert_eq!(packets.len(), 8);
        assert_eq!(packets.iter().filter(|(_, p)| p[1] & 0x80 != 0).count(), 3);
        assert_eq!(packets[7].1[2..], 800_u16.to_be_bytes());
        assert_eq!(heard(&packets), "5");
    }

    #[test]
    fn beside_opus_the_same_digit_is_counted_six_times_as_fast() {
        let mut sender = DigitSender::new(5, 48_000);
        let durations: Vec<_> = (0..8)
            .map(|_| sender.next_slot().unwrap().event.duration)
            .collect();
        assert_eq!(
            durations,
            [960, 1_920, 2_880, 3_840, 4_800, 4_800, 4_800, 4_800]
        );
    }

    #[test]
    fn the_same_digit_twice_is_two_digits() {
        assert_eq!(
            heard(&[digit('1', 1_000), digit('1', 2_760)].concat()),
            "11"
        );
    }

    #[test]
    fn a_digit_is_heard_when_only_its_last_packet_arrives() {
        assert_eq!(heard(&digit('#', 1_000)[7..]), "#");
    }

    #[test]
    fn late_packets_of_an_earlier_digit_are_no_new_digit() {
        let packets = [digit('1', 1_000), digit('2', 3_000), digit('1', 1_000)].concat();
        assert_eq!(heard(&packets), "12");
    }

    #[test]
    fn digits_across_the_timestamp_wrap_are_told_apart() {
        assert_eq!(
            heard(&[digit('7', u32::MAX - 100), digit('8', 1_500)].concat()),
            "78"
        );
    }

    #[test]
    fn a_key_held_for_ten_seconds_is_one_digit() {
        let mut packets = Vec::new();
        let mut start = 5_000_u32;
        for step in [160, 960] {
            packets.clear();
            for _ in 0..2 {
                let mut segment = TelephoneEvent {
                    event: 9,
                    end: false,
                    duration: 0,
                };
                while let Some(duration) = segment.duration.checked_add(step) {
                    segment.duration = duration;
                    packets.push((start, segment.to_bytes()));
                }
                start += u32::from(segment.duration);
            }
            assert_eq!(heard(&packets), "9", "{step}");
        }
    }

    #[test]
    fn tones_and_short_payloads_are_no_digits() {
        let mut receiver = DigitReceiver::default();
        assert_eq!(receiver.handle(0, &[36, 0, 0, 160]), None);
        assert_eq!(receiver.handle(9_000, &[1, 0, 0]), None);
        assert_eq!(receiver.handle(9_000, &[]), None);
    }

    #[test]
    fn all_digits_have_a_code() {
        for (code, digit) in DIGITS.iter().enumerate() {
            assert_eq!(event_of(*digit), u8::try_from(code).ok());
        }
        assert_eq!(event_of('a'), Some(12));
        assert_eq!(event_of('x'), None);
    }
}
