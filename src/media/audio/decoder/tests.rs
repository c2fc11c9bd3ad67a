use super::*;

use crate::media::audio::Encoder;
use crate::media::audio::Tone;
use crate::media::audio::tone_level;

/// Opus packets of 20 ms: 30 of a tone of 500 Hz, then one of 900 Hz.
fn packets(rate: u32, count: usize, fec: bool) -> Vec<Vec<u8>> {
    let mut encoder =
        opus_rs::OpusEncoder::new(rate as i32, 1, opus_rs::Application::Voip).unwrap();
    encoder.bitrate_bps = 32_000;
    encoder.use_inband_fec = fec;
    encoder.packet_loss_perc = if fec { 30 } else { 0 };
    let mut tone = Tone::at_rate(500.0, 0.5, rate);
    let mut other = Tone::at_rate(900.0, 0.5, rate);
    let mut frame = vec![0; rate as usize / 50];
    let packet = |nth| {
        let tone = if nth < 30 { &mut tone } else { &mut other };
        tone.fill(&mut frame);
        let mut packet = vec![0; 600];
        let len = encoder
            .encode_i16(&frame, frame.len(), &mut packet)
            .unwrap();
        packet.truncate(len);
        packet
    };
    (0..count).map(packet).collect()
}

#[test]
fn lost_packets_of_opus_go_on_for_a_moment_and_then_fade() {
    let mut decoder = Decoder::new(Codec::Opus, 8_000);
    let mut heard = Vec::new();
    for packet in packets(48_000, 20, false) {
        decoder.decode(&packet, &mut heard);
    }
    let mut gap = Vec::new();
    decoder.conceal(FRAME_TICKS, &mut gap);
    assert_eq!(gap.len(), 160);
    assert!(tone_level(&gap, 500.0) > 0.1);
    gap.clear();
    decoder.conceal(TICK_RATE + 7, &mut gap);
    assert_eq!(gap.len(), 8_001);
    assert!(gap[7_000..].iter().all(|sample| sample.abs() < 50));
    assert_eq!(decoder.defects(), 0);
}

#[test]
fn what_the_next_packet_repeats_is_better_than_a_guess() {
    // The lost packet is the first one of another tone.
    let packets = packets(16_000, 40, true);
    let heard = |fec: bool| {
        let mut decoder = Decoder::new(Codec::Opus, 16_000);
        let mut heard = Vec::new();
        for (n, packet) in packets.iter().enumerate() {
            match n {
                30 if fec => decoder.recover(&packets[31], FRAME_TICKS, &mut heard),
                30 => decoder.conceal(FRAME_TICKS, &mut heard),
                _ => decoder.decode(packet, &mut heard),
            }
        }
        assert_eq!(heard.len(), 40 * 320);
        tone_level(&heard[30 * 320..31 * 320], 450.0)
    };
    let (with, without) = (heard(true), heard(false));
    assert!(with > 0.1 && with > 5.0 * without, "{with} {without}");
}

#[test]
fn what_cannot_be_decoded_takes_its_time_and_is_counted() {
    let mut decoder = Decoder::new(Codec::Opus, 48_000);
    let mut heard = Vec::new();
    decoder.decode(&[], &mut heard);
    decoder.decode(&[0xFB, 0], &mut heard);
    assert_eq!((heard.len(), decoder.defects()), (0, 2));
    // 120 ms that say they are missing, before there was anything.
    decoder.decode(&[0xFB, 6], &mut heard);
    assert_eq!(heard, [0; 5_760]);
}

#[test]
fn stereo_is_mixed_down() {
    let mut encoder = opus_rs::OpusEncoder::new(48_000, 2, opus_rs::Application::Audio).unwrap();
    encoder.bitrate_bps = 64_000;
    let mut tone = Tone::at_rate(500.0, 0.5, 48_000);
    let mut decoder = Decoder::new(Codec::Opus, 8_000);
    let mut heard = Vec::new();
    for _ in 0..30 {
        let mut frame = [0; 960];
        tone.fill(&mut frame);
        let both: Vec<i16> = frame.iter().flat_map(|s| [*s, *s]).collect();
        let mut packet = [0; 1_000];
        let len = encoder.encode_i16(&both, 960, &mut packet).unwrap();
        decoder.decode(&packet[..len], &mut heard);
    }
    assert_eq!((heard.len(), decoder.defects()), (30 * 160, 0));
    let level = tone_level(&heard[1_600..], 500.0);
    assert!((level - 0.5).abs() < 0.1, "{level}");
}

/// Real packets with a few bytes changed, cut or made longer, and packets of nothing but chance.
#[test]
fn no_bytes_of_strangers_disturb_a_decoder() {
    let mut random = 0x2545_F491_u32;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random as usize % below
    };
    for rate in [8_000, 16_000, 48_000] {
        let good = [packets(rate, 20, true), packets(48_000, 20, false)].concat();
        let mut decoder = Decoder::new(Codec::Opus, rate);
        let mut heard = Vec::new();
        for round in 0..4_000 {
            heard.clear();
            let mut packet = good[next(good.len())].clone();
            match round % 4 {
                0 => packet = (0..1 + next(300)).map(|_| next(256) as u8).collect(),
                1 => packet.truncate(1 + next(packet.len())),
                2 => packet[0] = next(256) as u8,
                _ => {
                    for _ in 0..1 + next(8) {
                        let at = next(packet.len());
                        packet[at] = next(256) as u8;
                    }
                }
            }
            let ticks = Codec::Opus.duration(&packet);
            match next(8) {
                0 => decoder.recover(&packet, FRAME_TICKS, &mut heard),
                1 => decoder.conceal(next(20_000) as u32, &mut heard),
                _ => {
                    decoder.decode(&packet, &mut heard);
                    let samples = ticks.unwrap_or(0) / (TICK_RATE / rate);
                    assert_eq!(heard.len(), samples as usize);
                }
            }
        }
    }
}

#[test]
fn g722_takes_any_bytes() {
    for rate in [8_000, 16_000, 48_000] {
        let mut decoder = Decoder::new(Codec::G722, rate);
        let mut heard = Vec::new();
        for code in 0..=u8::MAX {
            decoder.decode(&[code; 160], &mut heard);
            decoder.decode(&[code, !code], &mut heard);
        }
        assert_eq!(heard.len(), 256 * 162 * rate as usize / 8_000);
    }
}

#[test]
fn a_codec_that_changes_keeps_the_time() {
    let mut heard = Vec::new();
    for codec in [Codec::Pcmu, Codec::Opus, Codec::G722, Codec::Pcma] {
        let (mut encoder, mut decoder) = (Encoder::new(codec), Decoder::new(codec, 48_000));
        let mut payload = Vec::new();
        encoder.encode(&[], &mut payload);
        decoder.decode(&payload, &mut heard);
    }
    assert_eq!(heard.len(), 4 * 960);
}
