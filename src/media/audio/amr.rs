//! AMR and AMR-WB in RTP (RFC 4867).

use codec_core::codecs::amr::AmrCodec;
use codec_core::codecs::amr::AmrFrameType;
use codec_core::codecs::amr::AmrPacket;
use codec_core::codecs::amr::AmrPayloadCodec;
use codec_core::codecs::amr::AmrPayloadConfig;
use codec_core::codecs::amr::AmrPayloadFrame;
use codec_core::codecs::amr::AmrVariant;
use codec_core::error::CodecError;
use codec_core::types::CodecConfig;
use codec_core::types::CodedFrame;
use codec_core::types::FrameKind;
use codec_core::types::VariableRateCodec;

use crate::media::audio::codec::FRAME_TICKS;

/// Which of the two codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Band {
    /// AMR: 8 kHz.
    Narrow,
    /// AMR-WB: 16 kHz.
    Wide,
}

/// How frames lie in a payload (`octet-align` of `a=fmtp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Bit after bit: the default (RFC 4867 section 4.3).
    BandwidthEfficient,
    /// In whole bytes (section 4.4).
    OctetAligned,
}

/// More frames than any `maxptime` in use.
const MAX_FRAMES: u32 = 12;

/// Nothing to decode, and no wish for another mode (section 4.3.2: frame type 15).
pub(super) const fn silence(packing: Packing) -> &'static [u8] {
    match packing {
        Packing::BandwidthEfficient => &[0xF7, 0xC0],
        Packing::OctetAligned => &[0xF0, 0x7C],
    }
}

/// How many ticks a payload lasts: 20 ms for each entry of its table of contents.
pub(super) fn duration(band: Band, packing: Packing, payload: &[u8]) -> Option<u32> {
    let mut reader = Bits::new(payload);
    reader.take(match packing {
        Packing::BandwidthEfficient => 4,
        Packing::OctetAligned => 8,
    })?;
    let mut frames = 0;
    let mut speech_bits = 0;
    loop {
        let entry = reader.take(6)?;
        if packing == Packing::OctetAligned {
            reader.take(2)?;
        }
        frames += 1;
        let bits = band.frame_bits(entry >> 1 & 0xF)?;
        speech_bits += match packing {
            Packing::BandwidthEfficient => bits,
            Packing::OctetAligned => bits.next_multiple_of(8),
        };
        if entry & 0x20 == 0 {
            break;
        }
        if frames == MAX_FRAMES {
            return None;
        }
    }
    (reader.left() >= speech_bits).then_some(frames * FRAME_TICKS)
}

impl Band {
    /// Bits of a frame by its type (3GPP TS 26.101 and 26.201, table 1a); `None` for those that
    /// nobody may send.
    const fn frame_bits(self, frame_type: u32) -> Option<usize> {
        const NARROW: [usize; 9] = [95, 103, 118, 134, 148, 159, 204, 244, 39];
        const WIDE: [usize; 10] = [132, 177, 253, 285, 317, 365, 397, 461, 477, 40];
        let types: &[usize] = match self {
            Self::Narrow => &NARROW,
            Self::Wide => &WIDE,
        };
        match frame_type as usize {
            // Lost and not sent.
            14 if matches!(self, Self::Wide) => Some(0),
            15 => Some(0),
            known if known < types.len() => Some(types[known]),
            _ => None,
        }
    }
}

impl Band {
    const fn variant(self) -> AmrVariant {
        match self {
            Self::Narrow => AmrVariant::NarrowBand,
            Self::Wide => AmrVariant::WideBand,
        }
    }

    /// The mode that is sent: 12.2 and 12.65 kbit/s, which every network carries.
    const fn mode(self) -> u8 {
        match self {
            Self::Narrow => 7,
            Self::Wide => 2,
        }
    }

    fn codec(self) -> AmrCodec {
        let config = match self {
            Self::Narrow => CodecConfig::amr_nb(),
            Self::Wide => CodecConfig::amr_wb(),
        };
        AmrCodec::new(&config).expect("the standard's own configuration is valid")
    }

    fn payloads(self, packing: Packing) -> AmrPayloadCodec {
        let config = match packing {
            Packing::BandwidthEfficient => AmrPayloadConfig::bandwidth_efficient(self.variant()),
            Packing::OctetAligned => AmrPayloadConfig::octet_aligned(self.variant()),
        };
        AmrPayloadCodec::new(config).expect("no option contradicts the packing")
    }
}

/// Decodes payloads of one stream.
pub(super) struct Decoder {
    codec: AmrCodec,
    payloads: AmrPayloadCodec,
    /// Whether every two samples become one: enough to hear who speaks.
    halve: bool,
}

impl Decoder {
    /// A decoder to `rate`: the band's own, or half of it.
    pub(super) fn new(band: Band, packing: Packing, rate: u32) -> Self {
        Self {
            codec: band.codec(),
            payloads: band.payloads(packing),
            halve: band == Band::Wide && rate == 8_000,
        }
    }

    pub(super) fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) -> Result<(), CodecError> {
        for frame in self.payloads.unpack(payload)?.frames {
            let (kind, mode) = match frame.frame_type {
                AmrFrameType::Speech(mode) => (FrameKind::Speech, mode.index()),
                AmrFrameType::Sid(_) => (FrameKind::ComfortNoise, 0),
                AmrFrameType::NoData => (FrameKind::NoData, 0),
                AmrFrameType::SpeechLost => (FrameKind::Lost, 0),
            };
            let (quality_ok, data) = (frame.quality_ok, frame.data);
            self.frame(
                &CodedFrame {
                    kind,
                    mode,
                    quality_ok,
                    data,
                },
                out,
            )?;
        }
        Ok(())
    }

    /// Invents frames for `ticks`.
    pub(super) fn conceal(&mut self, ticks: u32, out: &mut Vec<i16>) -> Result<(), CodecError> {
        let lost = CodedFrame {
            kind: FrameKind::Lost,
            mode: 0,
            quality_ok: false,
            data: Vec::new(),
        };
        for _ in 0..ticks / FRAME_TICKS {
            self.frame(&lost, out)?;
        }
        Ok(())
    }

    fn frame(&mut self, frame: &CodedFrame, out: &mut Vec<i16>) -> Result<(), CodecError> {
        let samples = self.codec.decode_frame(frame)?;
        if self.halve {
            let pairs = samples.as_chunks().0.iter();
            out.extend(pairs.map(|[a, b]| ((i32::from(*a) + i32::from(*b)) / 2) as i16));
        } else {
            out.extend(samples);
        }
        Ok(())
    }
}

/// Encodes the payloads of one stream, a frame in each.
pub(super) struct Encoder {
    band: Band,
    packing: Packing,
    codec: AmrCodec,
    payloads: AmrPayloadCodec,
}

impl Encoder {
    pub(super) fn new(band: Band, packing: Packing) -> Self {
        let mut codec = band.codec();
        codec
            .set_mode(band.mode())
            .expect("without a mode set every mode is allowed");
        Self {
            band,
            packing,
            codec,
            payloads: band.payloads(packing),
        }
    }

    /// Appends the payload of 20 ms at the band's rate.
    pub(super) fn encode(&mut self, samples: &[i16], out: &mut Vec<u8>) {
        match self.payload(samples) {
            Ok(payload) => out.extend(payload),
            Err(_) => out.extend(silence(self.packing)),
        }
    }

    fn payload(&mut self, samples: &[i16]) -> Result<Vec<u8>, CodecError> {
        let frame = self.codec.encode_frame(samples)?;
        let kind = AmrFrameType::from_index(self.band.variant(), frame.mode)?;
        let frame = AmrPayloadFrame::new(kind, true, frame.data)?;
        self.payloads.pack(&AmrPacket::single(frame))
    }
}

/// Reads a payload bit by bit.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for at in self.at..self.at + count {
            let byte = self.bytes.get(at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - at % 8) & 1);
        }
        self.at += count;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::media::audio::Codec;
    use crate::media::audio::Decoder;
    use crate::media::audio::Encoder;
    use crate::media::audio::Tone;
    use crate::media::audio::tone_level;

    const CODECS: [Codec; 4] = [
        Codec::Amr(Packing::BandwidthEfficient),
        Codec::Amr(Packing::OctetAligned),
        Codec::AmrWb(Packing::BandwidthEfficient),
        Codec::AmrWb(Packing::OctetAligned),
    ];

    fn payloads(codec: Codec) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::new(codec);
        let mut tone = Tone::at_rate(400.0, 0.3, encoder.rate());
        let mut frame = vec![0; encoder.frame_samples()];
        let payload = |_| {
            tone.fill(&mut frame);
            let mut payload = Vec::new();
            encoder.encode(&frame, &mut payload);
            payload
        };
        (0..30).map(payload).collect()
    }

    #[test]
    fn a_tone_survives_in_every_packing_and_at_every_rate() {
        for codec in CODECS {
            for rate in [8_000, 16_000, 48_000] {
                let (mut decoder, mut heard) = (Decoder::new(codec, rate), Vec::new());
                for payload in payloads(codec) {
                    assert_eq!(codec.duration(&payload), Some(FRAME_TICKS));
                    decoder.decode(&payload, &mut heard);
                }
                assert_eq!(heard.len() as u32, 30 * rate / 50);
                assert_eq!(decoder.defects(), 0);
                let level = tone_level(&heard[heard.len() / 2..], 400.0 * 8e3 / f64::from(rate));
                assert!((0.15..0.45).contains(&level), "{codec:?} {rate}: {level}");
            }
        }
    }

    #[test]
    fn silence_lost_packets_and_any_bytes_take_their_time() {
        for codec in CODECS {
            let good = payloads(codec);
            let (mut decoder, mut heard) = (Decoder::new(codec, 8_000), Vec::new());
            decoder.decode(codec.silence(), &mut heard);
            decoder.conceal(FRAME_TICKS, &mut heard);
            assert_eq!((heard.len(), decoder.defects()), (320, 0), "{codec:?}");
            let mut random = 99_u32;
            for round in 0..3_000 {
                let mut payload = good[round % good.len()].clone();
                for _ in 0..1 + round % 3 {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let at = (random >> 8) as usize % payload.len();
                    payload[at] = (random >> 24) as u8;
                }
                payload.truncate(payload.len() - round % 5);
                let ticks = codec.duration(&payload).unwrap_or(0);
                heard.clear();
                decoder.decode(&payload, &mut heard);
                assert_eq!(heard.len() as u32, ticks / 6);
            }
        }
    }

    #[test]
    fn payloads_that_break_the_rules_have_no_duration() {
        let duration = |payload: &[u8]| duration(Band::Narrow, Packing::OctetAligned, payload);
        assert_eq!(duration(&[]), None);
        assert_eq!(duration(&[0xF0]), None);
        assert_eq!(duration(&[0xF0, 0x3C]), None, "a frame that is not there");
        assert_eq!(duration(&[0xF0, 0x4C]), None, "a reserved type");
        assert_eq!(duration(&[0xF0, 0xFC]), None, "a table without end");
        assert_eq!(duration(&[0xF0, 0xFC, 0x7C]), Some(2 * FRAME_TICKS));
    }
}
